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

LAWS = {
    law.name: law
    for module in (loss, rates, downstream, perturbation, split, mixture, test_time)
    for law in module.LAWS
}
