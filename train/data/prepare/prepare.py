"""From a corpus spec to a token store.

Stages that each commit: collect, select, tokenizer, encode, variants, manifest. Killed anywhere and
repeated, the store comes out byte for byte the same; repeated when done, nothing is written.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.files import replacing
from stepladder.configs.core.spec import CorpusSpec, to_dict
from stepladder.train.data import tokenizer as tokenizers
from stepladder.train.data.prepare import (
    dedup,
    documents,
    embedded,
    filters,
    lock,
    select,
    split,
    variants,
)
from stepladder.train.data.prepare.encode import encode
from stepladder.train.data.prepare.lock import locked
from stepladder.train.data.prepare.spool import Spool, SpoolWriter
from stepladder.train.data.read.store import (
    MANIFEST,
    SPLITS,
    Store,
    dtype_name,
    write_manifest,
    write_text,
)
from stepladder.train.processes.progress import bar_of_bytes

WORK = ".work"
TOKENIZER_BYTES = 20_000_000  # text a tokenizer is trained on, evenly over the domains


def prepare(corpus: CorpusSpec, out: str | os.PathLike, show: bool = True) -> Store:
    """Prepare a corpus into a folder, or open the store that is there already.

    Args:
        corpus: which text, and how it becomes tokens.
        out: the folder of the store.
        show: draw progress bars where stderr is a terminal.

    Returns:
        The store, opened.

    Raises:
        UserError: a bad spec, unreadable text, an unwritable or full disk (what is done is kept),
            or a folder that holds another spec or other sources.
    """
    out = Path(out)
    check(corpus)
    with _writable(out):
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            return _existing(corpus, out) or _prepare(corpus, out, show)


def check(corpus: CorpusSpec) -> None:
    """Raise UserError for a field that cannot be."""
    filters.check(corpus.filters)
    dedup.check(corpus.dedup)
    variants.check(corpus)
    tokenizers.check(corpus.tokenizer)
    if not 0 < corpus.validation_fraction <= 0.5:
        raise UserError(
            f"validation_fraction={corpus.validation_fraction}: must be above 0 and at most 0.5; "
            "e.g. 0.05"
        )
    if not 0 <= corpus.max_mb_per_domain < float("inf"):
        raise UserError(
            f"max_mb_per_domain={corpus.max_mb_per_domain}: must be 0 (no cap) or positive; e.g. 4"
        )
    if corpus.seed < 0:
        raise UserError(f"seed={corpus.seed}: must not be negative; use 0")
    for domain, _ in corpus.sources:
        if not domain.replace("_", "").replace("-", "").isalnum():
            raise UserError(
                f"sources.{domain}: a domain's name is letters, digits, - and _ only (it names "
                "files); rename it"
            )


def _prepare(corpus: CorpusSpec, out: Path, show: bool) -> Store:
    names, files = _sources(corpus)
    stamp = _stamp(corpus, names, files)
    work = _work(corpus, out, stamp)
    for domain in names:
        if not Spool.done(work, domain):
            _collect(corpus, domain, files.get(domain), work, show)
    spools = {domain: Spool(work, domain) for domain in names}
    sides, facts = _select(corpus, spools, work)
    tokenizer = _tokenizer(corpus, spools, sides, out, work, show)
    domains = {}
    for domain, spool in spools.items():
        counts = _encode(domain, spool, sides[domain], tokenizer, out, work, show)
        dropped = {
            **spool.summary["filtered"],
            "capped": spool.summary["capped"],
            **facts[domain]["dropped"],
        }
        domains[domain] = {
            **counts,
            "overlap": facts[domain]["overlap"],
            "groups": len(np.unique(spool.facts["group"])),
            "dropped": {reason: n for reason, n in dropped.items() if n},
        }
    domains |= variants.write_all(corpus, spools, sides, tokenizer, out, work, show)
    manifest = {
        "corpus": to_dict(corpus),
        "dtype": dtype_name(tokenizer.vocab_size),
        "tokenizer": {
            "name": corpus.tokenizer,
            "hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab_size,
            "eos": tokenizer.eos,
        },
        "versions": stamp["versions"],
        "max_overlap": split.MAX_OVERLAP,
        "domains": domains,
    }
    write_text(out / "sources.json", json.dumps(stamp, indent=1) + "\n")
    write_manifest(out, manifest)
    shutil.rmtree(work)
    return Store.open(out)


def _existing(corpus: CorpusSpec, out: Path) -> Store | None:
    """The finished store of the folder, if there is one.

    A changed source file is refused; an upgraded package is not: the text is here.
    """
    if not (out / MANIFEST).is_file():
        return None
    store = Store.open(out)
    _same_spec(corpus, store.manifest["corpus"], out)
    stamp = (
        json.loads((out / "sources.json").read_text(encoding="utf-8"))
        if (out / "sources.json").is_file()
        else {"files": []}
    )
    for domain, path, size, mtime in stamp["files"]:
        file = Path(path)  # a source that is gone is no change: the store is complete without it
        if file.is_file() and [file.stat().st_size, file.stat().st_mtime_ns] != [size, mtime]:
            raise UserError(
                f"sources.{domain}={path}: changed since {out} was prepared from it; choose "
                "another --out"
            )
    known = {path for _, path, _, _ in stamp["files"]}
    for domain, path in _still_there(corpus):
        if path not in known:
            raise UserError(
                f"sources.{domain}={path}: new since {out} was prepared; choose another --out"
            )
    shutil.rmtree(out / WORK, ignore_errors=True)  # killed between manifest and tidying
    return store


def _still_there(corpus: CorpusSpec) -> Iterator[tuple[str, str]]:
    for domain, pattern in corpus.sources:
        try:
            yield from ((domain, str(path)) for path in documents.expand(domain, pattern))
        except UserError:
            continue  # all files of this source are gone


def _same_spec(corpus: CorpusSpec, have: dict, out: Path) -> None:
    for field, value in to_dict(corpus).items():
        if have.get(field, []) != value:  # a store from before variants has none
            raise UserError(
                f"{field}={value}: the folder {out} holds a corpus prepared with "
                f"{field}={have.get(field)}; choose another --out"
            )


def _sources(corpus: CorpusSpec) -> tuple[list[str], dict[str, list[Path]]]:
    """Domains in order, and the files of those that are the user's own."""
    if not corpus.sources:
        return embedded.available(corpus.domains), {}
    files: dict[str, list[Path]] = {}
    for domain, pattern in corpus.sources:
        files.setdefault(domain, []).extend(documents.expand(domain, pattern))
    for name in corpus.domains:
        if name not in files:
            raise UserError(f"domains={name}: no source gives this domain; {nearest(name, files)}")
    names = list(corpus.domains) or list(files)
    return names, {domain: sorted(set(files[domain])) for domain in names}


