"""Preparation: idempotent, identical after a kill, refusing what it must, exact about what it
dropped.
"""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import CorpusSpec
from stepladder.train.cli import parser
from stepladder.train.cli.prepare import corpus_of
from stepladder.train.data.prepare import documents, lock, split
from stepladder.train.data.prepare import prepare as stages
from stepladder.train.data.prepare.prepare import prepare
from stepladder.train.data.read.store import Store

EMBEDDED = CorpusSpec(
    "embedded",
    (),
    ("python_jax", "docstrings", "c_cpp", "arithmetic"),
    "bytes",
    0.2,
    0.1,
    (),
    "minhash",
    0,
)


def text(seed, words=120):
    rng = random.Random(seed)
    return (
        " ".join(
            "".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 8))) for _ in range(words)
        )
        + "\n"
    )


def jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return path


def spec(sources, **changes):
    fields = {
        "name": "files",
        "sources": tuple((d, str(p)) for d, p in sources.items()),
        "domains": (),
        "tokenizer": "bytes",
        "max_mb_per_domain": 0.0,
        "validation_fraction": 0.2,
        "filters": (),
        "dedup": "minhash",
        "seed": 0,
    }
    return CorpusSpec(**{**fields, **changes})


@pytest.fixture
def two(tmp_path):
    return {
        name: jsonl(tmp_path / f"{name}.jsonl", [text(100 * k + i) for i in range(30)])
        for k, name in enumerate(("one", "two"))
    }


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def refused(corpus, out, *parts):
    with pytest.raises(UserError) as e:
        prepare(corpus, out, show=False)
    message = str(e.value)
    assert "\n" not in message and ";" in message, message
    for part in parts:
        assert part in message, message


def texts_of(store, domain, split):
    tokens, ends = store.tokens(domain, split), store.index(domain, split)[:, 0]
    return [store.tokenizer().decode(tokens[a:b]) for a, b in zip([0, *ends[:-1]], ends)]


def test_every_document_is_on_one_side_once(two, tmp_path):
    store = prepare(spec(two), tmp_path / "s", show=False)
    for k, name in enumerate(two):
        train, validation = texts_of(store, name, "train"), texts_of(store, name, "validation")
        assert sorted(train + validation) == sorted(text(100 * k + i) for i in range(30))
        entry = store.manifest["domains"][name]
        assert (
            entry["train"]["bytes"] == sum(map(len, train))
            and entry["validation"]["documents"] == len(validation) > 0
        )
        assert entry["dropped"] == {} and entry["overlap"] == 0


def test_duplicates_across_domains_and_sides_are_dropped_and_counted(tmp_path):
    base = [text(i) for i in range(40)]
    near = [t[:-9] + "other\n" for t in base[:5]]
    sources = {
        "a": jsonl(tmp_path / "a.jsonl", base),
        "b": jsonl(tmp_path / "b.jsonl", base[10:20] + near + [text(99 + i) for i in range(20)]),
    }
    store = prepare(spec(sources), tmp_path / "s", show=False)
    assert store.manifest["domains"]["b"]["dropped"] == {"exact_duplicate": 10, "near_duplicate": 5}
    assert len(texts_of(store, "b", "train")) + len(texts_of(store, "b", "validation")) == 20
    plain = prepare(spec(sources, dedup="exact"), tmp_path / "t", show=False)
    assert plain.manifest["domains"]["b"]["dropped"]["exact_duplicate"] == 10


