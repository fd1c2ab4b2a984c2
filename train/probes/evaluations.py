"""Losses that no run records: of a checkpoint on other text, and between two checkpoints."""

import dataclasses

import jax

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.measurements import Elsewhere, Interpolation
from stepladder.train.data.read.store import Store
from stepladder.train.export.restore import Opened
from stepladder.train.step.evaluator import Evaluator


def interpolation(probe: Interpolation, start: Opened, end: Opened) -> dict:
    """The body of a probe's file: the losses of (1 - alpha) start + alpha end (arXiv:2109.01903).

    Args:
        probe: the fine-tuned run and the alphas.
        start: its parent's checkpoint.
        end: its own; all losses are by its program, on its domains and its task.
    """
    program, evaluator = end.program, Evaluator.create(end.spec, end.store, end.program)
    first = jax.device_get(start.params)

    def mixed(alpha: float, first: dict, last: dict) -> dict:
        return jax.tree.map(lambda a, b: (1 - alpha) * a + alpha * b, first, last)

    between = jax.jit(mixed, out_shardings=program.by_state["params"])
    return {
        "run_id": probe.run.run_id,
        "parent": start.spec.run_id,
        "parent_step": start.step,
        "rows": [
            {"alpha": alpha, **row}
            for alpha in probe.alphas
            for row in evaluator(between(alpha, first, end.params))
        ],
    }


def elsewhere(probe: Elsewhere, opened: Opened, store: Store) -> dict:
    """The body of a probe's file: the losses on the validation text of another corpus.

    Raises UserError when its tokens are not those of the run.
    """
    mine, theirs = (s.manifest["tokenizer"]["hash"] for s in (opened.store, store))
    if mine != theirs:
        raise UserError(
            f"elsewhere.corpus={probe.corpus.name!r}: its tokenizer is {theirs}, that of "
            f"{probe.run.run_id} is {mine}; make its text a domain of the run's corpus, with "
            "weight 0, or use the tokenizer 'bytes'"
        )
    domains = probe.domains or tuple(store.domains)
    share = tuple((domain, 1 / len(domains)) for domain in domains)
    data = dataclasses.replace(
        opened.spec.data, corpus=probe.corpus, weights=share, validation=domains, task=None
    )
    spec = dataclasses.replace(opened.spec, data=data, eval_windows=probe.windows)
    evaluator = Evaluator.create(spec, store, opened.program)
    return {
        "run_id": probe.run.run_id,
        "step": probe.step,
        "corpus": probe.corpus.name,
        "data_fingerprint": store.fingerprint,
        "rows": evaluator(opened.params),
    }
