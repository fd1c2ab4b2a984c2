"""Texts of one domain and split -> its files in the store, a megabyte at a time."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from stepladder.train.data.read.store import SplitWriter, dtype_name
from stepladder.train.data.tokenizer import Tokenizer

BATCH_BYTES = 1 << 20  # text encoded at once


def encode(
    texts: Iterable[bytes],
    out: Path,
    domain: str,
    split: str,
    tokenizer: Tokenizer,
    advance: Callable[[float], None],
) -> dict:
    """Write `texts` (UTF-8) as the split's files; returns the manifest's entry.

    Nothing is committed when it raises.
    """
    writer = SplitWriter(
        out, domain, split, dtype_name(tokenizer.vocab_size), tokenizer.eos, tokenizer.token_bytes
    )
    try:
        for batch in _batches(texts):
            writer.write(tokenizer.encode_batch([data.decode("utf-8") for data in batch]))
            advance(sum(map(len, batch)))
        return writer.commit()
    finally:
        writer.abandon()


def _batches(texts: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch, size = [], 0
    for data in texts:
        batch.append(data)
        size += len(data)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
