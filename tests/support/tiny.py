"""A ladder small enough for a test: generated text in two domains, the smallest model, a few dozen
steps.
"""

import random
from pathlib import Path

from ml_collections import ConfigDict

from stepladder.configs import base

WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this have "
    "from or had an they which"
).split()


def write_text(folder: Path) -> dict[str, str]:
    """Two domains of a few dozen short documents each, deterministic; returns {domain: glob}."""
    rng = random.Random(0)
    for domain, letters in (("words", WORDS), ("digits", [str(n) for n in range(100)])):
        (folder / domain).mkdir(parents=True, exist_ok=True)
        for i in range(40):
            text = " ".join(rng.choice(letters) for _ in range(400)) + "\n"
            path = folder / domain / f"{i:02d}.txt"
            if not path.exists():  # a store refuses sources that change under it
                path.write_text(f"document {domain} {i}\n{text}")
    return {domain: str(folder / domain / "*.txt") for domain in ("words", "digits")}


def config(text: Path, **changes) -> ConfigDict:
    """A run of 40 steps of 8 x 32 tokens; `changes` are dotted keys with __ for the dot."""
    c = base.get_config()
    c.data.corpus, c.data.domains = "tiny", ()
    c.data.sources = ConfigDict(write_text(text))
    c.data.seq_len, c.data.dedup, c.data.validation_fraction = 32, "exact", 0.1
    c.model.size = "6k"
    c.run.duration, c.run.batch_size, c.run.log_every, c.run.eval_windows = "40 steps", 8, 5, 8
    c.run.evals = ("50%", "100%")
    c.optimizer.learning_rate = 1e-2
    c.schedule.warmup = "4 steps"
    c.machine.tensorboard = False
    c.unlock()
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = c
        for parent in parents:
            node = node[parent]
        node[last] = value
    return c


def overrides(text: Path, **changes) -> list[str]:
    """The same as command-line overrides of configs/base.py."""
    flat = _flatten(config(text, **changes))
    default = _flatten(base.get_config())
    return [f"--config.{k}={_text(v)}" for k, v in flat.items() if default.get(k) != v]


def _flatten(c: ConfigDict, prefix: str = "") -> dict:
    found = {}
    for key, value in c.items():
        found |= (
            _flatten(value, f"{prefix}{key}.")
            if isinstance(value, ConfigDict)
            else {f"{prefix}{key}": value}
        )
    return found


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
