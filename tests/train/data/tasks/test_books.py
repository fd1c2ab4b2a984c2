"""The phonebook toy as text: every record on as many pages as asked for, none in two books."""

from collections import Counter

import pytest

from stepladder.configs.core.errors import UserError
from stepladder.train.cli import parser
from stepladder.train.data.prepare.documents import expand, read
from stepladder.train.data.tasks import phonebook
from stepladder.train.data.tasks.books import RECORDS_A_PAGE, write_books


def pages(folder) -> list[str]:
    return [d.text for d in read("x", expand("x", str(folder)))]


def test_every_record_is_on_its_pages(tmp_path):
    names = write_books(tmp_path / "out", 3, 20, 5)
    assert names == ["phonebook1", "phonebook2", "phonebook3"]
    seen = []
    for book, name in enumerate(names, 1):
        found = pages(tmp_path / "out" / name)
        assert max(len(page.splitlines()) for page in found) == RECORDS_A_PAGE
        counts = Counter(line for page in found for line in page.splitlines())
        held = phonebook.load(f"{book}/3*20@0").training
        assert counts == {f"{e.prompt}{e.completion}": 5 for e in held}
        seen += counts
        assert len(set(found)) == len(found), "no page is twice"
    assert len(set(seen)) == 60
    write_books(tmp_path / "again", 3, 20, 5)
    assert pages(tmp_path / "again" / "phonebook2") == pages(tmp_path / "out" / "phonebook2")


@pytest.mark.parametrize(
    ("books", "records", "copies", "reason"),
    [
        (1, 20, 5, "books=1: too few"),
        (2, 3, 5, "records=3: too few"),
        (2, 20, 1, "copies=1: too few"),
        (2, 10**6, 2, "at most"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path, books, records, copies, reason):
    with pytest.raises(UserError, match=reason):
        write_books(tmp_path / "out", books, records, copies)
    assert not (tmp_path / "out").exists()


def test_the_command_keeps_a_folder_that_is_there(tmp_path, capsys):
    out = f"--out={tmp_path / 'out'}"
    assert parser.main(["data", "phonebook", out, "--records=20", "--copies=2"]) == 0
    assert "phonebook1, phonebook2, phonebook3, phonebook4" in capsys.readouterr().out
    assert parser.main(["data", "phonebook", out]) == 1
    assert "is there already" in capsys.readouterr().err
