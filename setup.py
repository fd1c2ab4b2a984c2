"""The four top-level folders install as stepladder.*: every folder below them with an __init__.py
is a package.
"""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
FOLDERS = ("configs", "model", "train", "analysis")


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
        package_data={"stepladder.analysis.report.templates": ["*.j2"]},
    )
