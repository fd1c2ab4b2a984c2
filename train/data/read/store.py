"""The token store: a flat file of ids a domain and split, an index, a manifest written last.

<domain>.<split>.bin   ids, little-endian uint16 (uint32 above a vocabulary of 65,536), every
                       document followed by its end
<domain>.<split>.idx   int64 [documents, 2]: end of the document in the .bin (tokens), its
                       UTF-8 bytes
tokenizer.json         manifest.json
"""

import array
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.files import flush, replacing
from stepladder.train.data import tokenizer as tokenizers

FORMAT = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "validation")
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def dtype_name(vocab_size: int) -> str:
    """The smallest integer type that holds the vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def splits(entry: dict) -> tuple[str, ...]:
    """The splits of a domain's entry in the manifest.

    A variant, which has a `base`, is training text only.
    """
    return SPLITS[:1] if "base" in entry else SPLITS


class Store:
    """A prepared corpus, opened for reading.

    Files are mapped when first asked for, so a store pickles as its path.
    """

    def __init__(self, path: Path, manifest: dict) -> None:
        self.path = path
        self.manifest = manifest
        self._maps: dict[tuple[str, str], np.ndarray] = {}

    @classmethod
    def open(
        cls, path: str | os.PathLike, tokenizer: "tokenizers.Tokenizer | str | None" = None
    ) -> "Store":
        """Open and check a store.

        `tokenizer` (an object, a name such as "bytes", or a hash) refuses a store made with another
        one. Raises UserError also when the folder is no store, incomplete, truncated, or its
        vocabulary does not fit its integer type.
        """
        path = Path(path)
        manifest = _manifest(path)
        _check_vocabulary(path, manifest)
        _check_tokenizer(path, manifest, tokenizer)
        _check_files(path, manifest)
        return cls(path, manifest)

    def __getstate__(self) -> dict:
        return {"path": self.path, "manifest": self.manifest, "_maps": {}}

    @property
    def domains(self) -> list[str]:
        """Everything `weights` may name: domains, then variants."""
        return list(self.manifest["domains"])

    @property
    def vocab_size(self) -> int:
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the content: tokenizer, and tokens of every domain and split.

        Independent of where and when it was made.
        """
        return self.manifest["fingerprint"]

    def tokens(self, domain: str, split: str) -> np.ndarray:
        """Ids of a split: read-only memmap [tokens]."""
        key = (domain, split)
        if key not in self._maps:
            self._maps[key] = np.memmap(
                self.path / f"{domain}.{split}.bin", DTYPES[self.manifest["dtype"]], "r"
            )
        return self._maps[key]

    def index(self, domain: str, split: str) -> np.ndarray:
        """int64 [documents, 2]: end of each document in tokens, its UTF-8 bytes."""
        return np.fromfile(self.path / f"{domain}.{split}.idx", "<i8").reshape(-1, 2)

    def count(self, domain: str, split: str) -> int:
        """Tokens of a split, from the manifest.

        Raises UserError for an unknown domain, and for a variant's validation.
        """
        if domain not in self.manifest["domains"]:
            raise UserError(
                f"domain={domain}: not in the store {self.path}; {nearest(domain, self.domains)}"
            )
        entry = self.manifest["domains"][domain]
        if split not in splits(entry):
            raise UserError(
                f"domain={domain}: a variant of {entry['base']} has no {split} text in "
                f"{self.path}; use {entry['base']}"
            )
        return entry[split]["tokens"]

    def tokenizer(self) -> "tokenizers.Tokenizer":
        """The tokenizer the store was made with."""
        return tokenizers.load(self.path)


class SplitWriter:
    """Writes one domain's split beside its final name, hashing on the way.

    `commit` renames and returns the manifest's entry.
    """

    def __init__(
        self, folder: Path, domain: str, split: str, dtype: str, eos: int, token_bytes: np.ndarray
    ) -> None:
        self._bin = folder / f"{domain}.{split}.bin"
        self._idx = folder / f"{domain}.{split}.idx"
        self._type, self._eos = DTYPES[dtype], np.array([eos])
        self._limit = np.iinfo(self._type).max
        self._bytes_of = token_bytes
        self._file = _part(self._bin).open("wb")
        self._hash = hashlib.sha256()
        self._rows = array.array("q")  # 16 bytes a document, also for millions
        self._tokens = 0

    def write(self, documents: Iterable[np.ndarray]) -> None:
        """Append documents, each int [tokens] without its end.

        Raises UserError for an id above the integer type.
        """
        for ids in documents:
            if len(ids) and int(ids.max()) > self._limit:
                raise UserError(
                    f"tokenizer: id {int(ids.max()):,} does not fit {self._type.name}; prepare "
                    "with a vocabulary that does"
                )
            data = np.concatenate([ids, self._eos]).astype(self._type).tobytes()
            self._file.write(data)
            self._hash.update(data)
            self._tokens += len(ids) + 1
            self._rows.extend((self._tokens, int(self._bytes_of[ids].sum())))

    def abandon(self) -> None:
        """Close without committing; a no-op after `commit`."""
        self._file.close()

    def commit(self) -> dict:
        """Rename into place; returns {"tokens", "documents", "bytes", "sha256"}."""
        flush(self._file)
        self._file.close()
        rows = np.array(self._rows, "<i8").reshape(-1, 2)
        with replacing(self._idx, beside=_part(self._idx)) as file:
            file.write(rows.tobytes())
        os.replace(_part(self._bin), self._bin)
        return {
            "tokens": self._tokens,
            "documents": len(rows),
            "bytes": int(rows[:, 1].sum()),
            "sha256": self._hash.hexdigest(),
        }


