"""A rung of 24 runs for benchmarks/packs.py: eight learning rates x three seeds of one size;
`SIZE/I/K` is the I-th of K parts of it.

stepladder run --config=benchmarks/rung24.py:25k --workdir=W
"""

from ml_collections import ConfigDict

from stepladder.configs import base
from stepladder.configs.core.build import rung

RATES = (1e-3, 1.4e-3, 2e-3, 2.8e-3, 4e-3, 5.6e-3, 8e-3, 1.1e-2)
SEEDS = (0, 1, 2)


def get_config(arg: str = "25k") -> ConfigDict:
    size, _, part = arg.partition("/")
    c = base.get_config()
    c.model.size, c.name = size, f"rung24-{size}"
    c.data.domains, c.data.max_mb_per_domain, c.data.dedup = (
        ("python_numeric", "docstrings"),
        1.0,
        "exact",
    )
    c.run.duration, c.run.batch_size, c.run.log_every, c.run.evals, c.run.eval_windows = (
        "200 steps",
        8,
        50,
        (),
        32,
    )
    c.machine.tensorboard = False
    c.bench = ConfigDict()
    c.bench.part = part or "0/1"
    return c


def ladder(config: ConfigDict) -> list:
    """The runs of the part, in order of seed and rate."""
    index, parts = (int(n) for n in config.bench.part.split("/"))
    runs = []
    for seed in SEEDS:
        for rate in RATES:
            c = config.copy_and_resolve_references()
            c.unlock()
            c.seed, c.optimizer.learning_rate, c.name = (
                seed,
                rate,
                f"{config.name}-lr{rate:g}-s{seed}",
            )
            runs.append(rung(c, role="sweep"))
    return runs[index::parts]
