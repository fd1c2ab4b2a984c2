"""Shared by the tests of training."""

import pytest

from stepladder.train.step.programs import Programs


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Compiled programs for tests that do not count compilations."""
    return Programs()
