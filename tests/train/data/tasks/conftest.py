"""A token store of two domains, for tasks that have its tokenizer."""

import numpy as np
import pytest

from stepladder.train.data import tokenizer as tokenizers
from stepladder.train.data.read.store import SplitWriter, Store, write_manifest


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Byte tokens; the text is numbers that differ from place to place."""
    folder = tmp_path_factory.mktemp("store")
    tokenizer = tokenizers.ByteTokenizer()
    (folder / tokenizers.FILE).write_text(tokenizer.to_json(), encoding="utf-8")
    domains = {}
    for d, name in enumerate("ab"):
        domains[name] = {}
        for split, n in (("train", 20_000), ("validation", 400)):
            writer = SplitWriter(
                folder, name, split, "uint16", tokenizer.eos, tokenizer.token_bytes
            )
            writer.write([np.random.default_rng(d).integers(256, size=n - 1)])
            domains[name][split] = writer.commit()
    made = {"name": "bytes", "hash": tokenizer.hash, "vocab_size": 257, "eos": 256}
    write_manifest(folder, {"dtype": "uint16", "tokenizer": made, "domains": domains})
    return Store.open(folder)
