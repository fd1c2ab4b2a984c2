"""Which of several experts reads a window: the one whose loss on its first tokens is lowest.

The router needs no training and sees no label: arXiv:2410.03529 scores a prefix by every expert.
Losses are of the tokens after the prefix, so that no token both routes and counts.
"""

from collections.abc import Sequence

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.measurements import Routing
from stepladder.train.data.read.batches import evaluation_windows
from stepladder.train.data.read.store import Store
from stepladder.train.export.restore import Opened
from stepladder.train.hardware import arrays
from stepladder.train.step.program import Program


def routing(probe: Routing, experts: Sequence[Opened], store: Store, program: Program) -> dict:
    """The body of a probe's file: by domain the loss of its own expert, of the routed one, and of
    the best for each window; how often the router chose the own.

    Args:
        probe: the experts, and the length of the prefix.
        experts: their checkpoints, as in `probe`.
        store: the token store of all.
        program: of their shape, with marked tokens.

    Raises:
        UserError: for a prefix that leaves no token, and for domains that are not those of the
            experts.
    """
    seq_len = probe.experts[0].data.seq_len
    if not 1 <= probe.prefix < seq_len:
        raise UserError(
            f"routing.prefix={probe.prefix}: must leave tokens of the {seq_len} of a window; use "
            f"e.g. {seq_len // 4}"
        )
    own = [dict(run.data.weights) for run in probe.experts]
    domains = [next(iter(weights)) for weights in own]
    if any(len(weights) != 1 for weights in own) or len(set(domains)) < len(domains):
        raise UserError(
            f"routing.experts={[run.run_id for run in probe.experts]}: each must be of one domain, "
            "and no two of the same"
        )
    windows = {
        domain: evaluation_windows(store, domain, seq_len, probe.windows) for domain in domains
    }
    rows_WT = np.concatenate(list(windows.values()))
    counts = probe.prefix, seq_len - probe.prefix
    before_WT, after_WT = rows_WT.copy(), rows_WT.copy()
    before_WT[:, probe.prefix + 1 :] = ~rows_WT[:, probe.prefix + 1 :]
    after_WT[:, : probe.prefix + 1] = ~rows_WT[:, : probe.prefix + 1]
    both = [
        [
            losses(program, opened.params, marked_WT) * seq_len / counted
            for marked_WT, counted in zip((before_WT, after_WT), counts, strict=True)
        ]
        for opened in experts
    ]
    before_KW, after_KW = np.swapaxes(np.array(both), 0, 1)
    chosen_W = before_KW.argmin(axis=0)
    of_W = np.repeat(np.arange(len(domains)), [len(rows) for rows in windows.values()])
    every_W = np.arange(len(rows_WT))
    found = {
        "oracle": after_KW[of_W, every_W],
        "prefix": after_KW[chosen_W, every_W],
        "best": after_KW.min(axis=0),
    }
    return {
        "experts": {d: run.run_id for d, run in zip(domains, probe.experts, strict=True)},
        "prefix": probe.prefix,
        "tokens_a_window": counts[1],
        "data_fingerprint": store.fingerprint,
        "rows": [
            {
                "domain": domain,
                "windows": int((of_W == k).sum()),
                "chose_own": float((chosen_W[of_W == k] == k).mean()),
                **{name: float(nats_W[of_W == k].mean()) for name, nats_W in found.items()},
                **{f"{name}_se": _se(nats_W[of_W == k]) for name, nats_W in found.items()},
            }
            for k, domain in enumerate(domains)
        ],
    }


def losses(program: Program, params: dict, rows_WT: np.ndarray) -> np.ndarray:
    """Mean nats of every window, over all its targets; marked ones add 0: (W,)."""
    padding = -len(rows_WT) % program.eval_batch
    padded_WT = np.pad(rows_WT, ((0, padding), (0, 0)), mode="wrap").astype(np.int32)
    windows_CBT = padded_WT.reshape(-1, program.eval_batch, padded_WT.shape[1])
    compiled = program.compile_window_losses(len(windows_CBT))
    placed = arrays.move(params, program.by_state["params"])
    found = compiled(placed, program.put_windows(windows_CBT))
    return np.asarray(found, np.float64).reshape(-1)[: len(rows_WT)]


def _se(nats_W: np.ndarray) -> float | None:
    """Standard error over windows; None of one window."""
    return float(nats_W.std(ddof=1) / np.sqrt(len(nats_W))) if len(nats_W) > 1 else None
