"""Where to stop training one model on everything and specialise (arXiv:2603.19149)?

One trunk a size at constant learning rate on the even mixture of K labelled domains; at a share s
of every total T it is copied to K experts, which train on one domain each and decay to the end of
T. s = 1 is the trunk cooled down, s = 0 an expert from scratch.

    # what would run, and what the trunks save
    stepladder plan --config=configs/studies/split.py:cpu
    # an hour or two on two cores, in blocks: repeat the command until all is done
    stepladder run --config=configs/studies/split.py:cpu --workdir=W
    # what routing by a prefix costs, and what counting n-grams reaches
    stepladder probe --config=configs/studies/split.py:cpu --workdir=W
    stepladder report --workdir=W --study=split

`:tiny` is the same in seconds, on embedded text, for tests. `:cpu` and `:gpu` read
STEPLADDER_DATA/text. `:tpu` is the paper's scale, for `plan`: K domains of the user's own text.
`:clusters` is `:cpu` with four domains that were found, not given:

    stepladder data cluster --k=4 --out=text $STEPLADDER_DATA/text/*.jsonl.gz
    cd text && stepladder run --config=../configs/studies/split.py:clusters --workdir=../W

`:phonebook` is the paper's toy, four books of facts (`stepladder data phonebook --out=text`).

Not published for us, and our choice: the law, the fractions, the schedule (the trunk's rate, with
the last 20 % of T decayed; experts keep the moments and read on in text that the trunk has not
read), sizes, budgets and K. Tags: role (trunk, dense, expert), own (an expert's domain), arm
(shared: all experts from one trunk; unshared: every expert from a trunk of its own seed).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ml_collections import ConfigDict

from stepladder.configs import base
from stepladder.configs.core.branches.cooldown import branch_step, cooldown
from stepladder.configs.core.branches.mixture import specialise
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import row
from stepladder.configs.core.measurements import Floors, Probe, Routing
from stepladder.configs.core.spec import RunSpec

STUDY = "split"
DECAY = 0.2  # of a total, decayed at its end
PARTS = 10  # a total has a multiple of so many steps, so that its fractions are whole steps

# Where a domain's text is: public data, or files of the user's.
PLACES = {"labelled": "$STEPLADDER_DATA/text/{}.jsonl.gz", "own": "{}/*.jsonl.zst"}


@dataclass(frozen=True)
class Study:
    """One argument of this config.

    Attributes:
        sizes: of the models, smallest first.
        totals: T, in tokens a parameter.
        fractions: s, shares of T before the split; multiples of 1 / PARTS.
        domains: K labelled ones.
        text: "embedded", or a key of PLACES.
        unshared: sizes at which experts start from trunks of their own too.
    """

    sizes: tuple[str, ...]
    totals: tuple[float, ...]
    fractions: tuple[float, ...]
    domains: tuple[str, ...]
    text: str
    tokenizer: str
    seq_len: int
    batch: int  # sequences a step; 0: the rule's
    mb: float  # of text a domain, 0: all
    unshared: tuple[str, ...] = ()
    windows: int = 64  # of validation, a domain
    max_epochs: float = 4.0


STUDIES = {
    "tiny": Study(
        sizes=("6k", "14k"),
        totals=(1.0, 2.0),
        fractions=(0.0, 0.4, 0.8, 1.0),
        domains=("docstrings", "c_cpp"),
        text="embedded",
        tokenizer="bytes",
        seq_len=32,
        batch=4,
        mb=0.2,
        unshared=("6k",),
        windows=8,
    ),
    "cpu": Study(
        sizes=("6k", "14k", "25k", "37k"),
        totals=(10.0, 20.0, 40.0, 80.0),
        fractions=(0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
        domains=("science", "law", "literature", "web_docs"),
        text="labelled",
        tokenizer="bpe:1024",
        seq_len=128,
        batch=16,
        mb=0.0,
        unshared=("14k",),
    ),
    "gpu": Study(
        sizes=("84k", "200k", "450k", "1m", "3m"),
        totals=(5.0, 10.0, 20.0, 40.0),
        fractions=(0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
        domains=("science", "law", "literature", "web_docs"),
        text="labelled",
        tokenizer="bpe:2048",
        seq_len=256,
        batch=32,
        mb=0.0,
        unshared=("84k",),
    ),
    "tpu": Study(
        sizes=("200m", "400m", "1b", "3b"),
        totals=(10.0, 20.0, 40.0, 80.0),
        fractions=(0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
        domains=tuple(f"cluster{k}" for k in range(8)),
        text="own",
        tokenizer="bpe:32768",
        seq_len=2048,
        batch=0,
        mb=0.0,
        windows=512,
        max_epochs=1.0,
    ),
}


# as :cpu, of domains that `stepladder data cluster` made: no label of text is needed
STUDIES["clusters"] = replace(
    STUDIES["cpu"], domains=tuple(f"cluster{k}" for k in range(4)), text="own"
)
# facts to remember, which one small model cannot all hold (`stepladder data phonebook`)
STUDIES["phonebook"] = replace(
    STUDIES["cpu"],
    sizes=("14k", "25k"),
    totals=(80.0, 160.0, 320.0),
    domains=tuple(f"phonebook{k}" for k in range(1, 5)),
    text="own",
    tokenizer="bytes",
    unshared=(),
    max_epochs=100.0,
)


def get_config(arg: str = "cpu") -> ConfigDict:
    """`arg`: a key of STUDIES."""
    if arg not in STUDIES:
        raise ValueError(f"config argument {arg!r}: unknown; use one of {', '.join(STUDIES)}")
    study = STUDIES[arg]
    c = base.get_config()
    c.name = "split"
    read_text(c, study.text, study.domains)
    c.data.tokenizer, c.data.seq_len = study.tokenizer, study.seq_len
    c.data.max_mb_per_domain, c.data.max_epochs = study.mb, study.max_epochs
    c.data.validation = study.domains
    if arg == "tiny":
        c.data.validation_fraction = 0.1
    if arg in ("gpu", "tpu"):
        c.model.compute_dtype = "bfloat16"
    c.schedule.kind = "wsd"
    c.schedule.decay = "0%"
    c.run.evals = ()
    c.run.batch_size = study.batch
    c.run.eval_windows = study.windows
    c.run.log_every = 5 if arg == "tiny" else 50
    c.machine.tensorboard = False
    c.study = ConfigDict()
    c.study.arg = arg
    c.study.seeds = 1  # trunks a size, each with its experts
    return c


def read_text(c: ConfigDict, text: str, domains: tuple[str, ...]) -> None:
    """Let a config read labelled domains from a place of PLACES, or embedded ones."""
    if text == "embedded":
        c.data.domains = domains
        return
    c.data.corpus, c.data.domains = text, ()
    c.data.sources = ConfigDict({domain: PLACES[text].format(domain) for domain in domains})


def ladder(config: ConfigDict) -> list[RunSpec]:
    """Of every size and seed: a trunk, its cooldowns, its experts at every total and fraction."""
    study = row(STUDIES, config.study.arg, "study.arg")
    runs: list[RunSpec] = []
    for size in study.sizes:
        for seed in range(config.study.seeds):
            runs += _of_trunk(config, study, size, config.seed + seed, "shared", study.domains)
            runs += _from_scratch(config, study, size, config.seed + seed)
        if size in study.unshared:
            for k, domain in enumerate(study.domains):
                seed = config.seed + config.study.seeds + k
                runs += _of_trunk(config, study, size, seed, "unshared", (domain,))
    return runs


def _of_trunk(
    config: ConfigDict,
    study: Study,
    size: str,
    seed: int,
    arm: str,
    domains: tuple[str, ...],
) -> list[RunSpec]:
    """A trunk up to the last branch point; its dense models (s = 1); its experts."""
    c = _config(config, study, size, seed, f"{config.name}-{size}-{arm}-s{seed}")
    totals = [_steps(c, total) for total in study.totals]
    splits = [(total, round(s * total)) for total in totals for s in study.fractions if 0 < s < 1]
    cooled = [branch_step(rung(c), total, DECAY) for total in totals if 1.0 in study.fractions]
    points = sorted({step for _, step in splits} | set(cooled))
    c.run.duration = f"{points[-1]} steps"
    c.run.checkpoints = tuple(f"{step} steps" for step in points)
    tags = {"study": STUDY, "arm": arm, "K": str(len(study.domains))}
    trunk = rung(c, role="trunk", **tags)
    dense = [cooldown(trunk, total, DECAY, role="dense") for total in totals] if cooled else []
    experts = [
        specialise(trunk, step, total - step, domain, decay_fraction=DECAY, role="expert")
        for total, step in splits
        for domain in domains
    ]
    return [trunk, *dense, *experts]


def _from_scratch(config: ConfigDict, study: Study, size: str, seed: int) -> Iterator[RunSpec]:
    """Experts that share nothing: s = 0."""
    if 0.0 not in study.fractions:
        return
    for total in study.totals:
        for domain in study.domains:
            c = _config(config, study, size, seed)
            steps = _steps(c, total)
            c.name = f"{config.name}-{size}-{domain}-s{seed}-0to{steps}"
            c.run.duration, c.schedule.decay = f"{steps} steps", f"{100 * DECAY:g}%"
            c.data.weights = ConfigDict({domain: 1.0})
            tags = {"study": STUDY, "arm": "unshared", "K": str(len(study.domains))}
            yield rung(c, role="expert", own=domain, **tags)


def _config(config: ConfigDict, study: Study, size: str, seed: int, name: str = "") -> ConfigDict:
    """A config of one size, with the hyperparameters that all of its runs share.

    Experts have their trunk's rate, so it is the rule's at the middle total; the batch too; the
    warm-up is the rule's at the shortest.
    """
    c = config.copy_and_resolve_references()
    c.unlock()
    c.model.size, c.seed, c.data_seed = size, seed, seed
    c.name = name or c.name
    c.run.duration = f"{study.totals[len(study.totals) // 2] / 20} chinchilla"
    middle = rung(c)
    c.run.batch_size = middle.batch_size
    c.run.duration = f"{study.totals[0] / 20} chinchilla"
    shortest = rung(c)
    c.optimizer.learning_rate = config.optimizer.learning_rate or middle.hyper.learning_rate
    c.schedule.warmup = config.schedule.warmup or f"{shortest.hyper.warmup_steps} steps"
    return c


def _steps(c: ConfigDict, tokens_a_parameter: float) -> int:
    """Steps of a total, rounded to a multiple of PARTS."""
    c = c.copy_and_resolve_references()
    c.run.duration = f"{tokens_a_parameter / 20} chinchilla"
    return PARTS * max(1, round(rung(c).steps / PARTS))


def probes(config: ConfigDict, specs: list[RunSpec]) -> list[Probe]:
    """N-gram floors of the even mixture; of every set of experts what routing by a prefix costs."""
    study = row(STUDIES, config.study.arg, "study.arg")
    sets: dict[str, list[RunSpec]] = {}
    for run in specs:
        if run.tag["role"] == "expert" and run.tag["arm"] == "shared":
            assert run.parent
            name = f"{run.model.size}-s{run.hyper.seed}-{run.parent.step}to{run.steps}"
            sets.setdefault(name, []).append(run)
    routed = [
        Routing(STUDY, name, tuple(experts), study.seq_len // 4, study.windows)
        for name, experts in sets.items()
    ]
    return [Floors.of(STUDY, specs[0]), *routed]
