"""The default corpus: text that every installation already carries (wheels of our own dependencies,
and the standard library).

Nothing is downloaded and nothing imported: packages are located, their files read. Files are
visited in the order of a hash of their name, so that a cap takes a fixed random sample of a domain
and what the cap drops is never parsed.
"""

import fnmatch
import hashlib
import importlib.machinery
import importlib.metadata
import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepladder.configs.core.errors import UserError, nearest
from stepladder.train.data import arithmetic
from stepladder.train.data.prepare import source_text
from stepladder.train.data.prepare.documents import Document

STDLIB = "stdlib"  # stands for the standard library's folder in `Domain.packages`
TEXTS = "dist-info"  # stands for metadata and licence files of the distributions below

NUMERIC = ("numpy", "scipy", "pandas", "matplotlib", "mpl_toolkits")
JAX = tuple(
    (
        "jax jaxlib flax optax orbax grain ml_collections etils treescope tensorstore ml_dtypes "
        "opt_einsum"
    ).split()
)
DISTRIBUTIONS = tuple(
    (
        "absl-py array_record contourpy datasketch etils flax fonttools grain huggingface-hub jax "
        "jaxlib kiwisolver matplotlib ml-collections ml_dtypes msgpack numpy opt_einsum optax "
        "orbax-checkpoint packaging pandas pillow protobuf pyarrow pygments python-dateutil rich "
        "scipy tensorstore tokenizers treescope zstandard"
    ).split()
)
_PACKAGES_OF = {  # where the import name is another
    "fonttools": {"fontTools"},
    "matplotlib": {"matplotlib", "mpl_toolkits"},
    "ml-collections": {"ml_collections"},
    "orbax-checkpoint": {"orbax"},
    "protobuf": {"google"},
}
_TESTS = ("*/test/*", "*/tests/*", "*/testing/*", "*/test_*.py", "*_test.py", "*/conftest.py")
_GENERATED = (
    "*_gen.py",
    "*_pb2.py",
    "*/encodings/cp*.py",
    "*/encodings/iso*.py",
    "*/encodings/mac_*.py",
    "*/_builtins.py",
)
_SITE = (
    "*/site-packages/*",
    "*/dist-packages/*",
    "*/lib2to3/tests/data/*",
    "*/test/bad*",
    "*/__pycache__/*",
    "*/pydoc_data/*",
)
_LICENCE = ("*LICEN[SC]E*", "*COPYING*", "*NOTICE*", "*AUTHORS*")


@dataclass(frozen=True)
class Domain:
    """Where a domain's files are and how one becomes a text.

    `reader` is a key of source_text.READERS.
    """

    packages: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    reader: str


DOMAINS: dict[str, Domain] = {
    "python_numeric": Domain(NUMERIC, ("*.py",), _TESTS + _GENERATED, "code"),
    "python_numeric_tests": Domain(
        NUMERIC, tuple(p for p in _TESTS if "testing" not in p), ("*/data/*", "*_gen.py"), "code"
    ),
    "python_jax": Domain(JAX, ("*.py",), _TESTS + _GENERATED, "code"),
    "python_stdlib": Domain((STDLIB,), ("*.py",), _TESTS + _GENERATED + _SITE, "code"),
    "python_stdlib_tests": Domain((STDLIB,), ("*/test/*.py", "*/tests/*.py"), _SITE, "code"),
    "c_cpp": Domain(
        ("numpy", "scipy", "pyarrow", "jaxlib"), ("*.h", "*.hpp", "*.hh"), (), "package"
    ),
    "cython": Domain(
        ("numpy", "scipy", "pandas", "pyarrow"), ("*.pyx", "*.pxd", "*.pxi"), (), "package"
    ),
    "docstrings": Domain(NUMERIC + JAX, ("*.py",), _TESTS + _GENERATED, "docstrings"),
    "reference": Domain(
        (STDLIB, *NUMERIC, *JAX, TEXTS),
        ("*/pydoc_data/topics.py", "*.md", "*.rst", "*.txt", "*/METADATA"),
        (
            *_LICENCE,
            *(p for p in _SITE if "pydoc" not in p),
            "*/test*/*",
            "*/data/*",
            "*/top_level.txt",
            "*/entry_points.txt",
        ),
        "prose",
    ),
    "licences": Domain((STDLIB, TEXTS), _LICENCE, ("*.py", "*/test/*"), "plain"),
    "tables": Domain(
        ("numpy", "scipy", "matplotlib", "pandas"), ("*.csv", "*.json", "*.afm"), (), "plain"
    ),
    "generated": Domain(
        (STDLIB, "jaxlib", "google", "pygments", "fontTools", "grain"),
        (
            *_GENERATED,
            "*/fontTools/unicodedata/*.py",
            "*/fontTools/agl.py",
            "*/pygments/lexers/_*.py",
            "*/pygments/unistring.py",
        ),
        ("*/site-packages/*/test*/*",),
        "plain",
    ),
}
PROCEDURAL = {"arithmetic": arithmetic.documents}
NAMES = (*DOMAINS, *PROCEDURAL)

