"""The names in a record: files of `runs/<run_id>/`, kinds of metric rows, fields and their meaning.

runs/<run_id>/
    spec.json       the run spec (configs/core/spec.py), written before step 0
    lineage.json    what a reader needs beside the spec: LINEAGE
    status.json     {"state": ..., "step": last committed step, ...}, rewritten at every commit
    heartbeat.json  step and time, rewritten often, never part of any equality
    metrics/PART    JSON lines; a part is immutable and named by the steps it covers: (first,
                    last]
    checkpoints/    Orbax; only the trainer opens it. Beside it checkpoints.unreadable/: set aside,
                    because they could not be read
    probes/         measurements of its checkpoints (train/probes), where a config asks for them
    profile/        an XProf trace, where `run --profile` asked for one
"""

RUNS = "runs"
SPEC = "spec.json"
LINEAGE = "lineage.json"
STATUS = "status.json"
HEARTBEAT = "heartbeat.json"
METRICS = "metrics"
CHECKPOINTS = "checkpoints"
PROFILE = "profile"
PROBES = "probes"  # folder of a run: what probes of its checkpoints found

# At the top of a workdir.
LADDER = "ladder.json"  # which ladder owns it, and its run ids
FORECAST = "forecast.json"  # one entry a target, written before the target's step 0
TIMES = "timing.json"  # seconds by phase of the last `run` that ran something
AUTOTUNING = "autotuning"  # kernels that a GPU's compiler chose by trying them
STUDIES = "studies"  # numbers that probes of the model leave for the analysis

# Kinds of metric rows.
TRAIN = "train"  # means over the steps since the row before
EVAL = "eval"  # one domain at one step
TIMING = "timing"  # wall clock, outside of every equality

# Fields of every row.
REQUIRED = (
    "step",  # finished optimizer steps
    "tokens",  # step * tokens a step
    "kind",
)

# Fields of each kind, beside those.
FIELDS = {
    TRAIN: (
        "loss",  # nats a token
        "z_loss",
        "grad_norm",
        "learning_rate",
    ),
    EVAL: (
        # "all": the mean under the weights of DataSpec.evaluated; "task:NAME": of a fine-tuning run
        "domain",
        "loss",  # nats a token
        "loss_se",  # its standard error over windows
        "bits_per_byte",
        "windows",
        "tokens_evaluated",
        "decayed",  # whether the learning rate has fallen to its end
    ),
    TIMING: (
        "seconds",  # wall time since the save before; of several runs trained together, this one's
        "tokens_per_second",
        "mfu",  # counted FLOPs over the peak of all devices of the mesh
        "phase",  # one of clock.PHASES, or WINDOW or LOST
        "steps",
        "wait",  # seconds the host waited for the device: near `seconds`, the device is never idle
        "memory_bytes",  # the most a device ever held (on CPU: this process)
    ),
}

# Phases with a meaning of their own. All phases but `window` sum to the wall time.
STEPS = "steps"  # in steps that count
LOST = "lost"  # in `steps` steps that a killed process had made after its last checkpoint
WINDOW = "window"  # one row a save, over the steps since the one before: overlaps the others

# States of status.json.
PENDING = "pending"
RUNNING = "running"
DONE = "done"
DIVERGED = "diverged"  # completed, with exit status 0: the loss was not finite
FAILED = "failed"
TERMINAL = (DONE, DIVERGED)  # nothing is left to do

# Fields of lineage.json.
LINEAGE_FIELDS = (
    "run_id",
    "spec_hash",
    "parent",  # run id and step of the checkpoint a branch starts from
    "data_fingerprint",
    "tokenizer",
    "task",  # of a fine-tuning run: its examples, those left out, how often it sees them
    "params_total",
    "params_non_embedding",
    "flops_per_token_train",
    "flops_per_token_6n",
    "flops_per_token_inference",
    "tokens_per_step",
    "versions",
    "machine",
    "arithmetic",  # model/arithmetic.py; without it, float32 of a GPU was TF32, of a TPU one pass
    "executables",  # step -> hash of the executable that ran from there; not on CPUs
)


def part_name(first: int, last: int) -> str:
    """File name of the metric part that covers steps (first, last]."""
    return f"{first:09d}-{last:09d}.jsonl"


def part_range(name: str) -> tuple[int, int]:
    """The inverse of `part_name`."""
    first, last = name.removesuffix(".jsonl").split("-")
    return int(first), int(last)
