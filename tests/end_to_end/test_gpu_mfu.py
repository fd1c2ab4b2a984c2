"""The MFU benchmark's path, in tiny shapes: what it reports hangs together."""

import importlib.util
import json

import pytest


@pytest.mark.slow
def test_the_benchmark_runs_in_small(root, capsys):
    found = importlib.util.spec_from_file_location("gpu_mfu", root / "benchmarks" / "gpu_mfu.py")
    benchmark = importlib.util.module_from_spec(found)
    found.loader.exec_module(benchmark)
    (result,) = benchmark.main(["--tiny", "--json"])
    (printed,) = json.loads(capsys.readouterr().out)
    assert printed["mfu"] == result["mfu"] and 0 < result["mfu"] < 1
    assert result["tokens_per_second"] == pytest.approx(8 * 64 / result["step_seconds"], rel=0.01)
    assert sum(result["parts"].values()) == pytest.approx(result["step_seconds"])
    assert result["executed_over_counted"] > 1.2  # remat=full computes the layers again
    assert 0 < result["memory_planned_gib"] < result[
        "memory_peak_gib"
    ] and "checkpoint costs" in benchmark.table([result])