_MIN_BYTES = 50_000  # a domain with less text than this on the installation counts as absent


def available(names: tuple[str, ...] = ()) -> list[str]:
    """Domains to prepare: those named, or all that this installation carries.

    Raises UserError for a name unknown or absent.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"domains={name}: no such domain of the embedded corpus; {nearest(name, NAMES)}"
            )
        if name in DOMAINS and not _present(name):
            raise UserError(
                f"domains={name}: this installation carries no such text (some systems leave it "
                f"out); choose among {', '.join(available())}"
            )
    return list(names) or [name for name in NAMES if name in PROCEDURAL or _present(name)]


def read(name: str, cap_bytes: float, seed: int) -> Iterator[Document]:
    """Documents of a domain, its files in the order of a hash of seed and name.

    The reader may stop after `cap_bytes` of text: that is then a random sample.
    """
    if name in PROCEDURAL:
        yield from PROCEDURAL[name](cap_bytes, seed)
        return

    def key(item):
        return hashlib.blake2b(f"{seed}:{item[0]}".encode(), digest_size=8).digest()

    for label, path in sorted(_files(name), key=key):
        yield from source_text.READERS[DOMAINS[name].reader](label, path)


def versions(names: list[str]) -> dict[str, str]:
    """Versions of what the domains are read from: {"python": ..., "numpy": ...}."""
    packages = {p for name in names if name in DOMAINS for p in DOMAINS[name].packages}
    found = {"python": platform.python_version()} if STDLIB in packages else {}
    for distribution in DISTRIBUTIONS:
        if TEXTS in packages or packages & _PACKAGES_OF.get(distribution, {distribution}):
            try:
                found[distribution] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue  # not every distribution is needed on every system
    return found


def _present(name: str) -> bool:
    total = 0
    for _, path in _files(name):
        total += path.stat().st_size
        if total >= _MIN_BYTES:
            return True
    return False


def _files(name: str) -> Iterator[tuple[str, Path]]:
    """(label, path) of the domain's files.

    Labels begin with the package and never name this machine's folders.
    """
    domain = DOMAINS[name]
    for package in domain.packages:
        for label, path in _distribution_files() if package == TEXTS else _package_files(package):
            full = f"/{label}"
            if any(fnmatch.fnmatchcase(full, p) for p in domain.include) and not any(
                fnmatch.fnmatchcase(full, p) for p in domain.exclude
            ):
                yield label, path


def _package_files(package: str) -> Iterator[tuple[str, Path]]:
    for root in _roots(package):
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(
                f for f in folders if f not in ("__pycache__", "site-packages", "dist-packages")
            )
            for file in sorted(files):
                yield (
                    f"{package}/{Path(folder, file).relative_to(root).as_posix()}",
                    Path(folder, file),
                )


def _roots(package: str) -> list[Path]:
    if package == STDLIB:
        return [Path(sysconfig.get_path("stdlib"))]
    spec = importlib.machinery.PathFinder.find_spec(package)  # finds, never imports
    return [Path(p) for p in spec.submodule_search_locations or ()] if spec else []


def _distribution_files() -> Iterator[tuple[str, Path]]:
    for name in DISTRIBUTIONS:
        try:
            files = importlib.metadata.distribution(name).files or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in sorted(files, key=str):
            parts = file.parts
            if parts and parts[0].endswith(".dist-info"):
                yield "/".join((name, *parts[1:])), Path(file.locate())
