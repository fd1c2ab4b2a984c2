"""Variants of a domain: training text with filters and a deduplication of its own, for recipes that
differ in more than weights.

A variant is made from the text its domain was made from, before the corpus removed duplicates: with
`none` it sees every copy. What the corpus holds out stays out: no document of a held-out group, and
of the copies none that repeats validation text. Filters see one document each; a ranked step
(train/data/prepare/quality.py) keeps the best share of the domain by a score; duplicates are those
left after the filters.
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import CorpusSpec, Variant
from stepladder.train.data.prepare import dedup, filters, quality, select, split
from stepladder.train.data.prepare.documents import Document
from stepladder.train.data.prepare.encode import encode
from stepladder.train.data.prepare.spool import Spool, SpoolWriter
from stepladder.train.data.read.store import write_text
from stepladder.train.data.tokenizer import Tokenizer
from stepladder.train.processes.progress import bar_of_bytes


def check(corpus: CorpusSpec) -> None:
    """Raise UserError for a variant that cannot be, whatever the text."""
    seen = {domain for domain, _ in corpus.sources} | set(corpus.domains)
    for variant in corpus.variants:
        if not variant.name.replace("_", "").replace("-", "").isalnum():
            raise UserError(
                f"{_field(variant)}: a variant's name is letters, digits, - and _ only (it names "
                "files); rename it"
            )
        if variant.name in seen:
            raise UserError(f"{_field(variant)}: the name {variant.name} is taken; rename it")
        seen.add(variant.name)
        ranked = [step for step in variant.filters if step in quality.RANKED]
        if ranked and variant.filters.index(ranked[-1]) > 0:
            raise UserError(
                f"{_field(variant)}: {ranked[-1]} ranks the domain's own text; name it first, and "
                "once"
            )
        filters.check([step for step in variant.filters if step not in quality.RANKED])
        dedup.check(variant.dedup)


def _field(variant: Variant) -> str:
    """How errors name a variant: as the command line gives it."""
    return f"variants.{variant.name}={variant.domain}|{','.join(variant.filters)}|{variant.dedup}"


class HeldOut:
    """The validation text of all domains, as the hashes that tell its copies."""

    def __init__(self, spools: dict[str, Spool], sides: dict[str, np.ndarray]) -> None:
        self._spools, self._sides = spools, sides
        validation = {d: side == split.VALIDATION for d, side in sides.items()}
        self._every = split.sampling(
            sum(int(s.sizes[validation[d]].sum()) for d, s in spools.items())
        )
        texts = (text for d, s in spools.items() for text in s.texts(validation[d]))
        self._grams = np.unique(
            np.concatenate(
                [np.empty(0, np.uint64), *(split.sampled(text, self._every) for text in texts)]
            )
        )
        self._exact = np.unique(
            np.concatenate([s.facts["exact"][validation[d]] for d, s in spools.items()])
        )

    def candidates(self, domain: str) -> np.ndarray:
        """bool [documents]: what a variant of the domain may train on.

        The domain's own training text, and of the copies the corpus dropped those whose group is
        not held out (a group whose validation documents were dropped for their overlap counts as
        held out) and that do not repeat validation text of any domain.
        """
        spool, side = self._spools[domain], self._sides[domain]
        held_out = (side == split.VALIDATION) | (
            (side == select.DROPPED) & (spool.facts["kept"] == 1)
        )
        copies = (side == select.DUPLICATE) & ~np.isin(
            spool.facts["group"], spool.facts["group"][held_out]
        )
        copies &= ~np.isin(spool.facts["exact"], self._exact)
        for i, text in zip(np.flatnonzero(copies), spool.texts(copies.copy())):
            # a copy too short for a 13-gram cannot be told from validation text: left out
            mine = split.sampled(text, self._every)
            copies[i] = (
                len(mine) > 0 and split.find(self._grams, mine)[0].mean() <= split.MAX_OVERLAP
            )
        return (side == split.TRAIN) | copies

    def overlap(self, texts: Iterator[bytes]) -> float:
        """The share of validation's 13-grams that occur in `texts`."""
        hit = np.zeros(len(self._grams) + 1, bool)
        for text in texts:
            found, where = split.find(self._grams, split.sampled(text, self._every))
            hit[where[found]] = True
        return round(float(hit.sum()) / max(len(self._grams), 1), 6)


