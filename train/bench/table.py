"""All that `stepladder bench` measures: as one body of JSON, and as text."""

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.sizes import COMPUTE_DTYPES
from stepladder.train.bench.case import Case
from stepladder.train.bench.ceilings import ceilings
from stepladder.train.bench.steps import measure
from stepladder.train.hardware.machine import (
    Machine,
    defaults_of,
    devices_of,
    platform_of,
    start_jax,
)


def machine_here(layers: str = "auto") -> Machine:
    """Start jax; one card or chip of this machine, or all cores of its CPU.

    layers: how the layers run (machine.layers).
    """
    machine = Machine(layers=layers)
    start_jax(machine)
    return machine if platform_of(machine) == "cpu" else replace(machine, devices=1)


def bench(
    cases: Sequence[Case],
    machine: Machine,
    *,
    seconds: float,
    until: float,
    show: Callable[[str], None],
) -> dict:
    """Measure the ceilings of the device at hand and a step of each case.

    Args:
        seconds: that the timed steps of a case take, about.
        until: monotonic time after which no case begins; those left are named.
        show: is given every line of the table as soon as it is known.

    Returns:
        What the JSON file holds; train/checks/measured.py reads `steps` of it.

    Raises:
        UserError: for a case with a size or tokenizer that is unknown.
    """
    body: dict[str, Any] = here(machine)
    known = defaults_of(machine).arithmetics
    arithmetics = tuple(name for name in COMPUTE_DTYPES if name in known)
    dtype = "bfloat16" if platform_of(machine) != "cpu" and "bfloat16" in known else "float32"
    specs = [case.spec(dtype) for case in cases]  # a wrong word is said before anything runs
    body["ceilings"] = asdict(ceilings(arithmetics))
    body |= {"steps": [], "left_out": []}
    show(heading(body))
    for case, spec in zip(cases, specs):
        reason = "the time was up; ask for it alone with --case"
        if time.monotonic() < until:
            try:
                body["steps"].append(measure(spec, case.runs, machine, seconds).to_json())
                show(row(body["steps"][-1]))
                continue
            except UserError as error:
                reason = str(error)
        body["left_out"].append({"case": str(case), "reason": reason})
        show(f"{case}: left out: {reason}")
    return body


def here(machine: Machine) -> dict:
    """Which device, software and code."""
    device = jax.devices()[0]
    return {
        "device_kind": device.device_kind,
        "platform": platform_of(machine),
        "devices": len(devices_of(machine)),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "jax": jax.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "commit": _commit(),
        "command": " ".join(["stepladder", *sys.argv[1:]]),
    }


def _commit() -> str:
    """The commit of the code, where it is a checkout; else the version that is installed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:  # no git here
        return metadata.version("stepladder")
    return found.stdout.strip() or metadata.version("stepladder")


def heading(body: dict) -> str:
    """The device and its ceilings."""
    rates = ", ".join(
        f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in body["ceilings"]["matmul"].items()
    )
    return (
        f"{body['device_kind']} x {body['devices']}, jax {body['jax']}, Python "
        f"{body['python']}, {body['commit']}, {body['date']}\n"
        f"copies {body['ceilings']['copy'] / 1e9:,.1f} GB/s, read and written; matrix products: "
        f"{rates}"
    )


def row(step: dict) -> str:
    """A case, in a few lines."""
    mfu = "" if step["mfu"] is None else f", MFU {step['mfu']:.1%}"
    held = "" if step["peak_gib"] is None else f", held {step['peak_gib']:.2f}"
    estimate = step["estimate_seconds"]
    lines = [
        f"{step['size']}, {step['runs']} x {step['batch']} x {step['seq_len']}, vocabulary "
        f"{step['vocab_size']}: {step['tokens_per_second']:,.0f} tokens/s{mfu}",
        f"{1e3 * step['step_seconds']:.3g} ms a step (slowest round over fastest "
        f"{step['slowest_over_fastest']:.2f}); {step['compute_dtype']}, layers {step['layers']}, "
        f"attention {step['attention']}, micro-batches of {step['micro_batch']}, remat "
        f"{step['remat']}; compiled in {step['compile_seconds']:.1f} s",
        f"memory planned {step['planned_gib']:.2f} GiB{held}",
    ]
    if estimate is not None:
        lines.append(
            f"estimated {1e3 * estimate:.3g} ms in turn, {step['step_seconds'] / estimate:.2f} of "
            f"that measured; {step['hbm_gib']:.2f} GiB through the memory a step"
        )
    unequal = step["unequal"]
    lines.append(
        f"NOT BIT FOR BIT: {len(unequal)} arrays differ, e.g. {unequal[0]}"
        if unequal
        else "repeated: equal bit for bit"
    )
    return "\n    ".join(lines)
