"""Split: pretrain for D tokens, specialise for D2: where to split?

The protocol is after arXiv 2603.19149; the laws and rules are ours.
"""

from stepladder.analysis.studies.split.records import Inputs, read
from stepladder.analysis.studies.split.result import Result
from stepladder.analysis.studies.split.study import study

__all__ = ["Inputs", "Result", "read", "study"]
