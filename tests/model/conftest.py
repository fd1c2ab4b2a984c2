"""What every test of the model starts from."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def same_numbers_in_any_order(request, monkeypatch):
    """A module's `RNG` starts anew for every test: what it draws does not depend on which tests
    ran before it.
    """
    if hasattr(request.module, "RNG"):
        monkeypatch.setattr(request.module, "RNG", np.random.default_rng(0))