def write_manifest(folder: Path, manifest: dict) -> None:
    """Commit the store: everything else must be in place. Adds format and fingerprint."""
    content = [manifest["tokenizer"]["hash"]]
    content += [
        f"{d}.{s}:{e[s]['sha256']}"
        for d, e in sorted(manifest["domains"].items())
        for s in splits(e)
    ]
    fingerprint = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    body = {"format": FORMAT, "fingerprint": fingerprint, **manifest}
    write_text(folder / MANIFEST, json.dumps(body, indent=1, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a small file of a store or of its preparation, whole or not at all. Raises OSError."""
    with replacing(path, beside=_part(path)) as file:
        file.write(text.encode())


def _part(path: Path) -> Path:
    """Where a file is written first.

    The folder is locked, so the name is fixed: what a killed process leaves is overwritten.
    """
    return path.with_name(path.name + ".part")


def _manifest(path: Path) -> dict:
    if not path.is_dir():
        raise UserError(
            f"store={path}: no such folder; make one with `stepladder data prepare --out={path}`"
        )
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        unfinished = (path / ".work").is_dir()
        what = (
            "incomplete (preparation was interrupted); repeat the same `stepladder data prepare`"
            if unfinished
            else "not a token store"
        )
        raise UserError(
            f"store={path}: {what}"
            + ("" if unfinished else f" (no {MANIFEST}); make one with `stepladder data prepare`")
        ) from e
    except (OSError, ValueError) as e:
        raise UserError(
            f"store={path}: {MANIFEST} cannot be read ({e}); prepare the store again in another "
            "folder"
        ) from e
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise UserError(
            f"store={path}: format {found!r}, this version reads {FORMAT}; prepare the store again "
            "in another folder"
        )
    return manifest


def _check_vocabulary(path: Path, manifest: dict) -> None:
    name, size = manifest["dtype"], manifest["tokenizer"]["vocab_size"]
    if name not in DTYPES or size - 1 > np.iinfo(DTYPES[name]).max:
        raise UserError(
            f"store={path}: vocabulary {size:,} is larger than its integer type {name} holds; "
            "prepare the store again"
        )


def _check_tokenizer(path: Path, manifest: dict, tokenizer) -> None:
    if tokenizer is None:
        return
    have = manifest["tokenizer"]
    asked = tokenizer if isinstance(tokenizer, str) else tokenizer.hash
    if asked not in (
        (have["name"], have["hash"]) if isinstance(tokenizer, str) else (have["hash"],)
    ):
        label = asked if isinstance(tokenizer, str) else f"{tokenizer.name} ({asked})"
        raise UserError(
            f"tokenizer={label}: the store {path} was made with {have['name']} ({have['hash']}); "
            "prepare another store for this tokenizer"
        )


def _check_files(path: Path, manifest: dict) -> None:
    width = DTYPES[manifest["dtype"]].itemsize
    for domain, entry in manifest["domains"].items():
        for split in splits(entry):
            if entry[split]["tokens"] == 0:
                raise UserError(
                    f"store={path}: domain {domain} has no {split} tokens; prepare again with more "
                    "text, or without it"
                )
            for suffix, want in (
                (".bin", entry[split]["tokens"] * width),
                (".idx", entry[split]["documents"] * 16),
            ):
                file = path / f"{domain}.{split}{suffix}"
                have = file.stat().st_size if file.is_file() else None
                if have != want:
                    size = "missing" if have is None else f"{have:,} bytes"
                    raise UserError(
                        f"store={path}: {file.name} is {size}, the manifest says {want:,} bytes: "
                        "truncated; prepare the store again"
                    )
