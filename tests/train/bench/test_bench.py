"""`stepladder bench`: what a case is, what a row says, a step that does not repeat is found, the
file is one that `plan` reads.
"""

import itertools
import json
import time

import numpy as np
import pytest

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.sizes import SIZES
from stepladder.train.bench import case, steps, table
from stepladder.train.bench.case import TINY, Case
from stepladder.train.checks import measured as measured_module
from stepladder.train.checks.measured import measured
from stepladder.train.cli import parser
from stepladder.train.hardware.machine import Machine
from tests.support.errors import assert_user_error

MACHINE = Machine(devices=2)


@pytest.fixture(scope="module")
def body():
    """Both tiny cases, measured once."""
    lines = []
    body = table.bench(TINY, MACHINE, seconds=0.02, until=time.monotonic() + 600, show=lines.append)
    return body, lines


def test_a_case_is_read_as_it_is_written():
    for known in (*TINY, *case.LARGE, *case.CASES["gpu"], *case.CASES["cpu"]):
        assert Case.parse(str(known)) == known
        spec = known.spec("float32")
        assert (spec.batch_size, spec.data.seq_len) == (known.batch, known.seq_len)
        assert known.size in SIZES and spec.hyper.total_steps == 100


@pytest.mark.parametrize("text", ["1m", "1m:1:32:256", "1m:0:32:256:bytes", "1m:x:32:256:bytes"])
def test_what_is_no_case_is_refused(text):
    with pytest.raises(UserError) as raised:
        Case.parse(text)
    assert_user_error(raised, field="case", value=text, remedy="1m:32:32:256:bytes")


def test_a_wrong_size_is_said_before_anything_runs():
    lines = []
    wrong = [TINY[0], Case("7q", 1, 4, 32, "bytes")]
    with pytest.raises(UserError) as raised:
        table.bench(wrong, MACHINE, seconds=1, until=0.0, show=lines.append)
    assert_user_error(raised, field="model.size", value="7q", remedy="did you mean")
    assert lines == []


def test_a_row_hangs_together(body):
    found, lines = body
    assert found["left_out"] == [] and len(found["steps"]) == len(TINY)
    for known, row in zip(TINY, found["steps"]):
        tokens = known.runs * known.batch * known.seq_len
        assert row["tokens_per_second"] == pytest.approx(tokens / row["step_seconds"], rel=1e-3)
        assert (row["size"], row["runs"]) == (known.size, known.runs)
        assert row["slowest_over_fastest"] >= 1 and row["planned_gib"] > 0
        assert row["unequal"] == ()
    assert all(rate > 0 for rate in found["ceilings"]["matmul"].values())
    assert "equal bit for bit" in lines[1] and found["device_kind"] in lines[0]


def test_when_the_time_is_up_the_rest_is_named():
    lines = []
    found = table.bench(TINY, MACHINE, seconds=0.02, until=0.0, show=lines.append)
    assert found["steps"] == []
    assert [left["case"] for left in found["left_out"]] == [str(known) for known in TINY]
    assert "left out: the time was up" in lines[-1]


def test_steps_that_do_not_repeat_are_found(monkeypatch):
    """Planted: every state starts from other parameters."""
    spec = TINY[0].spec("float32")
    bench = steps.Bench(spec, 1, MACHINE)
    bench.prepare()
    program, seeds = bench.pack.program, itertools.count()

    def another_state() -> dict:
        hyper = {**steps.traced_hypers(spec), "seed": np.int32(next(seeds))}
        return bench.pack.place([program.init(program.put(hyper))])

    monkeypatch.setattr(bench, "first_state", another_state)
    assert "['params']['embed']" in bench.unequal()


def test_plan_reads_the_file(body, tmp_path, monkeypatch):
    found, _ = body
    text = json.dumps({**found, "device_kind": "NVIDIA H100 80GB HBM3"})
    (tmp_path / f"h100-{found['date']}.json").write_text(text)
    monkeypatch.setattr(measured_module, "FOLDER", tmp_path)
    measured_module._steps.cache_clear()
    row = found["steps"][1]
    there = measured("NVIDIA H100 80GB HBM3", TINY[1].spec("float32"), TINY[1].runs, row["layers"])
    measured_module._steps.cache_clear()
    assert there.tokens_per_second == row["tokens_per_second"]
    assert there.peak_gib == row["peak_gib"]


def test_the_command_writes_one_file_a_device_and_day(tmp_path, capsys):
    words = ["bench", "--case=6k:1:4:32:bytes", "--tiny", "--json", f"--out={tmp_path}"]
    assert parser.main(words) == 0
    (path,) = tmp_path.iterdir()
    printed = json.loads(capsys.readouterr().out)
    assert json.loads(path.read_text()) == printed
    assert path.name == f"cpu-{printed['date']}.json"
    assert parser.main(["bench", "--seconds=0"]) == 1
    assert "seconds=0.0" in capsys.readouterr().err
