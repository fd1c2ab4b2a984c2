"""One study for all tests that look at it."""

import pytest

from stepladder.analysis.studies.split.study import study
from tests.support import synthetic_split as made


@pytest.fixture(scope="session")
def result():
    """H1 with noise, four seeds, fitted by H1 and H2."""
    table = made.table(noise=made.NOISE, seeds=4, **made.SMALL)
    return study(table, laws=("H1", "H2"), **made.FEW)
