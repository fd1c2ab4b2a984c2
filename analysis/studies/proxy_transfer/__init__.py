"""Proxy transfer: do small runs rank data recipes as a tuned target does, and does a reduced
learning rate help?

The protocol, after arXiv 2512.24503, is explained in docs/proxy_transfer.md.
"""

from stepladder.analysis.studies.proxy_transfer.measures.alignment import crossover
from stepladder.analysis.studies.proxy_transfer.measures.rank import (
    decision_accuracy,
    regret_at_k,
    spearman,
)
from stepladder.analysis.studies.proxy_transfer.records import Inputs, read
from stepladder.analysis.studies.proxy_transfer.result import Result
from stepladder.analysis.studies.proxy_transfer.study import study

__all__ = [
    "Inputs",
    "Result",
    "crossover",
    "decision_accuracy",
    "read",
    "regret_at_k",
    "spearman",
    "study",
]
