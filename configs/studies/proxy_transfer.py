"""Do small runs pick the right data?

Every recipe at every learning rate on two proxies, and tuned for each on a target
(arXiv:2512.24503).

    # about an hour and a half on two cores
    stepladder run --config=configs/studies/proxy_transfer.py:cpu --workdir=W
    # alignment, curvature and n-gram baselines of it
    stepladder probe --config=configs/studies/proxy_transfer.py:cpu --workdir=W
    stepladder report --workdir=W --study=proxy_transfer

`:tiny` is the same in seconds, for tests. `:gpu` has proxies of 0.3M and 0.5M and a target of 2.7M
parameters. `:tpu` is the paper's scale, for `plan`: 23 recipes over the user's own text
(`--config.data.sources.c4='web/c4/*.jsonl.zst'`, a path or glob for every domain).

Warm-up and cosine, AdamW(.9, .95) with coupled weight decay 0.1 (a decay that did not shrink with
the rate would, at tiny rates, be all that happens), clipping at 1. Tags: role, recipe, and the arm:
"main", or what deviates from it at the smaller proxy's standard and tiny rate.

Why these proxies and tokens (`:cpu`; a pilot on the recipe `uniform`, whose bigram loss is 2.83
nats a byte on the five validation domains; best of the rates 3e-3, 1e-2 and 3e-2, one seed, nats a
byte):

    tokens a parameter        20      50     100         20      50         20      50
    sequences a step           8       8       8          4       4          2       2
    6k  (10.9k parameters)  3.05    2.82    2.52       2.90    2.68       2.79    2.54
    14k (20.2k parameters)  2.84    2.37    2.16       2.72    2.36       2.61    2.30
    25k (33.5k parameters)  2.53    2.13    1.98          -       -          -       -

At 20 tokens a parameter and 8 sequences a step only 25k knows more than pairs of bytes. 4 sequences
a step (2 would leave no smaller batch for the arms) make the smallest size beat its bigram by 0.15
at 50 tokens a parameter, and 14k by more than 0.2 at 30. The grid goes up to where the loss rises
again and 2.5 decades down from there (means of two seeds, `uniform`; the standard rate is what
configs/core/hyperparameters.py recommends, rounded to the grid):

    learning rate            3e-5   1e-4   3e-4   1e-3   3e-3   1e-2   3e-2   1e-1
    6k at 50, batch 4        5.23   4.50   3.55   3.09   2.83   2.65   2.70   2.63
    14k at 30, batch 4       5.04   4.05   3.41   2.96   2.76   2.59   2.49   2.59
    84k at 20, batch 8          -      -      -      -   1.98   1.93   1.96   1.99

(84k: one seed, 64 windows.)
"""

from dataclasses import dataclass

from ml_collections import ConfigDict

from stepladder.configs import base, recipes, web_recipes
from stepladder.configs.core.branches.cooldown import with_checkpoints
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import row
from stepladder.configs.core.measurements import Alignment, Ngrams, Probe
from stepladder.configs.core.spec import RunSpec

STUDY = "proxy_transfer"
# of training, where the reference recipe is probed; and at the end of its warm-up
FRACTIONS = 0.0, 0.01, 0.1


@dataclass(frozen=True)
class Rung:
    """All runs of one size: every recipe at every rate and seed.

    `standard` and `tiny` are of `rates`.
    """

    size: str
    tokens: float  # a parameter
    batch: int  # sequences; 0: from the rule
    rates: tuple[float, ...]
    standard: float
    tiny: float
    seeds: int = 1


@dataclass(frozen=True)
class Arm:
    """What deviates from the main arm."""

    batch: float = 1.0  # times
    decay: float | None = None
    tokens: float | None = None  # a parameter


@dataclass(frozen=True)
class Study:
    """One argument of this config."""

    proxies: tuple[Rung, ...]  # smallest first
    target: Rung
    arms: dict[str, Arm]
    recipes: tuple[str, ...]
    validation: tuple[str, ...]
    reference: str  # the recipe whose runs are probed
    mb: float  # of text a domain, 0: all
    windows: int = 96  # of validation, a domain
    seq_len: int = 128
    max_epochs: float = 4.0
    probe_windows: int = 16
    own_text: bool = False  # web recipes over the user's files


SAME_TOKENS = {
    "batch/4": Arm(batch=0.25),
    "batch*4": Arm(batch=4.0),
    "wd0": Arm(decay=0.0),
    "wd.3": Arm(decay=0.3),
}


