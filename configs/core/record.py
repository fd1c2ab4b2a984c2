"""The record's schema: the names under `runs/<id>/`, the kinds of metric rows, and what each field
means.

    runs/<run_id>/
        spec.json       the run spec (configs/core/spec.py), written before step 0
        lineage.json    parent, step, data fingerprint, counts (N, FLOPs), versions: what a reader
                        needs beside the spec
        status.json     {"state": ..., "step": last committed step, ...}, rewritten at every commit
        heartbeat.json  step and time, rewritten often, never part of any equality
        metrics/PART    JSON lines; a part is immutable and covers the steps (first, last] of its
                        name
        checkpoints/    Orbax; only the trainer opens it
        profile/        an XProf trace, where `run --profile` asked for one

Every metric row has `step`, `tokens` and `kind`. `step` counts finished optimizer steps, `tokens` =
step * tokens_per_step.
"""

from collections.abc import Mapping

RUNS = "runs"
SPEC, LINEAGE, STATUS, HEARTBEAT = "spec.json", "lineage.json", "status.json", "heartbeat.json"
METRICS, CHECKPOINTS, PROFILE = "metrics", "checkpoints", "profile"
# at the top of the workdir, one entry a target, written before the target's step 0
FORECAST = "forecast.json"
# at the top of the workdir: seconds by phase of the last `run` command that ran something
TIMES = "timing.json"
STUDIES = (
    "studies"  # at the top of the workdir: numbers that probes of the model leave for the analysis
)
LADDER = "ladder.json"  # at the top of the workdir: which ladder owns it, and its run ids

# Row kinds. `train`: loss (nats/token, mean over the steps since the previous row's), grad_norm,
# learning_rate.
# `eval`: one row a domain; `timing`: wall clock, outside of every equality.
TRAIN, EVAL, TIMING = "train", "eval", "timing"
REQUIRED = ("step", "tokens", "kind")
FIELDS = {
    TRAIN: ("loss", "z_loss", "grad_norm", "learning_rate"),
    # `domain` is "all" for the mean under the weights of DataSpec.evaluated; `decayed` says whether
    # the learning rate has fallen to its end
    EVAL: ("domain", "loss", "loss_se", "bits_per_byte", "windows", "tokens_evaluated", "decayed"),
    # Rows of phase `window`, one a save, are of the steps since the one before: `seconds` of wall
    # time, in which the host waited `wait` for the device (near `seconds`: the device is never
    # idle; near 0: the host holds it up); `mfu` by counted FLOPs over the peak of all devices of
    # the mesh; `memory_bytes` the most a device ever held (on CPU: this process). Rows of the other
    # phases (PHASES) are their seconds since the save before, of a pack's the run's share: over all
    # rows they sum to the wall time. Phase `lost`: `steps` that a killed process had made after its
    # last checkpoint and that are made again, by its heartbeat, and the `seconds` they had taken.
    TIMING: ("seconds", "tokens_per_second", "mfu", "phase", "steps", "wait", "memory_bytes"),
}
LOST, WINDOW, STEPS = "lost", "window", "steps"


def goodput(seconds: Mapping[str, float]) -> float | None:
    """Share of the time of all phases (without `window`, which overlaps them) in steps that count;
    None when nothing is known.
    """
    total = sum(value for phase, value in seconds.items() if phase != WINDOW)
    return seconds.get(STEPS, 0.0) / total if total > 0 else None


# States of status.json. The first three are terminal and completed or refused; `diverged` is a
# completed state with exit status 0.
DONE, DIVERGED, FAILED, RUNNING, PENDING = "done", "diverged", "failed", "running", "pending"
TERMINAL = (DONE, DIVERGED)

# lineage.json
LINEAGE_FIELDS = tuple(
    (
        "run_id spec_hash parent data_fingerprint tokenizer params_total params_non_embedding "
        "flops_per_token_train flops_per_token_6n flops_per_token_inference tokens_per_step "
        "versions machine"
    ).split()
)


def part_name(first: int, last: int) -> str:
    """File name of the metric part that covers steps (first, last]."""
    return f"{first:09d}-{last:09d}.jsonl"


def part_range(name: str) -> tuple[int, int]:
    first, last = name.removesuffix(".jsonl").split("-")
    return int(first), int(last)
