"""Every program of the shipped TPU ladders, compiled for its slice without a TPU: memory,
collectives, time.

About half an hour on two cores.

    # compile all, write benchmarks/tpu_compiled.json
    python benchmarks/tpu_compiled.py
    # only these, the others stay
    python benchmarks/tpu_compiled.py v5e-256 v4-16
    # the table as it stands, as Markdown
    python benchmarks/tpu_compiled.py --show
    # one program of the smallest slice, compiled and printed, nothing written
    python benchmarks/tpu_compiled.py --tiny

`stepladder plan --config=configs/ladders/chinchilla.py:v5e-256 --topology=v5e:16x16` says the same
of one ladder, and more of it.
"""

import dataclasses
import json
import sys
from importlib import metadata
from pathlib import Path

from stepladder.train.hardware import topology

topology.hush()

from stepladder.configs.core.load import Loaded, load  # noqa: E402
from stepladder.configs.ladders.chinchilla import TOPOLOGIES  # noqa: E402
from stepladder.train.hardware.machine import Machine  # noqa: E402
from stepladder.train.ladder import executables  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".json")
KEPT = tuple(
    (
        "fingerprint size runs members mesh micro_batch local_batch remat attention bytes memory "
        "seconds"
    ).split()
)


def opened(name: str) -> tuple[Loaded, Machine]:
    """The ladder `name` and the machine that compiles for its slice."""
    loaded = load(f"{ROOT}/configs/ladders/chinchilla.py:{name}")
    return loaded, dataclasses.replace(
        Machine.from_config(loaded.config), topology=TOPOLOGIES[name], compilation_cache="off"
    )


def read_table() -> dict:
    """What was measured before."""
    return json.loads(TABLE.read_text()) if TABLE.exists() else {"ladders": {}}


def measure(name: str) -> list[dict]:
    """One row an executable."""
    rows, (loaded, machine) = [], opened(name)
    for found in executables.compile_all(loaded.specs, machine):
        print(executables.row(found), flush=True)
        body = found.to_json()
        sent = sum(c["bytes"] for c in found.collectives)
        rows.append(
            {
                **{key: body[key] for key in KEPT},
                "sent": sent,
                "of_formula": sent / found.formula if found.formula else None,
                "kernels": found.kernels,
                "estimate": body["estimate"],
            }
        )
    return rows


def markdown(table: dict) -> str:
    """The table for docs/benchmarks/tpu_programs.md."""
    lines = [
        (
            "| ladder, slice | size | runs, at once | mesh | micro-batch, remat | GiB a device | "
            "of HBM | sent, of formula | estimated MFU | compiled | fingerprint |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in table["ladders"].items():
        for row in rows:
            mesh = " x ".join(f"{axis} {size}" for axis, size in row["mesh"].items() if size > 1)
            mfu = (
                f"{row['estimate']['in_turn']['mfu']:.0%} - "
                f"{row['estimate']['overlapped']['mfu']:.0%}"
            )
            sent = f"{row['sent'] / 2**20:,.0f} MiB" + (
                f", {row['of_formula']:.2f}" if row["of_formula"] else ""
            )
            lines.append(
                f"| {name}, {TOPOLOGIES[name]} | {row['size']} | {row['runs']}, {row['members']} | "
                f"{mesh} | {row['micro_batch']} of {row['local_batch']}, {row['remat']} | "
                f"{row['bytes'] / 2**30:.1f} | {row['bytes'] / row['memory']:.0%} | {sent} | {mfu} "
                f"| {row['seconds']:.0f} s | `{row['fingerprint']}` |"
            )
    return "\n".join(lines)


def tiny() -> None:
    """Compile the program of the first run of the smallest slice's ladder."""
    loaded, machine = opened("v4-16")
    for found in executables.compile_all(loaded.specs[:1], machine):
        print(executables.row(found))


def main(words: list[str]) -> None:
    if "--tiny" in words:
        return tiny()
    table = read_table()
    if "--show" not in words:
        for name in words or TOPOLOGIES:
            table["ladders"][name] = measure(name)
            table["versions"] = {
                package: metadata.version(package) for package in ("jax", "libtpu")
            }
            table["ladders"] = {
                known: table["ladders"][known] for known in TOPOLOGIES if known in table["ladders"]
            }
            TABLE.write_text(json.dumps(table, indent=1) + "\n")
    print(markdown(table))


if __name__ == "__main__":
    main(sys.argv[1:])
