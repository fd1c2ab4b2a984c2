"""Progress: drawn on a terminal, silent elsewhere; items and advances pass through either way."""

import io

import pytest

from stepladder.train.processes import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "drawn"), [(Terminal(), True), (io.StringIO(), False)])
def test_drawn_on_a_terminal_only(stream, drawn, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress.track([1, 2, 3], "counted", show=True)) == [1, 2, 3]
    with progress.bar_of_bytes("measured", 2e6, show=True) as advance:
        advance(2e6)
    with progress.bars(show=True) as several:
        several.add_task("noted", total=4, note="loss 1.234")
    words = ("counted", "3/3", "measured", "2.0/2.0 MB", "noted", "0/4", "loss 1.234")
    assert [word in stream.getvalue() for word in words] == [drawn] * len(words)


def test_quiet_is_silent_on_a_terminal_too(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    assert list(progress.track("ab", "counted", show=False)) == ["a", "b"]
    with progress.bar_of_bytes("measured", None, show=False) as advance:
        advance(1)
    assert "counted" not in stream.getvalue()
    assert "measured" not in stream.getvalue()
