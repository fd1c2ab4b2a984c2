"""A rung of small runs that packs are made of."""

import pytest

from stepladder.configs.core.build import rung
from stepladder.train.data.read.corpora import stores
from tests.support import tiny


@pytest.fixture(scope="session")
def rung8(tmp_path_factory):
    """Eight runs that differ in all that members may differ in; the last diverges."""
    folder = tmp_path_factory.mktemp("pack")
    half = {"words": 0.5, "digits": 0.5}
    changes = [
        dict(name="plain"),
        dict(name="rate", optimizer__learning_rate=3e-3, data__weights={"words": 1.0}),
        dict(
            name="decay",
            optimizer__weight_decay=0.0,
            optimizer__beta2=0.99,
            data__weights={"words": 0.25, "digits": 0.75},
        ),
        dict(name="seed", seed=5),
        dict(name="order", data_seed=7, data__weights=half),
        dict(name="short", run__duration="27 steps", schedule__warmup="9 steps"),
        dict(name="rows", run__log_every=7, run__evals=("13 steps",)),
        dict(name="wild", optimizer__learning_rate=1e8, optimizer__clip_norm=1e9),
    ]
    specs = [rung(tiny.config(folder / "text", **c)) for c in changes]
    return specs, stores(specs, folder / "data", show=False)