def _stamp(corpus: CorpusSpec, names: list[str], files: dict[str, list[Path]]) -> dict:
    rows = [
        [d, str(p), p.stat().st_size, p.stat().st_mtime_ns]
        for d, paths in files.items()
        for p in paths
    ]
    return {"files": rows, "versions": embedded.versions(names) if not files else {}}


def _work(corpus: CorpusSpec, out: Path, stamp: dict) -> Path:
    """The folder of intermediate results.

    Continued when spec and sources are the same, begun anew when the sources changed.
    """
    work, plan = out / WORK, out / WORK / "plan.json"
    if plan.is_file():
        have = json.loads(plan.read_text(encoding="utf-8"))
        _same_spec(corpus, have["corpus"], out)
        if have["stamp"] == stamp:
            return work
    elif not work.exists() and any(p.name not in lock.FILES for p in out.iterdir()):
        raise UserError(
            f"out={out}: the folder holds other files and no token store; choose an empty or new "
            "folder"
        )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    write_text(plan, json.dumps({"corpus": to_dict(corpus), "stamp": stamp}))
    return work


def _collect(
    corpus: CorpusSpec, domain: str, files: list[Path] | None, work: Path, show: bool
) -> None:
    cap = corpus.max_mb_per_domain * 1e6
    own = files is not None
    stream = documents.read(domain, files) if own else embedded.read(domain, cap, corpus.seed)
    writer = SpoolWriter(work, domain, cap, in_order=not own, minhash=corpus.dedup == "minhash")
    filtered: dict[str, int] = {}
    kept = 0
    total = sum(p.stat().st_size for p in files) if own else cap or None
    try:
        with bar_of_bytes(f"read {domain}", total, show) as advance:
            for document in stream:
                text, reason = filters.apply(corpus.filters, document.text)
                if not text or not text.strip():
                    reason = reason or "empty"
                    filtered[reason] = filtered.get(reason, 0) + 1
                    continue
                kept += 1
                advance(writer.add(type(document)(text, document.group, document.name)))
                if writer.full:
                    break
        if not kept:
            why = f" ({filtered})" if filtered else ""
            raise UserError(
                f"sources.{domain}: no text is left{why}; give more text, or relax the filters "
                f"{list(corpus.filters)}"
            )
        writer.commit({"filtered": filtered})
    finally:
        writer.abandon()


