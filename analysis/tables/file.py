"""One file of anyone's runs to a raw table.

The extension says the format, and nothing is repaired on the way.
"""

import csv
import gzip
import io
import json
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from stepladder.configs.core.errors import UserError

_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    RecursionError,
    zlib.error,
    csv.Error,
    pd.errors.ParserWarning,
)


def _delimited(separator: str) -> Callable[[bytes], pd.DataFrame]:
    def read(body: bytes) -> pd.DataFrame:
        text = body.decode("utf-8-sig")
        # pandas would rename a repeated name, and shift or cut rows longer than the header: both
        # are mistakes of the file.
        header = next(csv.reader(io.StringIO(text), delimiter=separator), [])
        _refuse_repeated(header)
        if len(header) == 1 and (other := next((c for c in ";\t,|" if c in header[0]), "")):
            raise ValueError(
                f"one column called {header[0]!r}: separated by {other!r}, not {separator!r}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Blank lines are no rows: a row's number counts the lines that hold something.
            return pd.read_csv(io.StringIO(text), sep=separator, index_col=False, low_memory=False)

    return read


def _parquet(body: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(body))


def _json(body: bytes) -> pd.DataFrame:
    content = json.loads(body.decode("utf-8-sig"))
    if isinstance(content, dict) and not any(isinstance(v, (list, dict)) for v in content.values()):
        content = [content]  # one row
    if isinstance(content, list) and not all(isinstance(row, dict) for row in content):
        raise ValueError("a list must hold one object a row")
    if not isinstance(content, (list, dict)):
        raise ValueError("neither a list of objects nor an object of columns")
    return pd.DataFrame(content)


def _json_lines(body: bytes) -> pd.DataFrame:
    rows = []
    # not by splitlines: a string may hold U+2028, which is no end of a line in JSON
    for number, line in enumerate(body.decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number}: not an object")
        rows.append(row)
    return pd.DataFrame(rows)


READERS: dict[str, Callable[[bytes], pd.DataFrame]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": _parquet,
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}


def extension(path: str | Path) -> str:
    """The extension that says the format, without .gz; "" when it is unknown."""
    suffix = Path(str(path).lower().removesuffix(".gz")).suffix
    return suffix if suffix in READERS else ""


def read_file(path: str | Path | pd.DataFrame) -> pd.DataFrame:
    """The raw table; a DataFrame is one already (attrs["source"]: its name).

    Raises UserError for a missing, unreadable or empty file, an unknown extension, or a column name
    given twice.
    """
    if isinstance(path, pd.DataFrame):
        return refuse_empty(path, str(path.attrs.get("source", "the DataFrame")))
    known = ", ".join((*READERS, ".gz of each"))
    if "://" in str(path):
        raise UserError(f"source={str(path)!r}: not a file on this machine; download it first")
    if not Path(path).exists():
        raise UserError(f"source={str(path)!r}: does not exist; give a {known} file or a workdir")
    if not extension(path):
        raise UserError(
            f"source={str(path)!r}: unknown extension {Path(path).suffix!r}; use one of {known}, "
            "or a workdir"
        )
    try:
        body = Path(path).read_bytes()
        table = READERS[extension(path)](
            gzip.decompress(body) if str(path).lower().endswith(".gz") else body
        )
    except ImportError:
        raise UserError(
            f"source={str(path)!r}: reading Parquet needs pyarrow; pip install pyarrow, or save "
            "the table as CSV"
        ) from None
    except _UNREADABLE as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"source={str(path)!r}: unreadable as {extension(path)} ({said}); mend the file or its "
            "extension"
        ) from None
    return refuse_empty(table, str(path))


def refuse_empty(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """`table` itself. Raises UserError when it has no rows or gives a column name twice."""
    try:
        _refuse_repeated(list(map(str, table.columns)))
    except ValueError as error:
        raise UserError(f"source={source!r}: {error}") from None
    if not len(table):
        raise UserError(f"source={source!r}: no rows; give a table with a row a run")
    return table


def _refuse_repeated(names: list[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1 and name.strip()]
    if repeated:
        raise ValueError(
            f"column {repeated[0]!r} appears {names.count(repeated[0])} times; rename one of them"
        )
