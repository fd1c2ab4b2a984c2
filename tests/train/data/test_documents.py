"""Readers of a user's files: every format gives the same texts; every kind of damage is one line
naming file, place and fix.
"""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from stepladder.configs.core.errors import UserError
from stepladder.train.data.prepare import documents
from tests.support.errors import assert_user_error

TEXTS = ["first text", "zweiter Text äöü", "第三\nmit Zeilen " * 50]
LINES = "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in TEXTS).encode()


def write_zst(path, data):
    compressor = zstandard.ZstdCompressor()
    half = len(data) // 2
    # two frames, as parallel compressors write
    path.write_bytes(compressor.compress(data[:half]) + compressor.compress(data[half:]))


def write_parquet(path, data):
    pq.write_table(
        pa.table(
            {"text": [json.loads(line)["text"] for line in data.splitlines()], "other": [1, 2, 3]}
        ),
        path,
    )


WRITERS = {
    ".jsonl": lambda p, d: p.write_bytes(d),
    ".jsonl.gz": lambda p, d: p.write_bytes(gzip.compress(d)),
    ".jsonl.zst": write_zst,
    ".parquet": write_parquet,
}


def read(path):
    return list(documents.read("web", documents.expand("web", str(path))))


def refused(path, *parts):
    with pytest.raises(UserError) as e:
        read(path)
    message = str(e.value)
    assert "\n" not in message and ";" in message and f"sources.web={path}" in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("suffix", WRITERS)
def test_round_trip(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f"x{suffix}", LINES)
    found = read(tmp_path / f"x{suffix}")
    assert [d.text for d in found] == TEXTS
    assert len({d.group for d in found}) == len(TEXTS)


@pytest.mark.parametrize("suffix", WRITERS)
def test_truncated(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    WRITERS[suffix](path, LINES)
    path.write_bytes(path.read_bytes()[:-9])
    refused(path, "truncated")


@pytest.mark.parametrize("suffix", [*WRITERS, ".txt"])
def test_empty(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"")
    refused(path, "empty")


def test_every_damage_of_a_gzip_file_is_said(tmp_path):
    """gzip and zlib raise different errors, by the byte that is damaged."""
    path, whole = tmp_path / "x.jsonl.gz", gzip.compress(b'{"text": "one of many lines"}\n' * 50)
    for position in range(10, len(whole) - 8):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        refused(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_not_of_that_format(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"plain text, really" * 20)
    refused(path, "damaged")


def test_invalid_utf8_says_where(tmp_path):
    text, lines = tmp_path / "x.txt", tmp_path / "x.jsonl"
    text.write_bytes(b"good " * 10 + b"\xff\xfe bad")
    refused(text, "invalid UTF-8", "byte 0+50", "0xff")
    lines.write_bytes(b'{"text": "a"}\n{"text": "\xe4"}\n')
    refused(lines, "invalid UTF-8", "line 2")


@pytest.mark.parametrize(
    "line, part",
    [
        (b'{"text": 3}', "no string field 'text'"),
        (b'{"body": "x"}', "it has: body"),
        (b"[1]", "list"),
        (b"{nope}", "line 2 is no JSON"),
        (b'{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_bad_json_line(tmp_path, line, part):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    refused(path, "line 2", part)


def test_parquet_without_text(tmp_path):
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "x.parquet")
    refused(tmp_path / "x.parquet", "no column 'text'", "content")


def test_missing_and_unknown(tmp_path):
    refused(tmp_path / "nothing*.txt", "no file matches")
    (tmp_path / "x.docx").write_bytes(b"x")
    refused(tmp_path / "x.docx", "no reader")


def test_unreadable(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("text")
    monkeypatch.setattr(
        type(tmp_path),
        "open",
        lambda *a, **k: (_ for _ in ()).throw(PermissionError(13, "Permission denied")),
    )
    refused(tmp_path / "x.txt", "Permission denied")


def test_long_text_comes_in_pieces_of_one_group(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PIECE_BYTES", 64)
    content = "".join(f"line {i} äöü\n" for i in range(50))
    (tmp_path / "x.txt").write_text(content, encoding="utf-8")
    found = read(tmp_path / "x.txt")
    assert len(found) > 5 and "".join(d.text for d in found) == content
    assert len({d.group for d in found}) == 1


def test_code_is_grouped_by_folder_and_a_folder_is_walked(tmp_path):
    for name in ("a/x.py", "a/y.py", "b/z.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("pass\n")
    assert [d.group for d in read(tmp_path)] == [
        str(tmp_path / "a"),
        str(tmp_path / "a"),
        str(tmp_path / "b"),
    ]
    assert len({d.group for d in read(tmp_path / "a")}) == 2  # one package only: by file


def test_a_source_may_stand_below_a_variable_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setenv("SOME_TEXT", str(tmp_path))
    assert documents.expand("d", "$SOME_TEXT/*.txt") == [tmp_path / "a.txt"]
    monkeypatch.delenv("SOME_TEXT")
    with pytest.raises(UserError) as raised:
        documents.expand("d", "$SOME_TEXT/*.txt")
    assert_user_error(raised, field="sources.d", value="$SOME_TEXT", remedy="set it")
