"""When does more pretraining make a model worse after it is changed (arXiv:2503.19206)?

Every size is pretrained to several budgets, each a run of its own that decays to 0, then changed:
noise of the initialisation's covariance at eight strengths, 8 and 4 bits, fine-tuning on real
question sets at a grid of learning rates.

    stepladder plan --config=configs/studies/overtraining.py:cpu
    # hours on two cores, in blocks: repeat the command until all is done; then the noise
    stepladder run --config=configs/studies/overtraining.py:cpu --workdir=W
    stepladder probe --config=configs/studies/overtraining.py:cpu --workdir=W
    stepladder report --workdir=W --study=overtraining

`:tiny` is the same in seconds, on embedded text, for tests. `:cpu` and `:gpu` read
STEPLADDER_DATA/text and STEPLADDER_DATA/tasks. `:tpu` is the paper's scale, 15M to 90M parameters
and 4 to 128 billion tokens, for `plan`: text and tasks are the user's own.

Not published for us, and our choice: shapes, budgets between the ends, rates, batch, seeds, the
strengths, the draws, how a task is tuned. Arms: separate (as above); trunk (cooldowns of one run);
no_decay (the trunk's own checkpoints, whose rate never fell); large_rate (separate, at a larger
peak). Tags: role (base | finetuned), arm, task.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from ml_collections import ConfigDict

from stepladder.configs import base
from stepladder.configs.core.branches.cooldown import branch_step, cooldown, with_checkpoints
from stepladder.configs.core.branches.finetune import Tuning, finetune
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import row
from stepladder.configs.core.measurements import Floors, Perturbation, Probe
from stepladder.configs.core.spec import RunSpec, TaskSpec
from stepladder.configs.studies.split import read_text

STUDY = "overtraining"
TEXT = (
    "science",
    "social",
    "mathematics",
    "literature",
    "law",
    "encyclopedia",
    "health",
    "web_docs",
)
DECAY = 0.2  # of a trunk's cooldowns
LARGER = 3.0  # times the peak rate, in the arm large_rate


@dataclass(frozen=True)
class Study:
    """One argument of this config.

    Attributes:
        sizes: of the models, smallest first.
        budgets: tokens a parameter, smallest first.
        seeds: of pretraining, at the smallest and the largest budget; one between.
        tasks: name -> source (train/data/tasks/sources.py).
        rates: learning rates of fine-tuning, smallest first.
        tune_steps: steps of a fine-tuning.
        strengths: of the noise, over the initialisation's standard deviation.
        draws: of the noise.
        arms: besides "separate".
        text: "embedded", or a key of split.PLACES.
    """

    sizes: tuple[str, ...]
    budgets: tuple[float, ...]
    seeds: int
    tasks: dict[str, str]
    rates: tuple[float, ...]
    tune_steps: int
    tune_batch: int
    strengths: tuple[float, ...]
    draws: int
    arms: tuple[str, ...]
    domains: tuple[str, ...]
    text: str
    tokenizer: str
    seq_len: int
    batch: int  # sequences a step; 0: the rule's
    mb: float  # of text a domain, 0: all
    windows: int = 64  # of validation, a domain and a task
    noise_windows: int = 8
    max_epochs: float = 4.0
    traces: int = 8  # vectors of the estimates of the Hessian's trace
    max_overlong: float = 0.05


STRENGTHS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
SETS = {
    "arc_easy": "questions:arc_easy",
    "sciq": "questions:sciq",
    "sst2": "questions:sst2",
    "rte": "questions:rte",
}
STUDIES = {
    "tiny": Study(
        sizes=("6k", "14k"),
        budgets=(0.5, 1.0, 2.0),
        seeds=2,
        tasks={"sums": "sums:2*200"},
        rates=(1e-3, 3e-3, 1e-2),
        tune_steps=6,
        tune_batch=4,
        strengths=(0.1, 1.0),
        draws=2,
        arms=("trunk", "no_decay"),
        domains=("docstrings", "c_cpp"),
        text="embedded",
        tokenizer="bytes",
        seq_len=32,
        batch=4,
        mb=0.2,
        windows=8,
        noise_windows=4,
        traces=2,
    ),
    "cpu": Study(
        sizes=("14k", "25k", "54k"),
        budgets=(16.0, 64.0, 256.0, 1024.0),
        seeds=3,
        tasks=SETS,
        rates=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
        tune_steps=120,
        tune_batch=16,
        strengths=STRENGTHS,
        draws=10,
        arms=("trunk", "no_decay", "large_rate"),
        domains=TEXT,
        text="labelled",
        tokenizer="bpe:512",
        seq_len=128,
        batch=16,
        mb=0.0,
        max_overlong=0.3,
    ),
    "gpu": Study(
        sizes=("84k", "200k", "450k"),
        budgets=(16.0, 64.0, 256.0, 1024.0),
        seeds=3,
        tasks=SETS,
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        tune_steps=200,
        tune_batch=32,
        strengths=STRENGTHS,
        draws=10,
        arms=("trunk", "no_decay", "large_rate"),
        domains=TEXT,
        text="labelled",
        tokenizer="bpe:2048",
        seq_len=256,
        batch=32,
        mb=0.0,
        max_epochs=40.0,
        max_overlong=0.3,
    ),
    "tpu": Study(
        sizes=("13m", "25m", "57m", "100m"),
        budgets=(67.0, 133.0, 267.0, 533.0, 1067.0, 2133.0),
        seeds=3,
        tasks={"gsm8k": "jsonl:gsm8k.jsonl", "code": "jsonl:code.jsonl"},
        rates=(4e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
        tune_steps=500,
        tune_batch=64,
        strengths=STRENGTHS,
        draws=10,
        arms=("trunk", "no_decay", "large_rate"),
        domains=("c4",),
        text="own",
        tokenizer="bpe:32768",
        seq_len=1024,
        batch=256,
        mb=0.0,
        windows=512,
        noise_windows=128,
        max_epochs=1.0,
    ),
}


def get_config(arg: str = "cpu") -> ConfigDict:
    """`arg`: a key of STUDIES."""
    if arg not in STUDIES:
        raise ValueError(f"config argument {arg!r}: unknown; use one of {', '.join(STUDIES)}")
    study = STUDIES[arg]
    c = base.get_config()
    c.name = "over"
    read_text(c, study.text, study.domains)
    c.data.tokenizer, c.data.seq_len = study.tokenizer, study.seq_len
    c.data.max_mb_per_domain, c.data.max_epochs = study.mb, study.max_epochs
    c.data.validation = study.domains
    if arg == "tiny":
        c.data.validation_fraction = 0.1
    if arg in ("gpu", "tpu"):
        c.model.compute_dtype = "bfloat16"
    # as in fine-tuning, so that losses before and after it are of one measurement
    c.model.document_mask = True
    c.schedule.kind = "cosine"
    c.run.evals = ()
    c.run.batch_size = study.batch
    c.run.eval_windows = study.windows
    c.run.log_every = 5 if arg == "tiny" else 100
    c.machine.tensorboard = False
    c.study = ConfigDict()
    c.study.arg = arg
    return c


def ladder(config: ConfigDict) -> list[RunSpec]:
    """The pretrained models of every arm, then their fine-tunings."""
    study = row(STUDIES, config.study.arg, "study.arg")
    bases = [run for size in study.sizes for run in _pretrained(config, study, size)]
    tuned = [
        child
        for run in bases
        for step in _finished(run)
        for task, source in study.tasks.items()
        for child in _tuned(study, run, step, task, source)
    ]
    return [*bases, *tuned]


def _pretrained(config: ConfigDict, study: Study, size: str) -> Iterator[RunSpec]:
    """All arms of one size; a trunk before its cooldowns."""
    ends = study.budgets[0], study.budgets[-1]
    for budget in study.budgets:
        for seed in range(study.seeds if budget in ends else 1):
            yield _separate(config, study, size, budget, seed, "separate")
        if "large_rate" in study.arms:
            yield _separate(config, study, size, budget, 0, "large_rate")
    if "trunk" in study.arms or "no_decay" in study.arms:
        yield from _trunk(config, study, size)


def _separate(
    config: ConfigDict, study: Study, size: str, budget: float, seed: int, arm: str
) -> RunSpec:
    """A run of its own, decayed to 0."""
    c = _config(config, study, size, budget, seed)
    if arm == "large_rate":
        c.optimizer.learning_rate *= LARGER
    c.name = f"{config.name}-{size}-{arm}-x{budget:g}-s{seed}"
    return rung(c, study=STUDY, role="base", arm=arm)


def _trunk(config: ConfigDict, study: Study, size: str) -> Iterator[RunSpec]:
    """One run at constant rate, with the budgets as checkpoints (no_decay), and their cooldowns."""
    c = _config(config, study, size, study.budgets[-1], 0)
    totals = [_steps(c, budget) for budget in study.budgets]
    c.schedule.kind, c.schedule.decay = "wsd", "0%"
    c.name = f"{config.name}-{size}-no_decay-s0"
    trunk = rung(c, study=STUDY, role="base", arm="no_decay")
    points = [branch_step(trunk, total, DECAY) for total in totals]
    trunk = with_checkpoints(trunk, *totals, *(points if "trunk" in study.arms else ()))
    trunk = dataclasses.replace(trunk, eval_steps=tuple(totals))
    yield trunk
    if "trunk" in study.arms:
        for total in totals:
            yield cooldown(trunk, total, DECAY, arm="trunk")


def _finished(run: RunSpec) -> tuple[int, ...]:
    """Steps at which a base model counts: its end; of the arm no_decay every budget."""
    return run.eval_steps if run.tag["arm"] == "no_decay" else (run.steps,)


def _tuned(study: Study, run: RunSpec, step: int, task: str, source: str) -> Iterator[RunSpec]:
    """A fine-tuning at every rate."""
    spec = TaskSpec(task, source, max_overlong=study.max_overlong)
    tuning = Tuning(batch_size=study.tune_batch)
    for rate in study.rates:
        yield finetune(
            run, step, study.tune_steps, spec, rate, tuning, role="finetuned", study=STUDY
        )


def _config(config: ConfigDict, study: Study, size: str, budget: float, seed: int) -> ConfigDict:
    """A config of one size at one budget, at the rate of the size's middle budget in all of them.

    One peak rate for all budgets keeps what a budget does apart from what a rate does.
    """
    c = config.copy_and_resolve_references()
    c.unlock()
    c.model.size, c.seed, c.data_seed = size, seed, seed
    c.run.duration = f"{study.budgets[len(study.budgets) // 2] / 20} chinchilla"
    known = rung(c)
    c.optimizer.learning_rate = config.optimizer.learning_rate or known.hyper.learning_rate
    c.run.batch_size = known.batch_size
    c.run.duration = f"{study.budgets[0] / 20} chinchilla"
    c.schedule.warmup = config.schedule.warmup or f"{rung(c).hyper.warmup_steps} steps"
    c.run.duration = f"{budget / 20} chinchilla"
    return c


def _steps(c: ConfigDict, budget: float) -> int:
    c = c.copy_and_resolve_references()
    c.run.duration = f"{budget / 20} chinchilla"
    return rung(c).steps


def probes(config: ConfigDict, specs: list[RunSpec]) -> list[Probe]:
    """Noise, rounding and curvature of every base model at its budgets; n-gram floors."""
    study = STUDIES[config.study.arg]
    noise: list[Probe] = [
        Perturbation(
            run=run,
            step=step,
            strengths=study.strengths,
            draws=study.draws,
            windows=study.noise_windows,
            scales=("init", "weights"),
            tensors=("matrices", "all"),
            bits=(8, 4),
            trace_probes=study.traces,
        )
        for run in specs
        if run.tag["role"] == "base"
        for step in _finished(run)
    ]
    return [Floors.of(STUDY, specs[0]), *noise]