def _select(
    corpus: CorpusSpec, spools: dict[str, Spool], work: Path
) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    saved = work / "select.npz"
    if not saved.is_file():
        sides, facts = select.select(corpus, spools, work)
        arrays: dict[str, Any] = {f"side.{domain}": side for domain, side in sides.items()}
        with replacing(saved) as file:
            np.savez(file, facts=np.array(json.dumps(facts)), **arrays)
    with np.load(saved) as body:
        return {d: body[f"side.{d}"] for d in spools}, json.loads(str(body["facts"]))


def _tokenizer(
    corpus: CorpusSpec, spools: dict[str, Spool], sides: dict, out: Path, work: Path, show: bool
) -> tokenizers.Tokenizer:
    if not (work / "tokenizer.done").is_file():

        def texts() -> Iterator[str]:
            with bar_of_bytes(f"train {corpus.tokenizer}", None, show) as advance:
                for domain, spool in spools.items():
                    left = TOKENIZER_BYTES // len(spools)
                    for data in spool.texts(sides[domain] == split.TRAIN):
                        yield data.decode("utf-8")
                        advance(len(data))
                        left -= len(data)
                        if left <= 0:
                            break

        trained = tokenizers.train(corpus.tokenizer, texts())
        write_text(out / tokenizers.FILE, trained.to_json())
        write_text(work / "tokenizer.done", trained.hash)
    return tokenizers.load(out)


def _encode(
    domain: str,
    spool: Spool,
    side: np.ndarray,
    tokenizer: tokenizers.Tokenizer,
    out: Path,
    work: Path,
    show: bool,
) -> dict:
    done = work / f"{domain}.encoded"
    if not done.is_file():
        with bar_of_bytes(
            f"encode {domain}", float(spool.sizes[side < select.DROPPED].sum()), show
        ) as advance:
            counts = {
                name: encode(spool.texts(side == n), out, domain, name, tokenizer, advance)
                for n, name in enumerate(SPLITS)
            }
        write_text(done, json.dumps(counts))
    return json.loads(done.read_text(encoding="utf-8"))


_DISK = {
    errno.ENOSPC: "no space left on the disk; free some or choose another --out",
    errno.EDQUOT: "the disk quota is used up; free some or choose another --out",
    errno.EFBIG: (
        "the file would be larger than allowed here; raise the limit or choose another --out"
    ),
    errno.EACCES: "not writable; choose another --out or change its permissions",
    errno.EPERM: "not writable; choose another --out or change its permissions",
    errno.EROFS: "a read-only file system; choose another --out",
    errno.ENOTDIR: "a file stands where the folder should be; choose another --out",
    errno.EEXIST: "a file stands where the folder should be; choose another --out",
}


@contextlib.contextmanager
def _writable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        reason = _DISK.get(
            e.errno or 0, f"{e.strerror or e}; check the disk or choose another --out"
        )
        raise UserError(
            f"out={out}: {reason} (what is done is kept: the same command continues)"
        ) from e