def write_all(
    corpus: CorpusSpec,
    spools: dict[str, Spool],
    sides: dict[str, np.ndarray],
    tokenizer: Tokenizer,
    out: Path,
    work: Path,
    show: bool,
) -> dict[str, dict]:
    """The store's entry of every variant, written where it is not yet; training text only.

    Raises UserError when a variant's domain is not in the corpus or no text is left.
    """
    held_out = functools.cache(lambda: HeldOut(spools, sides))  # a finished store asks for neither
    candidates = functools.cache(lambda domain: held_out().candidates(domain))
    entries = {}
    for variant in corpus.variants:
        if variant.name in spools:
            raise UserError(
                f"{_field(variant)}: {variant.name} is a domain of the corpus; rename the variant"
            )
        if variant.domain not in spools:
            raise UserError(
                f"{_field(variant)}: the corpus has no domain {variant.domain}; use one of "
                f"{', '.join(spools)}"
            )
        done = work / f"{variant.name}.variant"
        if not done.is_file():
            if not Spool.done(work, variant.name):
                _collect(variant, spools[variant.domain], candidates(variant.domain), work, show)
            entry = _write(
                variant, Spool(work, variant.name), held_out(), tokenizer, out, work, show
            )
            write_text(done, json.dumps(entry))
            # variants may be many times the corpus: their text need not wait for the last of them
            for suffix in (".txt", ".sig"):
                (work / variant.name).with_suffix(suffix).unlink(missing_ok=True)
        entries[variant.name] = json.loads(done.read_text(encoding="utf-8"))
    return entries


def _collect(variant: Variant, spool: Spool, wanted: np.ndarray, work: Path, show: bool) -> None:
    """Spool the filtered text, with the facts that deduplication asks for."""
    dropped: Counter = Counter()
    steps = variant.filters
    if steps and steps[0] in quality.RANKED:
        best = quality.best(steps[0], spool, wanted)
        dropped[steps[0]] = int(wanted.sum() - best.sum())
        wanted, steps = best, steps[1:]
    writer = SpoolWriter(work, variant.name, 0, in_order=True, minhash=variant.dedup == "minhash")
    kept = 0
    try:
        with bar_of_bytes(
            f"filter {variant.name}", float(spool.sizes[wanted].sum()), show
        ) as advance:
            for data in spool.texts(wanted):
                text, reason = filters.apply(steps, data.decode("utf-8"))
                advance(len(data))
                if not text or not text.strip():
                    dropped[reason or "empty"] += 1
                    continue
                writer.add(Document(text, "", ""))
                kept += 1
        if not kept:
            raise UserError(
                f"{_field(variant)}: no text is left ({dict(dropped)}); relax the filters, or "
                "leave the variant out"
            )
        writer.commit({"filtered": {reason: n for reason, n in dropped.items() if n}})
    finally:
        writer.abandon()


def _write(
    variant: Variant,
    spool: Spool,
    held_out: HeldOut,
    tokenizer: Tokenizer,
    out: Path,
    work: Path,
    show: bool,
) -> dict:
    keep, dropped = np.ones(len(spool.facts), bool), dict(spool.summary["filtered"])
    for method in select.NEAR_PASSES[variant.dedup]:
        copies = (
            dedup.exact_duplicates(spool.facts["exact"])
            if method == "exact"
            else select.near({variant.name: spool}, keep, work)
        )
        dropped[f"{method}_duplicate"] = int((copies & keep).sum())
        keep &= ~copies
    with bar_of_bytes(f"encode {variant.name}", float(spool.sizes[keep].sum()), show) as advance:
        train = encode(spool.texts(keep), out, variant.name, "train", tokenizer, advance)
    return {
        "base": variant.domain,
        "train": train,
        "overlap": held_out.overlap(spool.texts(keep)),
        "dropped": {reason: n for reason, n in dropped.items() if n},
    }
