"""Proxy transfer: do small runs rank data recipes as tuned targets do, and does a reduced learning
rate help?

(arXiv 2512.24503)
"""

from stepladder.analysis.studies.proxy_transfer.measures.alignment import crossover
from stepladder.analysis.studies.proxy_transfer.measures.rank import (
    decision_accuracy,
    regret_at_k,
    spearman,
)
from stepladder.analysis.studies.proxy_transfer.records import Inputs, read
from stepladder.analysis.studies.proxy_transfer.study import Result, study

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
