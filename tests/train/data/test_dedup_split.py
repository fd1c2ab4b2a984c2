"""Duplicates are found whatever their side; the split keeps groups whole; validation hardly
overlaps training.
"""

import random

import numpy as np
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.data import words
from stepladder.train.data.prepare import dedup, split

VOCABULARY = [f"w{i}" for i in range(5000)]


def text(seed: int, n: int = 300) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=n)


def signatures(texts: list[list[str]]) -> np.ndarray:
    return np.stack([dedup.signature(" ".join(t).encode()) for t in texts])


def test_exact_ignores_white_space_only():
    hashes = [dedup.exact_hash(t) for t in (b"a b\n c", b"a  b c ", b"A b c", b"a b c")]
    assert dedup.exact_duplicates(np.array(hashes, np.uint64)).tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_near_duplicates_are_found_and_different_texts_kept():
    base = [text(i) for i in range(40)]
    near = [[*t[:-4], "changed", "at", "the", "end"] for t in base[:10]]
    half = [t[:150] + text(900 + i, 150) for i, t in enumerate(base[10:20])]
    found = dedup.near_duplicates(signatures(base + near + half), np.ones(60, bool))
    assert not found[:40].any() and found[40:50].all() and not found[50:].any()


def test_a_document_already_out_takes_nobody_with_it():
    found = dedup.near_duplicates(signatures([text(1), text(1)]), np.array([False, True]))
    assert not found.any()


def test_signatures_are_stable_across_versions():
    assert dedup.signature(b"the same words on every machine, today and tomorrow")[:3].tolist() == [
        192221009,
        217710685,
        1500416973,
    ]


def test_words_fold_case_and_punctuation_and_text_without_spaces_has_characters():
    assert (words.word_hashes(b"Foo, (bar)") == words.word_hashes(b"foo bar")).all()
    assert len(words.word_hashes(("語" * 200).encode())) == 200


def assigned(sizes, groups, fraction=0.1, seed=0):
    sizes, groups = np.array(sizes), words.mix(np.array(groups, np.uint64))
    return split.assign(groups, sizes, np.ones(len(sizes), bool), fraction, seed, "web")


def test_split_keeps_groups_whole_and_hits_the_fraction():
    groups = np.repeat(np.arange(100), 7)
    side = assigned([1000] * 700, groups)
    assert all(len(set(side[groups == g])) == 1 for g in range(100))
    assert 0.08 <= (side == split.VALIDATION).mean() <= 0.12
    assert (side == assigned([1000] * 700, groups)).all() and (
        side != assigned([1000] * 700, groups, seed=1)
    ).any()


@pytest.mark.parametrize("sizes", [[10, 1000], [1000, 10], [500, 500, 500]])
def test_few_groups_leave_something_on_both_sides(sizes):
    assert set(assigned(sizes, range(len(sizes))).tolist()) == {split.TRAIN, split.VALIDATION}


def test_one_document_cannot_be_split():
    with pytest.raises(UserError, match=r"sources.web=1 document.*JSON lines"):
        assigned([1000], [0])


def test_overlap_is_the_share_of_13_grams():
    mine, other = text(1), text(2)
    train = [" ".join(mine[:156] + other).encode()]
    validation = [" ".join(t).encode() for t in (mine, text(3), mine[:100], ["too", "short"])]
    shares = split.overlap(lambda: validation, 10_000, train)
    assert shares == pytest.approx([0.5, 0, 1, 0], abs=0.01)


def test_overlap_from_a_sample_is_near_the_exact_one(monkeypatch):
    mine = text(1, 20_000)

    def call():
        return split.overlap(
            lambda: [" ".join(mine).encode()], 80_000, [" ".join(mine[:10_000]).encode()]
        )

    exact = call()
    monkeypatch.setattr(split, "MAX_GRAMS", 4000)
    assert call() == pytest.approx(exact, abs=0.05)
