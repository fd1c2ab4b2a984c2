"""The sweep behind configs/core/hyperparameters.py: learning rate, batch, weight decay and warm-up
at three sizes and two horizons.

    # learning rate x batch x D: RATE, RATE_N, RATE_D, BATCH, BATCH_D
    stepladder run --config=configs/sweep.py:rate --workdir=sweep/rate
    # the same at a longer D
    stepladder run --config=configs/sweep.py:long --workdir=sweep/long
    # weight decay and warm-up: DECAY, WARMUP
    stepladder run --config=configs/sweep.py:decay --workdir=sweep/decay
    # the constants, with standard errors
    python benchmarks/rule_sweep.py sweep/rate sweep/long sweep/decay

The result is committed as benchmarks/rule_sweep.csv.
"""

from ml_collections import ConfigDict

from stepladder.configs import base
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import row
from stepladder.configs.core.spec import RunSpec

SIZES = ("6k", "25k", "84k")


def get_config(arg: str = "rate") -> ConfigDict:
    """`arg`: a key of GRIDS."""
    c = base.get_config()
    c.name = "sweep"
    c.data.max_mb_per_domain = 4.0
    c.run.evals = ()
    c.run.eval_windows = 64
    c.machine.tensorboard = False
    c.sweep = ConfigDict()
    c.sweep.sizes = SIZES
    if arg not in GRIDS:
        raise ValueError(f"config argument {arg!r}: unknown; use one of {', '.join(GRIDS)}")
    c.sweep.grid = arg
    return c


RATES = (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)
# grid -> (tokens in millions, batch, learning rate, DECAY of the rule, warm-up) of every run
GRIDS = {
    "rate": [
        (d, b, r, 1.0, "5%")
        for d in (0.5, 2.0)
        for b in (8, 16, 32)
        for r in RATES
        if b == 8 or r > 2.5e-3
    ],
    "long": [(6.0, 8, r, 1.0, "5%") for r in (1.25e-3, 2.5e-3, 5e-3, 1e-2)],
    "decay": [(1.0, 16, 1e-2, w, "5%") for w in (0.0, 0.3, 1.0, 3.0)]
    + [(1.0, 16, 1e-2, 1.0, u) for u in ("1%", "2%", "15%")],
}
# the two smaller sizes settle the batch; the largest is too slow here for all three
LARGEST_BATCH = {"84k": 8}


def ladder(config: ConfigDict) -> list[RunSpec]:
    """Every size of the sweep over one grid."""
    runs: list[RunSpec] = []
    for size in config.sweep.sizes:
        for tokens, batch, rate, decay, warmup in row(GRIDS, config.sweep.grid, "sweep.grid"):
            if config.sweep.grid == "rate" and batch > LARGEST_BATCH.get(size, batch):
                continue
            c = config.copy_and_resolve_references()
            c.unlock()
            c.model.size = size
            c.run.batch_size = batch
            c.run.duration = f"{tokens}M tokens"
            c.schedule.warmup = warmup
            c.optimizer.learning_rate = rate
            c.optimizer.weight_decay = decay / round(tokens * 1e6 / (batch * c.data.seq_len))
            c.name = f"sweep-{size}-{tokens}M-b{batch}-lr{rate:g}-wd{decay:g}-w{warmup.rstrip('%')}"
            runs.append(rung(c, role="sweep"))
    return runs