def test_filters_and_cap_are_counted(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", [text(i) for i in range(50)] + ["too short"] * 3)
    store = prepare(
        spec({"a": source}, filters=("min_length",), max_mb_per_domain=0.015),
        tmp_path / "s",
        show=False,
    )
    entry = store.manifest["domains"]["a"]
    assert entry["dropped"]["min_length"] == 3 and entry["dropped"]["capped"] > 10
    assert 0.01e6 < entry["train"]["bytes"] + entry["validation"]["bytes"] <= 0.015e6


def test_embedded_store_has_low_overlap_and_names_its_versions(tmp_path):
    store = prepare(EMBEDDED, tmp_path / "s", show=False)
    assert store.domains and set(store.domains) == set(EMBEDDED.domains)
    for name, entry in store.manifest["domains"].items():
        assert entry["overlap"] < split.MAX_OVERLAP, name
    overlaps = [entry["overlap"] for entry in store.manifest["domains"].values()]
    assert sum(overlaps) / len(overlaps) < 0.1
    assert {"jax", "flax"} <= set(store.manifest["versions"])


def test_repeated_it_rewrites_nothing(two, tmp_path):
    first = prepare(spec(two), tmp_path / "s", show=False)
    before = {
        p: (p.stat().st_mtime_ns, p.stat().st_ino)
        for p in (tmp_path / "s").iterdir()
        if p.name not in lock.FILES
    }
    second = prepare(spec(two), tmp_path / "s", show=False)
    assert second.fingerprint == first.fingerprint
    assert {
        p: (p.stat().st_mtime_ns, p.stat().st_ino)
        for p in (tmp_path / "s").iterdir()
        if p.name not in lock.FILES
    } == before
    for path in two.values():
        path.unlink()  # the store no longer needs its sources
    assert prepare(spec(two), tmp_path / "s", show=False).fingerprint == first.fingerprint


def test_bpe_store(two, tmp_path):
    store = prepare(spec(two, tokenizer="bpe:300"), tmp_path / "s", show=False)
    tokenizer = Store.open(tmp_path / "s", "bpe:300").tokenizer()
    assert store.vocab_size == 300 and tokenizer.token_bytes.sum() > 256
    entry = store.manifest["domains"]["one"]["train"]
    assert entry["bytes"] == tokenizer.token_bytes[store.tokens("one", "train")].sum()


SCRIPT = """
import json, sys
from stepladder.configs.core.spec import CorpusSpec
from stepladder.train.data.prepare.prepare import prepare
body = json.loads(sys.argv[1])
for k in ("domains", "filters"): body[k] = tuple(body[k])
body["sources"] = tuple(map(tuple, body["sources"]))
print("start", flush=True)
prepare(CorpusSpec(**body), sys.argv[2], show=False)
"""
STAGES = ("plan.json", "c_cpp.json", "select.npz", "docstrings.encoded")


def test_killed_anywhere_and_repeated_gives_identical_bytes(tmp_path):
    from stepladder.configs.core.spec import to_dict

    prepare(EMBEDDED, tmp_path / "whole", show=False)
    out = tmp_path / "killed"
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    rng, kills = random.Random(seed), 0
    for stage in STAGES:  # just after a stage was committed, plus a random moment
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(to_dict(EMBEDDED)), str(out)],
            stdout=subprocess.PIPE,
        )
        deadline = time.monotonic() + 60
        while (
            process.poll() is None
            and not (out / ".work" / stage).exists()
            and time.monotonic() < deadline
        ):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
        if (out / "manifest.json").exists():
            break
        with pytest.raises(UserError, match="incomplete"):
            Store.open(out)
    assert kills >= 2
    prepare(EMBEDDED, out, show=False)
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("stage", ["_select", "_encode", "write_manifest"])
def test_a_full_disk_is_one_line_and_the_same_command_continues(two, tmp_path, monkeypatch, stage):
    def full(*a, **k):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(stages, stage, full)
        refused(
            spec(two),
            tmp_path / "s",
            f"out={tmp_path / 's'}",
            "no space left",
            "the same command continues",
        )
    reads = []
    monkeypatch.setattr(documents, "read", lambda *a: reads.append(a))
    prepare(spec(two), tmp_path / "s", show=False)  # nothing is read again
    assert reads == []


def test_another_spec_or_changed_sources_are_refused(two, tmp_path):
    prepare(spec(two), tmp_path / "s", show=False)
    refused(spec(two, seed=1), tmp_path / "s", "seed=1", "seed=0")
    refused(spec(two, tokenizer="bpe:300"), tmp_path / "s", "tokenizer=bpe:300", "tokenizer=bytes")
    jsonl(two["one"], [text(i) for i in range(9)])
    refused(spec(two), tmp_path / "s", "sources.one=", "changed since")


def test_a_new_file_of_a_glob_is_noticed(tmp_path):
    (tmp_path / "in").mkdir()
    jsonl(tmp_path / "in" / "a.jsonl", [text(i) for i in range(9)])
    corpus = spec({"web": tmp_path / "in" / "*.jsonl"})
    prepare(corpus, tmp_path / "s", show=False)
    jsonl(tmp_path / "in" / "b.jsonl", [text(i) for i in range(20, 29)])
    refused(corpus, tmp_path / "s", "b.jsonl", "new since")


