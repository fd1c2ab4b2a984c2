"""Examples of one's own: JSON lines with the fields prompt and completion."""

import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from stepladder.configs.core.errors import UserError, nearest
from stepladder.train.data.tasks.examples import Example, Found

SUFFIXES = (".jsonl", ".jsonl.gz")
_FIELDS = Example._fields
_SHOWN = 5  # bad rows in a message
_LONE = re.compile("[\ud800-\udfff]")  # half a surrogate pair: no text


def load(pattern: str) -> Found:
    """The examples of the files that `pattern` names, a file or a glob, in the order of their
    names. `$NAME` in it stands for a variable of the environment.

    Fields other than prompt and completion are not read. Raises UserError naming the file and the
    line numbers of rows that cannot be used.
    """
    field = f"task.source=jsonl:{pattern}"
    examples, bad, paths = [], [], _files(pattern, field)
    for path in paths:
        for number, row in objects(path, field):
            wrong = row if isinstance(row, str) else _what_is_wrong(row)
            if wrong or isinstance(row, str):
                bad.append(f"{path.name} line {number} {wrong}")
            else:
                examples.append(Example(*(row[name] for name in _FIELDS)))
    if bad:
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise UserError(
            f"{field}: {len(bad)} of {len(bad) + len(examples)} rows cannot be used: "
            f"{'; '.join(bad[:_SHOWN])}{more}; give every row the texts prompt and completion, "
            "or remove it"
        )
    if not examples:
        raise UserError(f"{field}: no rows in {len(paths)} file(s); give prompts with completions")
    return Found(examples)


def objects(path: Path, field: str) -> Iterator[tuple[int, dict | str]]:
    """(line number, its object, or what is wrong with it) of every line that is not blank.

    Raises UserError, with `field` at its start, for a file that cannot be read.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parse(line.removeprefix(b"\xef\xbb\xbf"))
    except (EOFError, gzip.BadGzipFile, zlib.error) as e:
        raise UserError(f"{field}: {path} is truncated or damaged ({e}); write it again") from e
    except OSError as e:
        raise UserError(
            f"{field}: {path} cannot be read ({e.strerror or e}); check the path and its "
            "permissions"
        ) from e


def _files(pattern: str, field: str) -> list[Path]:
    path = Path(os.path.expandvars(pattern)).expanduser()
    if unset := re.search(r"\$\w+", str(path)):
        raise UserError(f"{field}: {unset[0][1:]} is not set; set it to the folder of the files")
    found = [path] if path.is_file() else [Path(p) for p in glob.glob(str(path), recursive=True)]
    found = sorted(p for p in found if p.is_file())
    if not found:
        raise UserError(f"{field}: no such file, and no file matches; check the path")
    for path in found:
        if not path.name.endswith(SUFFIXES):
            hint = nearest("".join(path.suffixes[-2:]), SUFFIXES)
            raise UserError(f"{field}: no reader for the suffix of {path.name}; {hint}")
    return found


def _parse(line: bytes) -> dict | str:
    """The object of a line, or what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        return f"is not UTF-8 (byte {e.start:,})"
    except json.JSONDecodeError as e:
        return f"is not JSON ({e.msg} at column {e.colno})"
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        return "is not JSON that can be read (nested too deeply, or a number too long)"
    return row if isinstance(row, dict) else f"is {_kind(row)}, not an object"


def _what_is_wrong(row: dict) -> str:
    """What keeps a row from being an example; "" for nothing."""
    for name in _FIELDS:
        value = row.get(name)
        if value is None or value == "":
            return f"has no {name}"
        if not isinstance(value, str):
            return f"has {_kind(value)} as {name}, not text"
        if _LONE.search(value):
            return f"has half a surrogate pair in its {name}, which is no text"
    return ""


def _kind(value: object) -> str:
    """The JSON type of a value, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")
