"""Does the best learning rate stay where it is as width grows?

Standard against muP, at a fixed depth, on real text.

    # then `stepladder report --workdir=W --study=learning_rate`
    stepladder run --config=configs/studies/parametrization.py:cpu --workdir=W
    # with --widths=64,128,256,512,1024
    stepladder coordinates --config=configs/studies/parametrization.py:cpu --workdir=W

`:tiny` is the same in seconds, for tests; `:gpu` goes from width 64 to 1024. A grid may differ by
width and parametrisation: it has to hold the optimum, with steps of sqrt 2 around it.
"""

from dataclasses import dataclass

from ml_collections import ConfigDict

from stepladder.configs import base
from stepladder.configs.core import sizes
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import row
from stepladder.configs.core.spec import RunSpec


@dataclass(frozen=True)
class Study:
    """One argument of this config.

    `rates`: parametrisation -> width -> (lowest, highest) k of the learning rates 2^(k/2).
    """

    rates: dict[str, dict[int, tuple[int, int]]]
    base_width: int  # of muP
    seeds: int
    steps: int
    batch: int  # sequences
    seq_len: int
    depth: int
    head: int
    mb: float  # of text a domain


# The base width is where muP's ratio of the embedding's rate to the hidden matrices' is that of
# standard. With a tied table of bytes a narrow base makes the embedding fast at every width: in
# pilots of one seed, width 256 at its standard rate 2e-3 reached 2.12 nats, and with the same
# hidden rate but muP's base at 32 (base rate 1.6e-2) 2.31. So the base is at the wide end.
STUDIES = {
    "tiny": Study(
        rates={
            "standard": {16: (-12, -10), 32: (-13, -11)},
            "mup": {16: (-13, -11), 32: (-13, -11)},
        },
        base_width=32,
        seeds=2,
        steps=20,
        batch=4,
        seq_len=32,
        depth=2,
        head=16,
        mb=0.2,
    ),
    "cpu": Study(
        rates={
            "standard": {32: (-16, -9), 64: (-18, -11), 128: (-20, -13), 256: (-21, -16)},
            "mup": {32: (-21, -14), 64: (-22, -15), 128: (-22, -15), 256: (-21, -16)},
        },
        base_width=256,
        seeds=3,
        steps=300,
        batch=16,
        seq_len=64,
        depth=2,
        head=16,
        mb=1.0,
    ),
    # not run yet: the grids follow the cpu study's drift, one power of two for each doubling of
    # standard's width
    "gpu": Study(
        rates={
            "standard": {
                64: (-18, -9),
                128: (-20, -11),
                256: (-22, -13),
                512: (-24, -15),
                1024: (-26, -17),
            },
            "mup": dict.fromkeys((64, 128, 256, 512, 1024), (-24, -12)),
        },
        base_width=256,
        seeds=3,
        steps=2000,
        batch=32,
        seq_len=256,
        depth=4,
        head=32,
        mb=8.0,
    ),
}


def get_config(arg: str = "cpu") -> ConfigDict:
    """`arg`: a key of STUDIES."""
    if arg not in STUDIES:
        raise ValueError(f"config argument {arg!r}: unknown; use one of {', '.join(STUDIES)}")
    study = STUDIES[arg]
    c = base.get_config()
    c.name = "parametrization"
    # of a coordinate check; the ladder has its own widths and rates
    c.model.size = f"w64d{study.depth}h{study.head}"
    c.optimizer.learning_rate = 3e-3
    c.data.seq_len = study.seq_len
    c.data.max_mb_per_domain = study.mb
    c.run.batch_size = study.batch
    c.run.duration = f"{study.steps} steps"
    c.run.evals = ()
    c.run.log_every = 50
    c.machine.tensorboard = False
    c.study = ConfigDict()
    c.study.arg = arg
    c.study.seeds = study.seeds
    return c


def ladder(config: ConfigDict) -> list[RunSpec]:
    """Every seed at every learning rate of every width and parametrisation."""
    study = row(STUDIES, config.study.arg, "study.arg")
    runs: list[RunSpec] = []
    for name, by_width in study.rates.items():
        base_width = study.base_width if "base_width" in sizes.BASES[name] else 0
        for width, (low, high) in sorted(by_width.items()):
            for k in range(low, high + 1):
                for seed in range(config.study.seeds):
                    c = config.copy_and_resolve_references()
                    c.unlock()
                    c.model.size = f"w{width}d{study.depth}h{study.head}"
                    c.model.parametrization = name
                    c.model.base_width, c.model.base_depth = base_width, 0
                    c.optimizer.learning_rate = 2 ** (k / 2)
                    c.seed, c.data_seed = config.seed + seed, config.data_seed + seed
                    c.name = f"{name}-w{width}-lr{2 ** (k / 2):.2g}-s{seed}"
                    runs.append(rung(c, role="sweep", study="parametrization"))
    return runs
