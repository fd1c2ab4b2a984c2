"""Variants: made of a domain's text before deduplication, never of what is held out; counted,
resumable, training text only.
"""

import errno
import json
import random

import numpy as np
import pytest

from stepladder.configs import base
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import Variant
from stepladder.train.cli.prepare import table
from stepladder.train.data.prepare import quality, variants
from stepladder.train.data.prepare.prepare import prepare
from stepladder.train.data.read.batches import BatchSource, evaluation_windows
from tests.support import tiny
from tests.train.data.test_prepare import content, jsonl, refused, spec, text, texts_of

N = 40


@pytest.fixture
def sources(tmp_path):
    """Domain one: N texts, each twice exactly and once nearly; domain two: other texts and copies
    of ten of one's.
    """
    plain = [text(i) for i in range(N)]
    near = [t[:-9] + "changed\n" for t in plain]
    one = plain + near + plain
    random.Random(0).shuffle(one)
    return {
        "one": jsonl(tmp_path / "one.jsonl", one),
        "two": jsonl(tmp_path / "two.jsonl", [text(1000 + i) for i in range(N)] + plain[:10]),
    }


def variant(name="v", domain="one", filters=(), dedup="none"):
    return Variant(name, domain, tuple(filters), dedup)


def words_of(document):
    return frozenset(document.split()[:50])


def test_each_deduplication_sees_the_raw_text_and_nothing_held_out(sources, tmp_path):
    """Copies of training text come back with `none`, near ones with `exact`, and none of a
    validation document, exact or near.
    """
    made = [variant(m, dedup=m) for m in ("none", "exact", "minhash")] + [
        variant("lower", filters=["lower_case"], dedup="minhash")
    ]
    store = prepare(spec(sources, variants=tuple(made)), tmp_path / "s", show=False)
    held = {words_of(t) for d in ("one", "two") for t in texts_of(store, d, "validation")}
    trained = {words_of(t) for t in texts_of(store, "one", "train")}
    documents = {m: texts_of(store, m, "train") for m in ("none", "exact", "minhash", "lower")}
    for found in documents.values():
        assert not held & {words_of(t) for t in found}
    originals = {words_of(t) for t in documents["none"]}
    assert trained <= originals
    # every copy of every text that is not held out
    assert len(documents["none"]) == 3 * len(originals)
    assert len(documents["exact"]) == len(set(documents["exact"])) == 2 * len(originals)
    assert len(documents["minhash"]) == len(originals)
    entry = store.manifest["domains"]["exact"]
    assert (
        entry["base"] == "one"
        and entry["dropped"] == {"exact_duplicate": len(originals)}
        and "validation" not in entry
    )
    assert entry["overlap"] == 0.0
    assert entry["train"]["bytes"] == sum(map(len, documents["exact"]))


def test_a_variant_changes_nothing_of_the_rest(sources, tmp_path):
    plain = prepare(spec(sources), tmp_path / "plain", show=False)
    more = prepare(
        spec(sources, variants=(variant(filters=("lower_case",)),)), tmp_path / "more", show=False
    )
    assert more.domains == [*plain.domains, "v"] and more.fingerprint != plain.fingerprint
    for name in plain.domains:
        assert more.manifest["domains"][name] == plain.manifest["domains"][name]


def test_filters_are_counted_and_rank(sources, tmp_path):
    long = variant("ranked", "two", ("prose_top30", "cut_500"))
    short = variant("few", "two", ("repeat_8",))
    store = prepare(spec(sources, variants=(long, short)), tmp_path / "s", show=False)
    base_entry, ranked, few = (store.manifest["domains"][n] for n in ("two", "ranked", "few"))
    assert 0.2 < ranked["train"]["documents"] / base_entry["train"]["documents"] < 0.5
    assert all(len(t) <= 500 for t in texts_of(store, "ranked", "train"))
    assert (
        ranked["dropped"]["prose_top30"] + ranked["train"]["documents"]
        == few["dropped"]["repeat_8"] + few["train"]["documents"]
    )


