"""The kinds of branches, one row each.

What leaves a checkpoint without training it, perturbation, averaging and evaluation elsewhere, is a
probe: configs/core/measurements.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Branch:
    """A kind of branch.

    reset: parts of the parent's state that start anew, unless the caller says otherwise
        (ParentSpec). Optimizer moments, weight decay and learning rate go on from the parent's.
    other_data: whether it reads other data than its parent.
    """

    about: str
    reset: tuple[str, ...]
    other_data: bool


BRANCHES: dict[str, Branch] = {
    "cooldown": Branch("the parent's data, and its schedule decayed to the end", (), False),
    "continue": Branch("another mixture; the schedule goes on", ("data",), True),
    "specialise": Branch("one domain; the schedule goes on and decays", ("data",), True),
    "finetune": Branch("a task, with a schedule of its own", ("step", "optimizer", "data"), True),
}
