"""The five-minute ladder: five proxy sizes, a forecast written before the target's first step, the
target, and the truth.

    # on a laptop: about five minutes on two cores
    make demo
    # the same runs, resumable; then `stepladder report --workdir=demo`
    stepladder run --config=configs/demo.py:cpu --workdir=demo
    # the same ladder in under a minute, for tests; its forecast means nothing
    stepladder run --config=configs/demo.py:tiny --workdir=tiny

Each proxy size is one trunk at constant rate with cooldown branches (arXiv:2405.18392): three
finished losses at 0.4, 0.65 and 1 D for the price of 1.21 D. The target has at least 8x the
compute, 2x the parameters and 2x the tokens of every proxy, and the same schedule shape.
"""

from ml_collections import ConfigDict

from stepladder.configs import base
from stepladder.configs.core.branches.cooldown import with_cooldowns
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import row
from stepladder.configs.core.spec import RunSpec

# arg -> (proxies (size, millions of tokens, seeds), target (size, millions of tokens), millions of
# tokens of a learning-rate curve)
LADDERS = {
    "cpu": (
        [("6k", 4.5, 2), ("14k", 4.5, 2), ("19k", 4.1, 1), ("25k", 3.7, 1), ("37k", 2.8, 1)],
        ("84k", 12.0),
        0.7,
    ),
    "tiny": (
        [("6k", 0.2, 2), ("14k", 0.2, 2), ("19k", 0.2, 1), ("25k", 0.2, 1), ("37k", 0.12, 1)],
        ("84k", 0.5),
        0.05,
    ),
}
# of a trunk's tokens, where cooldown branches end; the trunk itself ends decayed at 1
HORIZONS = 0.4, 0.65
DECAY = 0.2
# around the rule's rate, at the smallest and the largest proxy
RATE_FACTORS = 0.125, 0.35, 1.0, 2.8, 8.0


def get_config(arg: str = "cpu") -> ConfigDict:
    """`arg`: a key of LADDERS."""
    if arg not in LADDERS:
        raise ValueError(f"config argument {arg!r}: unknown; use one of {', '.join(LADDERS)}")
    c = base.get_config()
    c.name = "demo"
    c.data.domains = (
        "python_numeric",
        "python_numeric_tests",
        "python_jax",
        "c_cpp",
        "cython",
        "docstrings",
    )
    c.data.max_mb_per_domain = 4.0 if arg == "cpu" else 0.4
    c.data.max_epochs = 2.0
    c.schedule.decay = f"{100 * DECAY:g}%"
    c.run.evals = ()
    c.run.log_every = 50 if arg == "cpu" else 5
    c.run.eval_windows = 32
    c.machine.tensorboard = False  # event files cost more than the smallest run's checkpoint
    c.demo = ConfigDict()
    c.demo.ladder = arg
    return c


def ladder(config: ConfigDict) -> list[RunSpec]:
    """Proxies with their branches, learning-rate curves, then the target."""
    proxies, target, rate_tokens = row(LADDERS, config.demo.ladder, "demo.ladder")
    runs: list[RunSpec] = []
    for size, tokens, seeds in proxies:
        for seed in range(seeds):
            trunk = _rung(
                config, size, tokens, config.seed + seed, f"proxy-{size}-s{seed}", role="proxy"
            )
            runs += with_cooldowns(trunk, HORIZONS, DECAY)
    for size in (proxies[0][0], proxies[-1][0]):
        # the trunk's: one program more would be compiled
        batch = next(run.batch_size for run in runs if run.model.size == size)
        for factor in RATE_FACTORS:
            name = f"rate-{size}-x{factor:g}"
            runs.append(
                _rung(config, size, rate_tokens, config.seed, name, factor, batch, role="sweep")
            )
    return [*runs, _rung(config, *target, config.seed, f"target-{target[0]}", role="target")]


def _rung(
    config: ConfigDict,
    size: str,
    tokens: float,
    seed: int,
    name: str,
    factor: float = 1.0,
    batch: int = 0,
    **tags: str,
) -> RunSpec:
    """One run of `tokens` million tokens at `factor` times the rule's learning rate.

    `batch` 0 is the rule's.
    """
    c = config.copy_and_resolve_references()
    c.unlock()
    c.name = name
    c.model.size = size
    c.seed = c.data_seed = seed
    c.optimizer.learning_rate_factor = factor
    c.run.duration = f"{tokens}M tokens"
    c.run.batch_size = batch
    return rung(c, **tags)