def _tokens(more: float, *tokens: float) -> dict[str, Arm]:
    return {**{f"tokens{t:g}": Arm(tokens=t) for t in tokens}, "more_steps": Arm(tokens=more)}


_WIDE = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_LOW = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_PAPER = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 6e-4, 1e-3, 3e-3)
# recipes with too little text for a longer target
_SHORT = "only_c_cpp", "cut_500", "dedup_none", "dedup_exact", "dedup_minhash"
STUDIES = {
    "tiny": Study(
        proxies=(Rung("6k", 1, 4, (1e-3, 3e-3, 1e-2), 1e-2, 1e-3),),
        target=Rung("25k", 0.5, 4, (1e-3, 3e-3, 1e-2), 3e-3, 1e-3),
        arms={"batch/4": SAME_TOKENS["batch/4"], "wd0": SAME_TOKENS["wd0"], **_tokens(2, 0.5)},
        recipes=("uniform", "only_docstrings", "noise_5"),
        validation=("docstrings", "python_numeric", "c_cpp"),
        reference="uniform",
        mb=0.15,
        seq_len=32,
        windows=8,
        probe_windows=2,
    ),
    "cpu": Study(
        proxies=(
            Rung("6k", 50, 4, (*_WIDE, 3e-1), 1e-2, 3e-4, seeds=2),
            Rung("14k", 30, 4, _WIDE, 1e-2, 3e-4, seeds=2),
        ),
        target=Rung("84k", 20, 8, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 1e-2, 3e-4),
        arms=SAME_TOKENS | _tokens(100, 10, 25),
        recipes=tuple(name for name in recipes.RECIPES if name not in ("no_python", "only_c_cpp")),
        validation=recipes.VALIDATION,
        reference="uniform",
        mb=6.0,
    ),
    "gpu": Study(
        proxies=(
            Rung("w80d4h16", 20, 16, _LOW, 3e-3, 1e-4, seeds=3),
            Rung("450k", 20, 16, _LOW, 3e-3, 1e-4, seeds=3),
        ),
        target=Rung("3m", 10, 32, (1e-4, 3e-4, 1e-3, 2e-3, 4e-3, 1e-2), 2e-3, 1e-4, seeds=2),
        arms=SAME_TOKENS | _tokens(40, 5, 10),
        recipes=tuple(name for name in recipes.RECIPES if name not in _SHORT),
        validation=recipes.VALIDATION,
        reference="uniform",
        mb=0.0,
        windows=256,
        seq_len=256,
    ),
    "tpu": Study(
        proxies=(Rung("57m", 20, 0, _PAPER, 1e-3, 1e-5), Rung("100m", 20, 0, _PAPER, 6e-4, 1e-5)),
        target=Rung("1b", 20, 0, (3e-5, 1e-4, 3e-4, 6e-4, 1e-3, 3e-3), 3e-4, 3e-5),
        arms=SAME_TOKENS | _tokens(40, 5, 10),
        recipes=tuple(web_recipes.RECIPES),
        validation=web_recipes.VALIDATION,
        reference="pile_uniform",
        mb=0.0,
        windows=512,
        seq_len=1024,
        max_epochs=1.0,
        own_text=True,
    ),
}


def get_config(arg: str = "cpu") -> ConfigDict:
    """`arg`: a key of STUDIES."""
    if arg not in STUDIES:
        raise ValueError(f"config argument {arg!r}: unknown; use one of {', '.join(STUDIES)}")
    study = STUDIES[arg]
    c = base.get_config()
    c.name = "transfer"
    c.data.validation = study.validation
    c.data.max_mb_per_domain = study.mb
    c.data.seq_len = study.seq_len
    c.data.max_epochs = study.max_epochs
    if study.own_text:
        c.data.corpus, c.data.domains = "web", ()
        c.data.tokenizer = "bpe:32000"
        c.data.dedup = "exact"
        c.data.sources = ConfigDict(
            {domain: f"{domain}/*.jsonl.zst" for domain in web_recipes.DOMAINS}
        )
        c.data.validation_fraction = 0.001
        c.model.compute_dtype = "bfloat16"
    elif arg == "tiny":
        c.data.validation_fraction = 0.1
    c.schedule.kind = "cosine"
    c.optimizer.weight_decay = 0.1
    c.optimizer.weight_decay_mode = "coupled"
    c.run.evals = ()
    c.run.eval_windows = study.windows
    c.run.log_every = 5 if arg == "tiny" else 50
    c.machine.tensorboard = False
    c.study = ConfigDict()
    c.study.arg = arg
    c.study.recipes = study.recipes
    return c


