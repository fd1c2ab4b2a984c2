"""Install the four top-level folders, and every folder below them with an __init__.py, as
stepladder.* packages.
"""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
FOLDERS = ("configs", "model", "train", "analysis")
DATA = ["py.typed", "*.j2", "targets/*.textproto", "measured/*.json"]


def packages() -> dict[str, str]:
    """Package -> its folder, relative to this file's."""
    found = sorted(
        p.parent.relative_to(ROOT) for f in FOLDERS for p in (ROOT / f).rglob("__init__.py")
    )
    return {".".join(("stepladder", *folder.parts)): folder.as_posix() for folder in found}


if __name__ == "__main__":
    setup(
        packages=list(packages()),
        package_dir=packages(),
        package_data={name: DATA for name in packages()},
    )
