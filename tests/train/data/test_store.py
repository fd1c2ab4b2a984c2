"""Tokenizers round-trip and count bytes exactly; a store refuses what it is not."""

import json
import pickle
import random

import numpy as np
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data import tokenizer as tokenizers
from stepladder.train.data.read.store import SPLITS, SplitWriter, Store, write_manifest

SAMPLES = [
    "plain ASCII text\n\twith tabs",
    "Größe, naïve, 語言, 🙂🙂",
    "",
    "  leading and  double blanks ",
    f"the end: {tokenizers.END} as text",
]


def corpus_texts():
    rng = random.Random(0)
    stems = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(300)]
    return [" ".join(rng.choices(stems, k=200)) for _ in range(20)]


@pytest.fixture(scope="module", params=["bytes", "bpe:300"])
def tokenizer(request):
    return tokenizers.train(request.param, corpus_texts())


@pytest.mark.parametrize("text", SAMPLES)
def test_round_trip_and_bytes(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())
    assert tokenizer.eos not in ids


def test_batch_save_load_and_pickle(tokenizer, tmp_path):
    (tmp_path / tokenizers.FILE).write_text(tokenizer.to_json(), encoding="utf-8")
    for other in (tokenizers.load(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert (other.hash, other.vocab_size, other.eos, other.name) == (
            tokenizer.hash,
            tokenizer.vocab_size,
            tokenizer.eos,
            tokenizer.name,
        )
        for text, ids in zip(SAMPLES, other.encode_batch(SAMPLES)):
            assert ids.tolist() == tokenizer.encode(text).tolist()
    assert (
        len(tokenizer.token_bytes) == tokenizer.vocab_size
        and tokenizer.token_bytes[tokenizer.eos] == 0
    )
    assert tokenizer.decode([*tokenizer.encode("ab"), tokenizer.eos]) == "ab"


def test_training_is_deterministic():
    assert (
        tokenizers.train("bpe:300", corpus_texts()).hash
        == tokenizers.train("bpe:300", corpus_texts()).hash
    )


@pytest.mark.parametrize("name", ["byte", "bytes:3", "bpe", "bpe:10", "bpe:many", "bpe:99999999"])
def test_bad_names(name):
    with pytest.raises(UserError, match=f"tokenizer={name}: "):
        tokenizers.check(name)


def test_more_vocabulary_than_the_text_has():
    with pytest.raises(
        UserError, match=r"tokenizer=bpe:5000: the text yields \d+ tokens only; ask for"
    ):
        tokenizers.train("bpe:5000", ["a b c"])


def make(folder, tokenizer, dtype="uint16", texts=("one", "two and a half", "three ä")):
    folder.mkdir(exist_ok=True)
    (folder / tokenizers.FILE).write_text(tokenizer.to_json(), encoding="utf-8")
    entry = {}
    for split in SPLITS:
        writer = SplitWriter(folder, "web", split, dtype, tokenizer.eos, tokenizer.token_bytes)
        writer.write(tokenizer.encode_batch(list(texts)))
        entry[split] = writer.commit()
    made = {
        "name": tokenizer.name,
        "hash": tokenizer.hash,
        "vocab_size": tokenizer.vocab_size,
        "eos": tokenizer.eos,
    }
    write_manifest(folder, {"dtype": dtype, "tokenizer": made, "domains": {"web": entry}})
    return folder


def edit(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refused(folder, part, **arguments):
    with pytest.raises(UserError) as e:
        Store.open(folder, **arguments)
    assert "\n" not in str(e.value) and ";" in str(e.value) and part in str(e.value), str(e.value)


def test_reads_what_was_written(tokenizer, tmp_path):
    store = pickle.loads(pickle.dumps(Store.open(make(tmp_path / "s", tokenizer), tokenizer)))
    tokens, index = store.tokens("web", "train"), store.index("web", "train")
    assert tokens.dtype == np.uint16 and not tokens.flags.writeable
    starts = [0, *index[:-1, 0]]
    assert [store.tokenizer().decode(tokens[a:b]) for a, b in zip(starts, index[:, 0])] == [
        "one",
        "two and a half",
        "three ä",
    ]
    assert all(tokens[index[:, 0] - 1] == tokenizer.eos)
    assert index[:, 1].tolist() == [3, 14, 8]
    assert (
        store.domains == ["web"]
        and store.vocab_size == tokenizer.vocab_size
        and store.count("web", "train") == len(tokens)
    )


def test_fingerprint_is_of_the_content(tmp_path):
    one, two, other = (
        Store.open(make(tmp_path / n, tokenizers.ByteTokenizer(), texts=t))
        for n, t in (("a", ["x"]), ("b", ["x"]), ("c", ["y"]))
    )
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_refusals(tmp_path):
    tokenizer = tokenizers.ByteTokenizer()
    refused(tmp_path / "nothing", "no such folder")
    refused(tmp_path, "not a token store")
    folder = make(tmp_path / "s", tokenizer)
    refused(folder, "bpe:4096", tokenizer="bpe:4096")
    other = tokenizers.train("bpe:300", corpus_texts())
    refused(folder, f"{other.hash}", tokenizer=other)
    refused(folder, f"{tokenizer.hash}", tokenizer=other)
    edit(folder, lambda m: m["tokenizer"].update(vocab_size=70_000))
    refused(folder, "larger than its integer type uint16")
    edit(folder, lambda m: m["tokenizer"].update(vocab_size=257) or m.update(format=9))
    refused(folder, "format 9")
    (folder / "manifest.json").write_text('{"format"')
    refused(folder, "cannot be read")
    (folder / "manifest.json").unlink()
    (folder / ".work").mkdir()
    refused(folder, "incomplete")


@pytest.mark.parametrize("name", ["web.train.bin", "web.validation.idx"])
def test_truncated_file(tmp_path, name):
    folder = make(tmp_path / "s", tokenizers.ByteTokenizer())
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-2])
    refused(folder, f"{name} is {len(data) - 2} bytes")
    (folder / name).unlink()
    refused(folder, f"{name} is missing")


def test_empty_domain(tmp_path):
    refused(make(tmp_path / "s", tokenizers.ByteTokenizer(), texts=()), "has no train tokens")


def test_an_id_above_the_integer_type_is_refused(tmp_path):
    writer = SplitWriter(tmp_path, "web", "train", "uint16", 0, np.ones(70_001, np.int32))
    with pytest.raises(UserError, match="70,000 does not fit uint16"):
        writer.write([np.array([70_000])])


def test_large_vocabularies_use_uint32(tmp_path):
    tokenizer = tokenizers.ByteTokenizer()
    store = Store.open(make(tmp_path / "s", tokenizer, dtype="uint32"))
    assert store.tokens("web", "train").dtype == np.uint32