def ladder(config: ConfigDict) -> list[RunSpec]:
    """Both proxies' grids, the smaller one's arms, then the target's grids."""
    study = row(STUDIES, config.study.arg, "study.arg")
    config, chosen = _with_recipes(config)
    small = study.proxies[0]
    runs: list[RunSpec] = []
    for proxy in study.proxies:
        runs += _grid(config, chosen, proxy, "proxy", study)
    for name, arm in study.arms.items():
        for rate in (small.standard, small.tiny):
            runs += [
                _run(config, recipe, table, small, rate, 0, "proxy", name, arm)
                for recipe, table in chosen.items()
            ]
    return runs + _grid(config, chosen, study.target, "target", study)


def _with_recipes(config: ConfigDict) -> tuple[ConfigDict, dict[str, recipes.Recipe]]:
    """An unlocked copy whose corpus has what all chosen recipes need, and the recipes."""
    c = config.copy_and_resolve_references()
    c.unlock()
    web = row(STUDIES, config.study.arg, "study.arg").own_text
    chosen = recipes.chosen(config.study.recipes, web_recipes.RECIPES if web else recipes.RECIPES)
    recipes.prepare_config(c, chosen)
    return c, chosen


def _grid(
    config: ConfigDict, chosen: dict[str, recipes.Recipe], size: Rung, role: str, study: Study
) -> list[RunSpec]:
    """Every recipe at every learning rate and seed of one size.

    The run that probes follow keeps checkpoints for them.
    """
    runs: list[RunSpec] = []
    for recipe, table in chosen.items():
        for rate in size.rates:
            for seed in range(size.seeds):
                run = _run(config, recipe, table, size, rate, seed, role)
                probed = recipe == study.reference and rate == size.standard and seed == 0
                if probed:
                    run = with_checkpoints(run, *filter(None, _probed_steps(run)))
                runs.append(run)
    return runs


def _run(
    config: ConfigDict,
    recipe: str,
    table: recipes.Recipe,
    size: Rung,
    rate: float,
    seed: int,
    role: str,
    name: str = "main",
    arm: Arm | None = None,
) -> RunSpec:
    """One run; `name` and `arm` are what deviates from the main arm."""
    c, arm = config.copy_and_resolve_references(), arm or Arm()
    c.data.weights = recipes.weights(recipe, table)
    c.model.size, c.optimizer.learning_rate = size.size, rate
    c.seed, c.data_seed = config.seed + seed, config.data_seed + seed
    c.run.duration = f"{size.tokens / 20:g} chinchilla"
    # the main arm's batch, whatever the arm's tokens
    c.run.batch_size = max(1, round((size.batch or rung(c).batch_size) * arm.batch))
    c.run.duration = f"{(arm.tokens or size.tokens) / 20:g} chinchilla"
    c.optimizer.weight_decay = config.optimizer.weight_decay if arm.decay is None else arm.decay
    label = name.replace("/", "div").replace("*", "x")
    c.name = f"{config.name}-{size.size}-{label}-{recipe}-lr{rate:g}-s{c.seed}"
    return rung(c, study=STUDY, role=role, recipe=recipe, arm=name)


def _probed_steps(run: RunSpec) -> list[int]:
    """0, then shares of training and the end of the warm-up, each at least one step."""
    later = {max(1, round(share * run.steps)) for share in FRACTIONS if share}
    return [0, *sorted(later | {run.hyper.warmup_steps})]


def probes(config: ConfigDict, specs: list[RunSpec]) -> list[Probe]:
    """N-gram baselines of the recipes, and their alignment along two runs.

    Those are the reference recipe's on the smallest proxy and on the target.
    """
    study = STUDIES[config.study.arg]
    weights = {spec.tag["recipe"]: spec.data.weights for spec in specs}
    every = tuple(weights.items())
    longest = max(specs, key=lambda spec: spec.steps * spec.tokens_per_step)
    found: list[Probe] = [
        Ngrams(
            STUDY,
            longest.data.corpus,
            every,
            longest.data.validation,
            longest.data.seq_len,
            longest.eval_windows,
            longest.steps * longest.batch_size,
        )
    ]
    for size, role in ((study.proxies[0], "proxy"), (study.target, "target")):
        mine = dict(role=role, recipe=study.reference, arm="main", study=STUDY)
        for run in specs:
            grid_point = (run.model.size, run.hyper.learning_rate, run.hyper.seed)
            if run.tag == mine and grid_point == (size.size, size.standard, config.seed):
                found += [
                    Alignment(run, step, every, study.probe_windows, 4 * study.probe_windows)
                    for step in _probed_steps(run)
                ]
    return found