def test_best_keeps_the_highest_scores():
    class Texts:
        documents = (
            "the cat and the dog are in a house with them",
            "x = f(y[0]) + 3",
            "it is of the sea and to be there",
            "a",
        )
        sizes = np.array([len(d) for d in documents])

        def texts(self, wanted):
            return (self.documents[i].encode() for i in np.flatnonzero(wanted))

    every = np.ones(4, bool)
    assert quality.best("prose_top30", Texts(), every).tolist() == [False, False, True, True]
    assert quality.best("code_top30", Texts(), every)[1]
    assert quality.best("prose_top30", Texts(), np.array([True, True, False, False])).tolist() == [
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(UserError, match="no document"):
        quality.best("prose_top30", Texts(), ~every)


def test_killed_between_variants_it_continues_to_the_same_bytes(sources, tmp_path, monkeypatch):
    corpus = spec(
        sources,
        variants=(
            variant("a"),
            variant("b", "two", ("noise_5",), "exact"),
            variant("c", "two", ("shuffle_half",), "minhash"),
        ),
    )
    prepare(corpus, tmp_path / "whole", show=False)
    collect = variants._collect
    seen = []
    with monkeypatch.context() as m:

        def full(variant, *rest):
            seen.append(variant.name)
            if variant.name == "b":
                raise OSError(errno.ENOSPC, "No space left on device")
            return collect(variant, *rest)

        m.setattr(variants, "_collect", full)
        refused(corpus, tmp_path / "s", "no space left")
    with monkeypatch.context() as m:
        m.setattr(
            variants,
            "_collect",
            lambda variant, *rest: seen.append(variant.name) or collect(variant, *rest),
        )
        prepare(corpus, tmp_path / "s", show=False)
    assert seen == ["a", "b", "b", "c"]  # what was done is not done again
    assert content(tmp_path / "s") == content(tmp_path / "whole")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").iterdir() if p.name != ".lock"}
    prepare(corpus, tmp_path / "s", show=False)
    assert {
        p: p.stat().st_mtime_ns for p in (tmp_path / "s").iterdir() if p.name != ".lock"
    } == before


def test_a_store_without_the_field_is_still_opened(sources, tmp_path):
    prepare(spec(sources), tmp_path / "s", show=False)
    path = tmp_path / "s" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["corpus"]["variants"]
    path.write_text(json.dumps(manifest))
    assert prepare(spec(sources), tmp_path / "s", show=False).domains == ["one", "two"]
    refused(spec(sources, variants=(variant(),)), tmp_path / "s", "variants=")


@pytest.mark.parametrize(
    ("made", "part"),
    [
        (variant("one"), "is taken"),
        (variant("a/b"), "rename it"),
        (variant(domain="three"), "no domain three"),
        (variant(filters=("lower",)), "filters=lower"),
        (variant(dedup="fuzzy"), "dedup=fuzzy"),
        (variant(filters=("lower_case", "prose_top30")), "name it first"),
        (variant(filters=("prose_top30", "code_top30")), "name it first"),
        (variant(filters=("stop_words",)), "no text is left"),
    ],
)
def test_refusals(sources, tmp_path, made, part):
    refused(spec(sources, variants=(made,)), tmp_path / "s", part)
    assert not (tmp_path / "s" / "manifest.json").exists()


def test_two_variants_of_one_name(sources, tmp_path):
    refused(spec(sources, variants=(variant(), variant())), tmp_path / "s", "is taken")


def test_batches_and_evaluation(sources, tmp_path, capsys):
    store = prepare(
        spec(sources, variants=(variant(filters=("lower_case",)),)), tmp_path / "s", show=False
    )
    batch = BatchSource(store, (("one", 0.5), ("v", 0.5)), 16, 4, 0).steps(0, 2)
    assert batch.shape == (2, 4, 17)
    with pytest.raises(UserError, match="variant of one has no validation"):
        evaluation_windows(store, "v", 16, 4)
    assert "v " in table(store)


CONFIGS = [
    ({"v": "words|lower_case,cut_500|none"}, ("v", "words", ("lower_case", "cut_500"), "none")),
    ({"v": "digits"}, ("v", "digits", (), "exact")),
    ({"v": " digits | | minhash "}, ("v", "digits", (), "minhash")),
]


@pytest.mark.parametrize(("given", "expected"), CONFIGS)
def test_config(tmp_path, given, expected):
    change = {
        "data__variants": given,
        "data__weights": {"v": 0.25, "words": 0.75},
        "data__validation": ("words", "digits"),
    }
    made = rung(tiny.config(tmp_path, **change)).data
    assert made.corpus.variants == (expected,)
    assert dict(made.weights) == {"v": 0.25, "words": 0.75} and dict(made.evaluated) == {
        "words": 0.5,
        "digits": 0.5,
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data__variants": {"words": "digits"}}, "is a domain already"),
        ({"data__variants": {"v": "wordz|lower_case"}}, "no domain 'wordz'"),
        ({"data__variants": {"v": "words|a|b|c"}}, "more than three parts"),
        ({"data__variants": {"v": "words"}, "data__validation": ("v",)}, "training text only"),
        ({"data__variants": {"v": "words"}, "data__weights": {"v": 1.0}}, "say in data.validation"),
    ],
)
def test_bad_configs(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        rung(tiny.config(tmp_path, **change))


def test_override_on_the_command_line():
    from stepladder.configs.core.load import override

    config = base.get_config()
    override(config, "data.variants.loud", "docstrings|lower_case|none")
    assert dict(config.data.variants) == {"loud": "docstrings|lower_case|none"}