def test_sources_changed_while_interrupted_start_anew(two, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(
            stages, "_encode", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
        )
        refused(spec(two), tmp_path / "s", "no space")
        refused(spec(two, seed=3), tmp_path / "s", "seed=3")
    jsonl(two["one"], [text(500 + i) for i in range(9)])
    store = prepare(spec(two), tmp_path / "s", show=False)
    assert (
        store.manifest["domains"]["one"]["train"]["documents"]
        + store.manifest["domains"]["one"]["validation"]["documents"]
        == 9
    )


@pytest.mark.parametrize(
    "change, part",
    [
        ({"filters": ("lower",)}, "filters=lower: "),
        ({"dedup": "fuzzy"}, "dedup=fuzzy: "),
        ({"tokenizer": "gpt"}, "tokenizer=gpt: "),
        ({"validation_fraction": 0.0}, "validation_fraction=0.0: "),
        ({"max_mb_per_domain": -1.0}, "max_mb_per_domain=-1.0: "),
        ({"domains": ("ones",)}, "did you mean 'one'"),
        ({"seed": -1}, "seed=-1: "),
        ({"filters": ("mostly_letters", "min_length")}, None),
    ],
)
def test_bad_fields(two, tmp_path, change, part):
    if part:
        refused(spec(two, **change), tmp_path / "s", part)
        assert not (tmp_path / "s" / "manifest.json").exists()
    else:
        prepare(spec(two, **change), tmp_path / "s", show=False)


def test_missing_empty_and_filtered_corpora(tmp_path):
    refused(spec({"web": tmp_path / "none.txt"}), tmp_path / "s", "sources.web=", "none.txt")
    (tmp_path / "e.txt").write_bytes(b"")
    refused(spec({"web": tmp_path / "e.txt"}), tmp_path / "s2", "empty")
    (tmp_path / "blank.txt").write_bytes(b" \n \n")
    refused(spec({"web": tmp_path / "blank.txt"}), tmp_path / "s3", "no text is left")
    refused(spec({"a/b": tmp_path / "e.txt"}), tmp_path / "s4", "rename it")
    (tmp_path / "one.txt").write_text(text(1))
    refused(spec({"web": tmp_path / "one.txt"}), tmp_path / "s5", "two are needed")


def test_out_that_cannot_be(two, tmp_path):
    (tmp_path / "file").write_text("x")
    refused(spec(two), tmp_path / "file", f"out={tmp_path / 'file'}", "a file stands")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    refused(spec(two), tmp_path / "other", "other files")
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_unwritable_out(two, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Path,
        "mkdir",
        lambda *a, **k: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied")),
    )
    refused(spec(two), tmp_path / "s", "not writable")


def test_command(two, tmp_path, capsys):
    arguments = [
        f"--out={tmp_path / 's'}",
        "--domain",
        f"one={two['one']}",
        f"two={two['two']}",
        "--dedup=exact",
        "--filters=lower_case",
    ]
    assert parser.main(["data", "prepare", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "one " in shown and "two " in shown and "fingerprint" in shown
    for bad in (
        ["--domain", "nonsense"],
        ["--corpus=embedded", str(two["one"])],
        ["--corpus=mine"],
    ):
        with pytest.raises(UserError):
            corpus_of(parser.parse(["data", "prepare", f"--out={tmp_path / 'x'}", *bad]))


def test_a_second_preparation_waits_and_says_for_whom(two, tmp_path, capsys):
    out, done = tmp_path / "s", []
    out.mkdir()
    with lock.locked(out):
        other = threading.Thread(target=lambda: done.append(prepare(spec(two), out, show=False)))
        other.start()
        said, deadline = "", time.monotonic() + 30
        while "waiting" not in said and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().err
        assert f"out={out}: waiting for process {os.getpid()}" in said and not done
    other.join(60)
    assert done[0].domains == list(two)
    assert not (out / lock.HOLDER).exists()


def test_a_full_disk_does_not_bar_a_finished_store(tmp_path):
    """No file may grow: what a full disk is, without one."""
    code = f"""
import resource
from pathlib import Path
from stepladder.train.data.prepare.lock import locked
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with locked(Path({str(tmp_path)!r})):
    print("entered")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "entered\n", done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {lock.LOCK}
