"""What a test does without a public table: skipped where none was promised, failed where one
was.
"""

import pytest

from tests.support import published_rows


def test_unset_is_a_skip(monkeypatch):
    monkeypatch.delenv("STEPLADDER_DATA", raising=False)
    with pytest.raises(pytest.skip.Exception, match="STEPLADDER_DATA is not set"):
        published_rows.path("chinchilla/svg_extracted_data.csv")


def test_set_without_the_table_is_a_failure(monkeypatch, tmp_path):
    monkeypatch.setenv("STEPLADDER_DATA", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match="no absent.csv in it"):
        published_rows.table("absent.csv")
    (tmp_path / "here.csv").write_text("N\n1\n")
    assert published_rows.table("here.csv")["N"].tolist() == [1]
