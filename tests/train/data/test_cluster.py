"""Domains by words: groups that a reader would make, whole documents, and what is refused."""

import json

import numpy as np
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.cli import parser
from stepladder.train.data.prepare.cluster import TABLE, cluster
from stepladder.train.data.prepare.documents import expand, read

TOPICS = {
    "sea": "ship harbour sailor wave anchor tide captain rope island storm".split(),
    "kitchen": "flour butter oven sugar recipe dough spoon bake salt pan".split(),
    "court": "judge verdict lawyer appeal statute witness jury clause sentence trial".split(),
}

TEXTS = "reef ship", "oven bread", "jury court", "tree leaf"


@pytest.fixture
def sources(tmp_path):
    """Thirty documents a topic, each of a few of its words, in a file a topic."""
    rng = np.random.default_rng(0)
    for topic, words in TOPICS.items():
        rows = [{"text": " ".join(rng.choice(words, 30))} for _ in range(30)]
        text = "\n".join(json.dumps(row) for row in rows) + "\n"
        (tmp_path / f"{topic}.jsonl").write_text(text)
    return [(topic, str(tmp_path / f"{topic}.jsonl")) for topic in TOPICS]


def texts(folder) -> list[str]:
    return [d.text for d in read("x", expand("x", str(folder)))]


def test_groups_are_the_topics_and_every_document_is_in_one(sources, tmp_path):
    out = tmp_path / "out"
    found = cluster(sources, 3, out)
    assert found.rand == 1.0 and found.documents == (30, 30, 30)
    assert sorted(found.counts_KL.max(1)) == [30, 30, 30]
    for name, row_L, words in zip(found.names, found.counts_KL, found.words):
        topic = found.labels[row_L.argmax()]
        assert set(words) <= set(TOPICS[topic])
        assert texts(out / name) == texts(tmp_path / f"{topic}.jsonl")
    assert sum(found.bytes) == sum(len(t.encode()) for n in found.names for t in texts(out / n))
    table = json.loads((out / TABLE).read_text())
    assert table["k"] == 3 and [g["name"] for g in table["groups"]] == list(found.names)
    assert sum(sum(g["labels"].values()) for g in table["groups"]) == 90
    again = cluster(sources, 3, tmp_path / "again")
    assert again.words == found.words and (again.counts_KL == found.counts_KL).all()


def test_the_command_prints_the_groups(sources, tmp_path, capsys):
    words = [f"--domain={label}={path}" for label, path in sources]
    assert parser.main(["data", "cluster", "--k=3", f"--out={tmp_path / 'out'}", *words]) == 0
    said = capsys.readouterr().out
    assert "sea 100%" in said and "adjusted Rand index with the 3 labels: 1.00" in said


@pytest.mark.parametrize(
    ("k", "reason"),
    [(1, "k=1: must be 2 or more"), (60, "k=60: too many groups for 90 documents")],
)
def test_a_number_of_groups_that_cannot_be_is_refused(sources, tmp_path, k, reason):
    with pytest.raises(UserError, match=reason):
        cluster(sources, k, tmp_path / "out")


def test_an_empty_group_is_refused_and_nothing_is_written(tmp_path):
    """Forty documents, of four different texts."""
    rows = [json.dumps({"text": TEXTS[i % 4]}) for i in range(40)]
    (tmp_path / "same.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match="k=5: an empty group.*have 4 distinct ones; use k=4"):
        cluster([("same", str(tmp_path / "same.jsonl"))], 5, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["same.jsonl"]


def test_an_output_that_is_there_is_kept(sources, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out=.*is there already"):
        cluster(sources, 3, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_without_sources_names_the_field(tmp_path, capsys):
    assert parser.main(["data", "cluster", "--k=3", f"--out={tmp_path / 'out'}"]) == 1
    assert "sources: none given" in capsys.readouterr().err
