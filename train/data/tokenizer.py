"""Tokenizers: text <-> ids, with the number of UTF-8 bytes behind every id, so that bits per byte
are exact.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from stepladder.configs.core.errors import UserError, nearest

FILE = "tokenizer.json"
END = "<|endofdocument|>"


class ByteTokenizer:
    """Ids 0-255 are the bytes of UTF-8, 256 ends a document."""

    name: ClassVar[str] = "bytes"
    vocab_size: ClassVar[int] = 257
    eos: ClassVar[int] = 256

    def encode(self, text: str) -> np.ndarray:
        """Text -> int32 [tokens], without the end of document."""
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; ends of documents are left out, incomplete characters become U+FFFD."""
        return bytes(i for i in map(int, ids) if i < 256).decode("utf-8", errors="replace")

    @property
    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: UTF-8 bytes of each id, 0 for the end of document."""
        return np.array([1] * 256 + [0], np.int32)

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return (
            json.dumps({"kind": self.name, "vocab_size": self.vocab_size, "eos": self.eos}) + "\n"
        )


class BpeTokenizer:
    """Byte-level BPE of Hugging Face `tokenizers`; the last id ends a document."""

    def __init__(self, serialised: str) -> None:
        from tokenizers import Tokenizer

        self._json = serialised
        self._tokenizer = Tokenizer.from_str(serialised)
        # the text "<|endofdocument|>" is text: only we end documents
        self._tokenizer.encode_special_tokens = True
        self.vocab_size = self._tokenizer.get_vocab_size()
        self.name = f"bpe:{self.vocab_size}"
        end = self._tokenizer.token_to_id(END)
        if end is None:
            raise ValueError(f"no token {END}")
        self.eos: int = end

    def encode(self, text: str) -> np.ndarray:
        """Text -> int32 [tokens], without the end of document."""
        return np.array(self._tokenizer.encode(text).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(e.ids, np.int32) for e in self._tokenizer.encode_batch_fast(list(texts))]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text; ends of documents are left out, incomplete characters become U+FFFD."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: UTF-8 bytes of each id, 0 for the end of document."""
        sizes = np.zeros(self.vocab_size, np.int32)
        for token, i in self._tokenizer.get_vocab().items():
            # byte-level BPE writes one character a byte
            sizes[i] = 0 if i == self.eos else len(token)
        return sizes

    @property
    def hash(self) -> str:
        return hashlib.sha256(self._json.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        return self._json

    # Rust objects pickle, but the encode_special_tokens setting is lost on the way
    def __reduce__(self):
        return BpeTokenizer, (self._json,)


Tokenizer = ByteTokenizer | BpeTokenizer


def _train_bytes(size: str, texts: Iterable[str]) -> ByteTokenizer:
    return ByteTokenizer()


def _train_bpe(size: str, texts: Iterable[str]) -> BpeTokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=int(size) - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != int(size) - 1:
        have = tokenizer.get_vocab_size() + 1
        raise UserError(
            f"tokenizer=bpe:{size}: the text yields {have} tokens only; ask for bpe:{have} or "
            "less, or give more text"
        )
    tokenizer.add_special_tokens([END])
    return BpeTokenizer(tokenizer.to_str(pretty=True))


TOKENIZERS = {"bytes": _train_bytes, "bpe": _train_bpe}


def check(name: str) -> None:
    """Raise UserError unless the name is "bytes" or "bpe:<vocabulary from 258>"."""
    kind, _, size = name.partition(":")
    if kind not in TOKENIZERS:
        raise UserError(
            f"tokenizer={name}: no such tokenizer; {nearest(kind, TOKENIZERS)} (bytes, or "
            "bpe:<vocabulary>)"
        )
    if kind == "bytes" and size:
        raise UserError(f"tokenizer={name}: bytes has a fixed vocabulary; write tokenizer=bytes")
    if kind == "bpe" and not (size.isascii() and size.isdigit() and 258 <= int(size) < 1 << 20):
        raise UserError(
            f"tokenizer={name}: the vocabulary must be a number from 258 to {1 << 20:,}; e.g. "
            "bpe:4096"
        )


def train(name: str, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer of a name, trained on texts where it needs training.

    Deterministic. Raises UserError.
    """
    check(name)
    kind, _, size = name.partition(":")
    return TOKENIZERS[kind](size, texts)


def load(folder: Path) -> Tokenizer:
    """The tokenizer saved in a folder. Raises UserError when it is missing or damaged."""
    try:
        serialised = (folder / FILE).read_text(encoding="utf-8")
        return (
            ByteTokenizer()
            if json.loads(serialised).get("kind") == "bytes"
            else BpeTokenizer(serialised)
        )
    except FileNotFoundError as e:
        raise UserError(f"store={folder}: {FILE} is missing; prepare the store again") from e
    except Exception as e:  # the Rust parser raises plain Exception
        raise UserError(f"store={folder}: {FILE} is damaged ({e}); prepare the store again") from e
