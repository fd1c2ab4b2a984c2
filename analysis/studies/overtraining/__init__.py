"""Overtraining: when does more pretraining make a model worse after noise, quantisation or
fine-tuning?

The protocol is after arXiv 2503.19206.
"""

from stepladder.analysis.studies.overtraining.records import Inputs, read
from stepladder.analysis.studies.overtraining.result import Result
from stepladder.analysis.studies.overtraining.study import study

__all__ = ["Inputs", "Result", "read", "study"]
