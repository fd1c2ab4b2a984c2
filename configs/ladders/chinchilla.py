"""Chinchilla ladders for real hardware: trunks with cooldowns at several sizes, learning-rate
curves at the small ones, and a target.

    # what it costs, and whether it fits; needs no TPU
    stepladder plan --config=configs/ladders/chinchilla.py:v5e-256 --topology=v5e:16x16
    # the same command on every host
    stepladder run --config=configs/ladders/chinchilla.py:v5e-256 --workdir=W
    # the same shape on a laptop in minutes
    stepladder run --config=configs/ladders/chinchilla.py:cpu --workdir=W

The argument names a budget, not a machine: global batches, steps and checkpoints are the same
wherever it runs. A trunk trains at constant rate to its longest horizon and is cooled down at
shorter ones (arXiv:2405.18392). Batch and learning rate follow Step Law
(`hyperparameters.step_law`): our own rule was fitted on models a thousand times smaller.

Text is yours: `--config.data.sources.web='PATH/*.parquet'`; the largest run of v5e-256 reads 140
billion tokens once.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from stepladder.configs import base
from stepladder.configs.core import counting, durations, hyperparameters
from stepladder.configs.core.branches.cooldown import with_cooldowns
from stepladder.configs.core.build import model_spec, rung
from stepladder.configs.core.errors import row
from stepladder.configs.core.spec import RunSpec


class Ladder(NamedTuple):
    """Sizes of a ladder.

    `repeated` are the proxies for which more seeds and a learning-rate curve are affordable.
    """

    proxies: tuple[str, ...]
    target: str
    repeated: tuple[str, ...]


SMALL = ("13m", "25m", "57m")
LADDERS = {
    "tiny": Ladder(("6k", "14k"), "25k", ()),  # for tests
    "cpu": Ladder(("6k", "14k", "25k"), "54k", ("6k",)),
    "gpu": Ladder((*SMALL, "100m"), "400m", SMALL),  # one H100: about two days
    "gpu-8": Ladder((*SMALL, "100m", "200m"), "1b", SMALL),
    "v4-16": Ladder((*SMALL, "100m", "200m"), "1b", SMALL),
    "v5e-16": Ladder((*SMALL, "100m", "200m"), "1b", SMALL),
    "v6e-16": Ladder((*SMALL, "100m", "200m", "400m"), "1b", SMALL),
    "v5p-64": Ladder((*SMALL, "100m", "200m", "400m"), "3b", SMALL),
    "v5e-256": Ladder((*SMALL, "100m", "200m", "400m", "1b"), "7b", (*SMALL, "100m")),
    "v6e-256": Ladder((*SMALL, "100m", "200m", "400m", "1b", "3b"), "7b", (*SMALL, "100m")),
}
TOPOLOGIES = {  # the TPU slices that these budgets are named for
    "v4-16": "v4:2x2x2",
    "v5e-16": "v5e:4x4",
    "v6e-16": "v6e:4x4",
    "v5p-64": "v5p:2x4x4",
    "v5e-256": "v5e:16x16",
    "v6e-256": "v6e:16x16",
}
HORIZONS = (0.25, 0.5)  # of a trunk's tokens, where its cooldowns end
DECAY = 0.2
SEEDS = 3
# of the learning-rate curve, which is one Chinchilla long
RATE_FACTORS = 0.25, 0.5, 1.0, 2.0, 4.0


def get_config(arg: str = "v5e-256") -> ConfigDict:
    """`arg`: a key of LADDERS."""
    if arg not in LADDERS:
        raise ValueError(f"config argument {arg!r}: unknown; use one of {', '.join(LADDERS)}")
    c = base.get_config()
    c.name = "chinchilla"
    c.schedule.decay = f"{100 * DECAY:g}%"
    c.run.evals = ()
    if arg in ("tiny", "cpu"):
        c.data.max_mb_per_domain, c.run.log_every = {"tiny": 0.3, "cpu": 2.0}[arg], 20
    else:
        c.data.corpus, c.data.domains = "web", ()
        c.data.sources = ConfigDict({"web": "texts/web/*.parquet"})
        c.data.tokenizer = "bpe:32768"
        c.data.seq_len = 2048
        c.data.max_mb_per_domain = 0.0
        c.data.validation_fraction = 0.0005
        c.data.max_epochs = 1.0
        c.model.compute_dtype = "bfloat16"
        c.run.log_every, c.run.eval_windows = 20, 512
    c.chinchilla = ConfigDict()
    c.chinchilla.ladder = arg
    # of a proxy, in multiples of 20 tokens a parameter
    c.chinchilla.trunk = 0.2 if arg == "tiny" else 4.0
    c.chinchilla.target = 0.1 if arg == "tiny" else 1.0
    return c


def ladder(config: ConfigDict) -> list[RunSpec]:
    """Proxies with their cooldowns, learning-rate curves, then the target."""
    chosen = row(LADDERS, config.chinchilla.ladder, "chinchilla.ladder")
    runs: list[RunSpec] = []
    for size in chosen.proxies:
        for seed in range(SEEDS if size in chosen.repeated else 1):
            trunk = _rung(
                config, size, config.chinchilla.trunk, seed, f"proxy-{size}-s{seed}", role="proxy"
            )
            runs += with_cooldowns(trunk, HORIZONS, DECAY)
        if size in chosen.repeated:
            batch = runs[-1].batch_size  # the trunk's: its program is then the same
            runs += [
                _rung(config, size, 1.0, 0, f"rate-{size}-x{factor:g}", factor, batch, role="sweep")
                for factor in RATE_FACTORS
            ]
    name = f"target-{chosen.target}"
    target = _rung(config, chosen.target, config.chinchilla.target, 0, name, role="target")
    return [*runs, target]


def _rung(
    config: ConfigDict,
    size: str,
    chinchilla: float,
    seed: int,
    name: str,
    factor: float = 1.0,
    batch: int = 0,
    **tags: str,
) -> RunSpec:
    """One run of `chinchilla` times 20 tokens a parameter.

    Large runs, whose text is the user's, take batch and rate from `step_law`; the others from the
    project's own rule.
    """
    c = config.copy_and_resolve_references()
    c.unlock()
    c.name = name
    c.model.size = size
    c.seed, c.data_seed = config.seed + seed, config.data_seed + seed
    c.optimizer.learning_rate_factor = factor
    c.run.duration = f"{chinchilla:g} chinchilla"
    c.run.batch_size = batch
    if c.data.tokenizer != "bytes":
        counts = counting.count(model_spec(c), c.data.seq_len)
        tokens = durations.steps(c.run.duration, tokens_per_step=1, params=counts.params_total)
        c.run.batch_size, c.optimizer.learning_rate = hyperparameters.step_law(
            counts.params_non_embedding, tokens, c.data.seq_len, batch
        )
    return rung(c, **tags)
