"""Every law by name, in one table; a new law is one new entry in the module of its subject."""

from stepladder.analysis.laws import (
    downstream,
    loss,
    mixture,
    perturbation,
    rates,
    split,
    test_time,
)
from stepladder.analysis.laws.law import Law
from stepladder.configs.core.errors import UserError, nearest

LAWS = {
    law.name: law
    for module in (loss, rates, downstream, perturbation, split, mixture, test_time)
    for law in module.LAWS
}
_ALIASES = {law.alias: law.name for law in LAWS.values() if law.alias}


def law_named(name: str) -> Law:
    """The law of a name or of its published code. Raises UserError with the nearest known name."""
    known = _ALIASES.get(name, name)
    if known not in LAWS:
        raise UserError(f"law={name!r}: unknown; {nearest(name, LAWS)}")
    return LAWS[known]
