"""Configs: durations, sizes, the rule, overrides and their refusals, golden specs of every shipped
config.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stepladder.configs.studies
from stepladder.configs import base
from stepladder.configs.core import build, durations, hyperparameters, sizes
from stepladder.configs.core import load as load_module
from stepladder.configs.core.build import rung
from stepladder.configs.core.counting import count
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.load import load, override
from stepladder.configs.core.spec import (
    canonical,
    to_dict,
)
from stepladder.configs.ladders import chinchilla
from stepladder.train.data import tokenizer
from tests.support import tiny

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parents[1] / "golden" / "configs.json"
SHIPPED = (
    "configs/base.py",
    "configs/base.py:tiny",
    "configs/demo.py:cpu",
    "configs/sweep.py:rate",
    "configs/sweep.py:long",
    "configs/sweep.py:decay",
    "configs/studies/parametrization.py:tiny",
    "configs/studies/proxy_transfer.py:tiny",
    *(
        f"configs/studies/{name}.py:{arg}"
        for name in ("overtraining", "split")
        for arg in ("tiny", "cpu")
    ),
    *(f"configs/ladders/chinchilla.py:{name}" for name in chinchilla.LADDERS),
)


def test_every_experiment_is_among_the_shipped():
    """A new file is held to the golden configs as the others are."""
    experiments = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "configs").rglob("*.py")
        if "def get_config(" in path.read_text()
    }
    assert experiments == {name.partition(":")[0] for name in SHIPPED}


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (7, 7),
        ("12 steps", 12),
        ("1 step", 1),
        ("4096 tokens", 4),
        ("1M tokens", 977),
        ("2.5k tokens", 2),
        ("1 chinchilla", 20),
        ("0.5chinchilla", 10),
        ("20%", 40),
        ("12.5%", 25),
        ("0 steps", 0),
    ],
)
def test_durations(duration, steps):
    assert durations.steps(duration, tokens_per_step=1024, params=1024, total_steps=200) == steps


@pytest.mark.parametrize(
    ("duration", "value", "unit"),
    [
        (7, 7, durations.STEP),
        ("1 step", 1, durations.STEP),
        ("3M tokens", 3e6, durations.TOKEN),
        ("0.5x", 0.5, durations.CHINCHILLA),
        ("20%", 20, durations.PERCENT),
    ],
)
def test_durations_know_their_unit(duration, value, unit):
    assert durations.parse(duration) == durations.Duration(value, unit)


@pytest.mark.parametrize(
    "duration", ["", "fast", "10", "-3 steps", "5 epochs", "1e400 tokens", True]
)
def test_durations_refused(duration):
    with pytest.raises(UserError, match="schedule.warmup"):
        durations.steps(
            duration, tokens_per_step=1024, params=1000, total_steps=200, field="schedule.warmup"
        )


@pytest.mark.parametrize("duration", ["20%", "1 chinchilla"])
def test_relative_durations_need_what_they_are_relative_to(duration):
    with pytest.raises(UserError, match="use tokens or steps"):
        durations.steps(duration, tokens_per_step=1024)


def test_sizes_are_a_geometric_family():
    """From about 10k to 7B; each next size 1.2 to 3.5 times the one before; width and depth never
    shrink.
    """
    shapes = [sizes.shape(name, vocab_size=257) for name in sizes.SIZES]
    totals = [count(s, 128).params_total for s in shapes]
    assert 9_000 < totals[0] < 12_000 and 6.5e9 < totals[-1] < 7.5e9
    for (a, b), (x, y) in zip(itertools.pairwise(shapes), itertools.pairwise(totals)):
        assert 1.2 < y / x < 3.5
        assert b.d_model >= a.d_model and b.n_layers >= a.n_layers - 2


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ({"size": "25kk"}, "25k"),
        ({"activation": "swigloo"}, "swiglu"),
        ({"kv_ratio": 3}, "divisor"),
        ({"compute_dtype": "float16"}, "bfloat16"),
        ({"window": -1}, "number of positions"),
    ],
)
def test_sizes_refused(argument, hint):
    with pytest.raises(UserError, match=hint):
        sizes.shape(**{"size": "25k", "vocab_size": 257, **argument})


def test_rule_moves_the_right_way():
    """Power laws in N and D around the pivot; an own batch keeps the tokens."""
    small, large = (
        hyperparameters.recommend(20_000, 1e6, 128),
        hyperparameters.recommend(200_000, 1e6, 128),
    )
    expected = (200_000 / 20_000) ** hyperparameters.RATE_N
    assert large.learning_rate / small.learning_rate == pytest.approx(expected, rel=1e-4)
    longer, longest = (
        hyperparameters.recommend(20_000, d, 128)
        for d in (hyperparameters.D_BATCH, 16 * hyperparameters.D_BATCH)
    )
    assert small.batch_size == longer.batch_size == hyperparameters.BATCH // 128
    # the nearest power of two
    assert longest.batch_size == pytest.approx(
        longer.batch_size * 16**hyperparameters.BATCH_D, rel=0.42
    )
    assert longest.learning_rate < longer.learning_rate < small.learning_rate
    own = hyperparameters.recommend(20_000, 1e6, 128, batch_size=24)
    assert own.learning_rate / small.learning_rate == pytest.approx(
        3**hyperparameters.RATE_BATCH, rel=1e-4
    )
    assert own.batch_size == 24 and own.steps == round(1e6 / 24 / 128)
    assert own.weight_decay * own.steps == pytest.approx(hyperparameters.DECAY, rel=1e-5)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model.size", "6k", "6k"),
        ("seed", "3", 3),
        ("run.batch_size", "16", 16),
        ("optimizer.learning_rate", "1e-3", 1e-3),
        ("model.tied", "false", False),
        ("run.evals", "10%,50%", ("10%", "50%")),
        ("data.weights.tables", "0.25", 0.25),
        ("data.sources.web", "a/*.txt", "a/*.txt"),
    ],
)
def test_overrides(key, text, value):
    config = base.get_config()
    override(config, key, text)
    node = config
    for part in key.split("."):
        node = node[part]
    assert node == value and type(node) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("model.sise", "6k", "did you mean 'model.size'"),
        ("optimiser.learning_rate", "1", "did you mean 'optimizer.learning_rate'"),
        ("seed", "many", "not a int"),
        ("optimizer.learning_rate", "fast", "not a float"),
        ("model.tied", "perhaps", "not a bool"),
        ("model", "6k", "is a section"),
        ("nonsense", "1", "unknown key"),
        ("free_keys", "x", "unknown key"),
        ("optimizer.learning_rate", "nan", "not a float"),
        ("schedule.end_factor", "inf", "not a float"),
        ("run.evals", "(5)", "not a tuple"),
    ],
)
def test_overrides_refused(key, text, says):
    with pytest.raises(UserError, match=says):
        override(base.get_config(), key, text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data__weights": {"words": 0.5, "digits": 0.6}}, "sum to 1.1"),
        ({"data__weights": {"words": 1.5, "digits": -0.5}}, "negative"),
        ({"data__weights": {"wordz": 1.0}}, "no such domain"),
        ({"run__duration": "soon"}, "run.duration"),
        ({"run__duration": "0 steps"}, "no step at all"),
        ({"schedule__decay": "99%", "schedule__warmup": "10%"}, "exceed"),
        ({"data__tokenizer": "words"}, "data.tokenizer"),
        ({"model__size": "9k"}, "model.size"),
        ({"schedule__kind": "cosine", "schedule__warmup": "200%"}, "schedule.warmup='200%'"),
        ({"data__seq_len": 0}, "data.seq_len=0: must be 1 or more"),
        ({"run__batch_size": -5}, "run.batch_size=-5: must be 0 or more"),
        ({"run__log_every": 0}, "run.log_every=0: must be 1 or more"),
        ({"optimizer__beta1": 2.0}, "optimizer.beta1=2.0: must be 0 or more, at most 1"),
        ({"optimizer__clip_norm": 0.0}, "optimizer.clip_norm=0.0: must be above 0"),
        ({"data__sources": {}, "data__domains": ("words", "words")}, "a domain twice"),
        ({"name": "../x"}, "name='../x': names the folder"),
        ({"name": "a/b"}, "name='a/b': names the folder"),
    ],
)
def test_bad_configs_are_refused(tmp_path, change, says):
    with pytest.raises(UserError, match=says):
        rung(tiny.config(tmp_path, **change))


def test_only_sections_of_free_keys_take_new_ones():
    config = base.get_config()
    config.free_keys = (("data.weights", 0.0),)
    override(config, "data.weights.mine", "1")
    with pytest.raises(UserError, match="unknown key"):
        override(config, "data.sources.mine", "a.txt")


@pytest.mark.parametrize("text", ["", "def get_config(arg=''):\n    return (", "x = 1"])
def test_unusable_config_files(tmp_path, text):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(UserError, match="config="):
        load(str(path))
    with pytest.raises(UserError, match="no such file"):
        load(str(tmp_path / "absent.py"))


def test_a_shipped_config_that_was_broken_is_refused_with_its_line(monkeypatch, tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.py").write_text("def ladder(:\n")
    monkeypatch.setattr(load_module, "CONFIGS", tmp_path)
    monkeypatch.setattr(stepladder.configs.studies, "__path__", [str(tmp_path / "studies")])
    with pytest.raises(UserError, match="config=.*mine.py: line 1"):
        load(str(tmp_path / "studies" / "mine.py"))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("demo.py:tiny", "demo.ladder"),
        ("sweep.py", "sweep.grid"),
        ("ladders/chinchilla.py:tiny", "chinchilla.ladder"),
        ("studies/parametrization.py", "study.arg"),
        ("studies/proxy_transfer.py", "study.arg"),
    ],
)
def test_an_unknown_row_of_a_shipped_ladder_is_refused(root, path, key):
    with pytest.raises(UserError, match=f"{key}='foo': unknown"):
        load(f"{root}/configs/{path}", [(key, "foo")])


def test_own_config_file(tmp_path):
    """An experiment is one new file; it may yield any runs."""
    (tmp_path / "mine.py").write_text(
        "from stepladder.configs import base\nfrom stepladder.configs.core.build import rung\n"
        "def get_config(arg=''):\n    c = base.get_config()\n    c.name = 'mine'\n    return c\n"
        "def ladder(c):\n    runs = []\n    for seed in (0, 1):\n        d = "
        "c.copy_and_resolve_references()\n        d.seed = seed\n        runs.append(rung(d))\n    "
        "return runs\n"
    )
    loaded = load(str(tmp_path / "mine.py"), [("model.size", "6k")])
    assert [s.hyper.seed for s in loaded.specs] == [0, 1] and {
        s.model.size for s in loaded.specs
    } == {"6k"}


@pytest.mark.parametrize("reference", SHIPPED)
def test_golden_config(reference):
    """The specs a shipped config yields, so that no default changes unseen: the last one in full, a
    digest of every one.

    Changed on purpose: STEPLADDER_GOLDEN=write python -m pytest tests/configs -k golden
    """
    path, _, arg = reference.partition(":")
    specs = load(f"{ROOT / path}" + (f":{arg}" if arg else "")).specs
    found = {
        "last": to_dict(specs[-1]),
        "digests": {spec.run_id: digest(spec) for spec in specs},
    }
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("STEPLADDER_GOLDEN") == "write":
        golden[reference] = found
        GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    assert found["last"] == golden[reference]["last"]
    assert found["digests"] == golden[reference]["digests"]


def digest(spec) -> str:
    """Of the whole spec, name and tags too, which the hash in a run id leaves out."""
    return hashlib.sha256(canonical(to_dict(spec)).encode()).hexdigest()[:12]


def test_the_demo_extrapolates():
    """The target has at least 8x the compute, 2x the parameters and 2x the tokens of every proxy,
    and the same schedule shape.
    """
    specs = load(str(ROOT / "configs/demo.py") + ":cpu").specs
    target = next(s for s in specs if s.tag["role"] == "target")
    proxies = [s for s in specs if s.tag["role"] == "proxy"]
    assert specs[-1] is target and len({s.model.size for s in proxies}) >= 5
    seeds = {
        size: {s.hyper.seed for s in proxies if s.model.size == size}
        for size in {s.model.size for s in proxies}
    }
    smallest = sorted(
        seeds, key=lambda size: count(sizes.shape(size, vocab_size=257), 128).params_total
    )[:2]
    assert all(len(seeds[size]) >= 2 for size in smallest)
    for proxy in proxies:
        (n, d, c), (tn, td, tc) = (cost(s) for s in (proxy, target))
        assert tn >= 2 * n and td >= 2 * d and tc >= 8 * c, proxy.name
        shapes = [
            (
                s.optimizer,
                s.hyper.end_factor,
                round((s.hyper.total_steps - s.hyper.decay_start) / s.hyper.total_steps, 1),
            )
            for s in (proxy, target)
        ]
        if proxy.parent or proxy.steps == proxy.hyper.total_steps:
            assert shapes[0] == shapes[1]


def cost(spec) -> tuple[float, float, float]:
    counts = count(spec.model, spec.data.seq_len)
    tokens = spec.steps * spec.tokens_per_step
    return counts.params_total, tokens, tokens * counts.flops_per_token_train


@pytest.mark.parametrize("name", ["bytes", "bpe:270"])
def test_documents_end_with_the_tokenizers_token(name):
    assert (
        build.document_end(name)
        == tokenizer.train(name, ["a few words of text, many times over " * 20]).eos
    )


def test_shipped_configs_load_once_under_their_own_name(tmp_path):
    """In a process of its own: a second module of one file would hold a second copy of its
    tables.
    """
    files = dict.fromkeys(reference.partition(":")[0] for reference in SHIPPED)
    assert {Path(file).parent.name for file in files} == {"configs", "ladders", "studies"}
    code = f"""if True:
        import sys
        from stepladder.configs.core.load import load
        for file in {[str(ROOT / file) for file in files]}:
            load(file)
            print(*(k for k, m in sys.modules.items() if getattr(m, "__file__", None) == file))
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    want = [f"stepladder.{file.removesuffix('.py').replace('/', '.')}" for file in files]
    assert done.stdout.splitlines() == want
