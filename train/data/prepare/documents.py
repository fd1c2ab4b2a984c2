"""Documents of a user's own files: text, JSON lines and Parquet, streamed."""

import glob
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stepladder.configs.core.errors import UserError, nearest

# a longer text file is cut at line ends: memory stays bounded; the pieces share a group, so never a
# split
PIECE_BYTES = 1 << 20
CODE_SUFFIXES = frozenset(
    (
        ".py .pyx .pxd .c .h .cc .cpp .hpp .cu .rs .go .java .js .ts .rb .jl .scala .kt .swift "
        ".r .m .sh"
    ).split()
)


@dataclass(frozen=True, slots=True)
class Document:
    """One text.

    Documents of one `group` (a file, a package) are never divided between training and validation.
    """

    text: str
    group: str
    name: str


def expand(domain: str, pattern: str) -> list[Path]:
    """The files a source names, sorted: a file, a folder (all its readable files) or a glob.

    A variable of the environment in it, `$NAME`, stands for its value: the spec, and so the id of a
    run, is then the same wherever the files are. Raises UserError when there are none.
    """
    path = Path(os.path.expandvars(pattern)).expanduser()
    if unset := re.search(r"\$\w+", str(path)):
        raise UserError(
            f"sources.{domain}={pattern}: {unset[0][1:]} is not set; set it to the folder of the "
            "files"
        )
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and _reader(p) is not None)
    else:
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if not found:
        raise UserError(
            f"sources.{domain}={pattern}: no such file, or no file matches; check the path "
            f"(readable: {', '.join(READERS)})"
        )
    return found


def read(domain: str, paths: list[Path]) -> Iterator[Document]:
    """Every document of the files, in order.

    A text file is one document, grouped by itself, or by its folder when it is code and there are
    several folders; a row of JSON lines or Parquet is a document and a group of its own. Raises
    UserError naming the file and the place of whatever cannot be read.
    """
    by_folder = len({p.parent for p in paths if p.suffix in CODE_SUFFIXES}) > 1
    for path in paths:
        reader = _reader(path)
        if reader is None:
            suffix = nearest("".join(path.suffixes[-2:]), READERS)
            raise UserError(f"sources.{domain}={path}: no reader for this suffix; {suffix}")
        try:
            if path.stat().st_size == 0:
                raise UserError(
                    f"sources.{domain}={path}: the file is empty; remove it from the sources"
                )
            group = str(path.parent) if by_folder and path.suffix in CODE_SUFFIXES else str(path)
            yield from (
                Document(text, group if whole else name, name) for text, name, whole in reader(path)
            )
        except BadFileError as e:
            raise UserError(f"sources.{domain}={path}: {e}") from e
        except (EOFError, gzip.BadGzipFile, zlib.error) as e:
            raise UserError(
                f"sources.{domain}={path}: truncated or damaged ({e}); fetch or compress it again"
            ) from e
        except OSError as e:
            raise UserError(
                f"sources.{domain}={path}: cannot be read ({e.strerror or e}); check the path and "
                "its permissions"
            ) from e


_LONE = re.compile("[\ud800-\udfff]")


class BadFileError(Exception):
    """What is wrong with a file and how to mend it; `read` adds the file's name."""


def _text(path: Path) -> Iterator[tuple[str, str, bool]]:
    with path.open("rb") as file:
        start, number = 0, 0
        while piece := file.read(PIECE_BYTES):
            if len(piece) == PIECE_BYTES:
                piece += _rest_of_line(file)
            yield _decode(piece, f"byte {start:,}+"), f"{path}#{number}", True
            start, number = start + len(piece), number + 1


def _rest_of_line(file: BinaryIO) -> bytes:
    """What is left of the current line.

    A line longer than 16 pieces (binary, one-line dumps) is refused rather than held in memory.
    """
    rest = file.readline(16 * PIECE_BYTES)
    if len(rest) == 16 * PIECE_BYTES:
        raise BadFileError(
            f"a line longer than {16 * PIECE_BYTES >> 20} MB; break it into lines, or use JSON "
            "lines"
        )
    return rest


