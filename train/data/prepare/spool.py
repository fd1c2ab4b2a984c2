"""A domain's text between reading and encoding.

It lies on disk, with an array of facts a document: memory does not grow with the text.
"""

import array
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stepladder.configs.core.files import flush, replacing
from stepladder.train.data.prepare import dedup
from stepladder.train.data.prepare.documents import Document
from stepladder.train.data.read.store import write_text

FACTS = np.dtype([("end", "<u8"), ("group", "<u8"), ("exact", "<u8"), ("kept", "<u8")])


class SpoolWriter:
    """Collects one domain's documents below a cap; `commit` writes the marker last."""

    def __init__(
        self, folder: Path, domain: str, cap_bytes: float, in_order: bool, minhash: bool
    ) -> None:
        """`in_order`: the cap takes the first documents, as they come shuffled.

        Otherwise it takes those with the smallest content hash. `minhash`: keep signatures, for
        near duplicates.
        """
        self._stem = folder / domain
        self._cap, self._in_order, self._minhash = cap_bytes, in_order, minhash
        self._text = self._stem.with_suffix(".txt").open("wb")
        self._signatures = self._stem.with_suffix(".sig").open("wb")
        self._facts = array.array("Q")
        self._bytes, self._since, self._limit = 0, 0, 1 << 64
        self.capped = 0

    @property
    def full(self) -> bool:
        return bool(self._cap) and self._in_order and self._bytes >= self._cap

    def add(self, document: Document) -> int:
        """Take a document, which may not stay below the cap; returns the bytes of its text."""
        data = document.text.encode("utf-8")
        exact = dedup.exact_hash(data)
        if exact > self._limit:
            self.capped += 1
            return len(data)
        self._text.write(data)
        if self._minhash:
            self._signatures.write(dedup.signature(data).tobytes())
        self._bytes += len(data)
        self._since += len(data)
        self._facts.extend((self._bytes, _hash(document.group), exact, 1))
        if self._cap and not self._in_order and self._since > 2 * self._cap:
            self._lower_limit()
        return len(data)

    def commit(self, summary: dict) -> None:
        """Finish the files; `summary` (JSON) goes into the marker."""
        facts = self._rows()
        if self._cap and not self._in_order:
            kept = facts["exact"] <= self._lower_limit()
            facts["kept"] = kept
            self.capped += int((~kept).sum())
        for file in (self._text, self._signatures):
            flush(file)
            file.close()
        with replacing(self._stem.with_suffix(".docs")) as file:
            file.write(facts.tobytes())
        write_text(self._stem.with_suffix(".json"), json.dumps({**summary, "capped": self.capped}))

    def abandon(self) -> None:
        self._text.close()
        self._signatures.close()

    def _rows(self) -> np.ndarray:
        return np.frombuffer(self._facts, FACTS).copy()

    def _lower_limit(self) -> int:
        """The content hash up to which documents fit the cap.

        What comes later can only lower it.
        """
        facts = self._rows()
        order = np.argsort(facts["exact"], kind="stable")
        total = np.cumsum(np.diff(facts["end"], prepend=np.uint64(0))[order])
        fits = max(int(np.searchsorted(total, self._cap, side="right")), 1)
        if fits < len(order):
            self._limit = min(self._limit, int(facts["exact"][order[fits - 1]]))
        self._since = 0
        return self._limit


class Spool:
    """A committed spool, read."""

    def __init__(self, folder: Path, domain: str) -> None:
        self._stem = folder / domain
        self.facts = np.fromfile(self._stem.with_suffix(".docs"), FACTS)
        self.sizes = np.diff(self.facts["end"], prepend=np.uint64(0)).astype(np.int64)
        self.summary: dict = json.loads(self._stem.with_suffix(".json").read_text(encoding="utf-8"))

    @staticmethod
    def done(folder: Path, domain: str) -> bool:
        return (folder / f"{domain}.json").is_file()

    @property
    def signatures(self) -> Path:
        return self._stem.with_suffix(".sig")

    def texts(self, wanted: np.ndarray) -> Iterator[bytes]:
        """The texts of the documents where bool [docs] `wanted`, in order."""
        with self._stem.with_suffix(".txt").open("rb") as file:
            for i in np.flatnonzero(wanted):
                file.seek(int(self.facts["end"][i]) - int(self.sizes[i]))
                yield file.read(int(self.sizes[i]))


def _hash(name: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little"
    )
