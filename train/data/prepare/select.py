"""Which documents train, which validate, which are dropped and why: over all domains at once."""

import mmap
import shutil
from pathlib import Path

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import CorpusSpec
from stepladder.train.data.prepare import dedup, split
from stepladder.train.data.prepare.spool import Spool

DROPPED = 2  # beside split.TRAIN and split.VALIDATION
# dropped as a copy: text that a variant of the domain may still train on
# (train/data/prepare/variants.py)
DUPLICATE = 3
NEAR_PASSES = {"none": (), "exact": ("exact",), "minhash": ("exact", "near")}


def select(
    corpus: CorpusSpec, spools: dict[str, Spool], work: Path
) -> tuple[dict[str, np.ndarray], dict[str, dict]]:
    """Side of every document, uint8 [docs] per domain, and per domain {"dropped": {reason:
    documents}, "overlap": share}.

    Raises UserError when a domain is left without documents on one side.
    """
    bounds = np.cumsum([0, *(len(s.facts) for s in spools.values())])
    place = {domain: slice(a, b) for domain, a, b in zip(spools, bounds, bounds[1:])}
    keep = np.concatenate([s.facts["kept"] for s in spools.values()]).astype(bool)
    reasons = {"capped": ~keep}
    if "exact" in NEAR_PASSES[corpus.dedup]:
        hashes = np.concatenate([s.facts["exact"] for s in spools.values()])
        candidates = np.flatnonzero(keep)
        reasons["exact_duplicate"] = np.zeros(len(keep), bool)
        reasons["exact_duplicate"][candidates[dedup.exact_duplicates(hashes[candidates])]] = True
        keep &= ~reasons["exact_duplicate"]
    if "near" in NEAR_PASSES[corpus.dedup]:
        reasons["near_duplicate"] = near(spools, keep, work)
        keep &= ~reasons["near_duplicate"]
    sides = {}
    for domain, spool in spools.items():
        mine = keep[place[domain]]
        side = split.assign(
            spool.facts["group"], spool.sizes, mine, corpus.validation_fraction, corpus.seed, domain
        )
        away = np.where(spool.facts["kept"].astype(bool), np.uint8(DUPLICATE), np.uint8(DROPPED))
        sides[domain] = np.where(mine, side, away)
    facts = {
        d: {"dropped": {r: int(m[place[d]].sum()) for r, m in reasons.items() if r != "capped"}}
        for d in spools
    }
    _overlap(spools, sides, facts)
    return sides, facts


def near(spools: dict[str, Spool], keep: np.ndarray, work: Path) -> np.ndarray:
    """bool [documents of all spools]: the near duplicates among those in `keep`."""
    # one file, mapped: signatures of millions of documents do not fit the memory bound
    together = work / "signatures"
    with together.open("wb") as out:
        for spool in spools.values():
            with spool.signatures.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
    signatures = np.memmap(together, np.uint32, "r").reshape(-1, dedup.PERMUTATIONS)
    found = dedup.near_duplicates(signatures, keep, release=lambda: _forget(signatures))
    together.unlink()
    return found


def _forget(mapped: np.ndarray) -> None:
    """Give the mapped pages back.

    The operating system would keep them as long as there is memory.
    """
    base = mapped
    while isinstance(base.base, np.ndarray):
        base = base.base
    if hasattr(mmap, "MADV_DONTNEED") and isinstance(base.base, mmap.mmap):
        base.base.madvise(mmap.MADV_DONTNEED)


def _overlap(
    spools: dict[str, Spool], sides: dict[str, np.ndarray], facts: dict[str, dict]
) -> None:
    """Drop validation documents that training covers too well, and record what overlap remains."""
    validation = {d: side == split.VALIDATION for d, side in sides.items()}

    def texts():
        return (t for d, s in spools.items() for t in s.texts(validation[d]))

    size = sum(int(s.sizes[validation[d]].sum()) for d, s in spools.items())
    train = (t for d, s in spools.items() for t in s.texts(sides[d] == split.TRAIN))
    shares = split.overlap(texts, size, train)
    start = 0
    for domain, spool in spools.items():
        index = np.flatnonzero(validation[domain])
        share = shares[start : start + len(index)]
        start += len(index)
        high = share > split.MAX_OVERLAP
        sides[domain][index[high]] = DROPPED
        facts[domain]["dropped"]["overlap"] = int(high.sum())
        if high.all():
            raise UserError(
                f"validation_fraction: all {len(index)} validation documents of {domain} repeat "
                f"more than {split.MAX_OVERLAP:.0%} of their 13-grams from training; raise "
                "validation_fraction, use dedup=minhash, or leave the domain out"
            )
        weights = spool.sizes[index[~high]]
        facts[domain]["overlap"] = round(float((share[~high] * weights).sum() / weights.sum()), 6)