def _open_gzip(path: Path) -> BinaryIO:
    return io.BufferedReader(gzip.open(path, "rb"), 1 << 20)


def _open_zstd(path: Path) -> BinaryIO:
    import zstandard

    return io.BufferedReader(_WholeZstd(path, zstandard), 1 << 20)


class _WholeZstd(io.RawIOBase):
    """A zstd stream that complains when the file ends in the middle of a frame.

    The library's own reader does not.
    """

    def __init__(self, path: Path, zstandard) -> None:
        self._file = path.open("rb")
        self._error = zstandard.ZstdError
        self._new = lambda: zstandard.ZstdDecompressor().decompressobj()
        self._frame, self._begun, self._left = self._new(), False, b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            data = self._left or self._file.read(1 << 18)
            if not data:
                if self._begun:
                    raise BadFileError(
                        "truncated: the zstd frame is not complete; fetch or compress it again"
                    )
                return 0
            try:
                self._ready = memoryview(self._frame.decompress(data))
            except self._error as e:
                raise BadFileError(
                    f"damaged or no zstd file ({e}); fetch or compress it again"
                ) from e
            self._begun, self._left = True, b""
            if self._frame.eof:
                self._left, self._frame, self._begun = self._frame.unused_data, self._new(), False
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def close(self) -> None:
        self._file.close()
        super().close()


def _jsonl(opener: Callable[[Path], BinaryIO]) -> Callable[[Path], Iterator[tuple[str, str, bool]]]:
    def reader(path: Path) -> Iterator[tuple[str, str, bool]]:
        with opener(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(_decode(line, f"line {number}, byte "))
                except json.JSONDecodeError as e:
                    cut = (
                        ""
                        if line.endswith(b"\n")
                        else "; the last line has no end: the file may be truncated"
                    )
                    raise BadFileError(
                        f"line {number} is no JSON ({e.msg} at column {e.colno}){cut}; mend or "
                        "remove the line"
                    ) from e
                text = row.get("text") if isinstance(row, dict) else None
                if not isinstance(text, str):
                    have = ", ".join(list(row)[:8]) if isinstance(row, dict) else type(row).__name__
                    raise BadFileError(
                        f"line {number} has no string field 'text' (it has: {have}); rename the "
                        "field"
                    )
                if not text.isascii() and _LONE.search(text):
                    raise BadFileError(
                        f"line {number} holds half a surrogate pair, which UTF-8 cannot write; "
                        "mend or remove the line"
                    )
                yield text, f"{path}:{number}", False

    return reader


def _parquet(path: Path) -> Iterator[tuple[str, str, bool]]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise BadFileError(
                    f"no column 'text' (it has: {', '.join(names[:8])}); rename the column"
                )
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=["text"]):
                # casting validates UTF-8, also of a binary column
                for text in batch.column(0).cast(pyarrow.large_string()).to_pylist():
                    if text is not None:
                        yield text, f"{path}:{number}", False
                    number += 1
    except (pyarrow.ArrowException, UnicodeDecodeError) as e:
        raise BadFileError(
            f"truncated, damaged or no Parquet file with text ({str(e).splitlines()[0]}); fetch or "
            "write it again"
        ) from e


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        what = f"invalid UTF-8 at {where}{e.start:,} ({e.reason}: 0x{data[e.start]:02x})"
        raise BadFileError(f"{what}; convert it, e.g. `iconv -f latin1 -t utf-8`") from e


_TEXT = ".txt .text .md .rst .tex .html .xml .csv .tsv .yaml .yml .toml .cfg .ini".split()
READERS: dict[str, Callable[[Path], Iterator[tuple[str, str, bool]]]] = {
    ".jsonl": _jsonl(lambda path: path.open("rb")),
    ".jsonl.gz": _jsonl(_open_gzip),
    ".jsonl.zst": _jsonl(_open_zstd),
    ".parquet": _parquet,
    **{suffix: _text for suffix in (*_TEXT, *sorted(CODE_SUFFIXES))},
}


def _reader(path: Path) -> Callable[[Path], Iterator[tuple[str, str, bool]]] | None:
    suffixes = path.suffixes
    return READERS.get("".join(suffixes[-2:])) or READERS.get(path.suffix)
