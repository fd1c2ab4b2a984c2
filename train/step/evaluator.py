"""Evaluation per domain: mean loss with its standard error, in nats a token and bits a byte.

A run that trains on a task is evaluated on rows of its validation examples too, as a domain of its
own. A mean is over the tokens that count; of text, all do.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.stages import Compiled

from stepladder.configs.core.spec import RunSpec
from stepladder.train.data.read.batches import evaluation_windows
from stepladder.train.data.read.store import Store
from stepladder.train.data.tasks.task import load
from stepladder.train.step.program import Program


@dataclass
class Evaluator:
    """The validation windows of a run's domains, on the devices, with the bytes they stand for."""

    program: Program
    weights: dict[str, float]  # of the domains of "all", which a task is no part of
    domains: list[str]
    domain_W: np.ndarray  # index in `domains` of each window; -1 pads the last chunk
    counted_W: np.ndarray  # tokens of each window whose prediction counts
    bytes_per_token: dict[str, float]
    windows_CBT: jax.Array

    @classmethod
    def create(cls, spec: RunSpec, store: Store, program: Program) -> "Evaluator":
        """Evenly spaced validation windows of every domain evaluated, the same for every run of a
        ladder, and rows of the run's task.
        """
        windows = _windows(spec, store)
        token_bytes = np.asarray(store.tokenizer().token_bytes)
        bytes_per_token = {
            d: float(token_bytes[_counted(w)].mean(dtype=np.float64)) for d, w in windows.items()
        }
        stacked_WT = np.concatenate(list(windows.values())).astype(np.int32)
        domain_W = np.repeat(np.arange(len(windows)), [len(w) for w in windows.values()])
        padding = -len(stacked_WT) % program.eval_batch
        stacked_WT = np.pad(stacked_WT, ((0, padding), (0, 0)), mode="wrap")
        return cls(
            program=program,
            weights=dict(spec.data.evaluated),
            domains=list(windows),
            domain_W=np.pad(domain_W, (0, padding), constant_values=-1),
            counted_W=(stacked_WT[:, 1:] >= 0).sum(axis=1),
            bytes_per_token=bytes_per_token,
            windows_CBT=program.put_windows(
                stacked_WT.reshape(-1, program.eval_batch, stacked_WT.shape[1])
            ),
        )

    def compile(self) -> Compiled:
        """The forward pass over all windows; compiles at the first call only."""
        return self.program.compile_window_losses(self.windows_CBT.shape[0])

    def __call__(self, params: dict) -> list[dict]:
        """One dict a domain, and "all" first: their mean under `weights`, without the task.

        Args:
            params: on the program's mesh, in its shardings.

        Returns:
            `loss` and `loss_se`, its standard error over windows, in nats a token; `bits_per_byte`;
            `windows` and `tokens_evaluated` are counts, of tokens that count.
        """
        nll_W = np.asarray(self.compile()(params, self.windows_CBT), np.float64).reshape(-1)
        length = self.windows_CBT.shape[2] - 1
        rows = []
        for i, domain in enumerate(self.domains):
            at = self.domain_W == i
            loss, se = _ratio(nll_W[at], self.counted_W[at] / length)
            rows.append(
                {
                    "domain": domain,
                    "loss": loss,
                    "loss_se": se,
                    "windows": int(at.sum()),
                    "tokens_evaluated": int(self.counted_W[at].sum()),
                }
            )
        w = np.array(list(self.weights.values()))
        text = [row for row in rows if row["domain"] in self.weights]
        mixture = {
            "domain": "all",
            "loss": float(w @ [r["loss"] for r in text]),
            "loss_se": float(np.sqrt(w**2 @ np.square([r["loss_se"] for r in text]))),
            "windows": sum(r["windows"] for r in text),
            "tokens_evaluated": sum(r["tokens_evaluated"] for r in text),
        }
        per_token = self.bytes_per_token | {
            "all": sum(w * self.bytes_per_token[d] for d, w in self.weights.items())
        }
        return [
            {**row, "bits_per_byte": row["loss"] / np.log(2) / per_token[row["domain"]]}
            for row in (mixture, *rows)
        ]


def windows_key(spec: RunSpec) -> tuple:
    """Equal for runs that are evaluated on the same windows of one store."""
    data = spec.data
    return data.evaluated, data.task, data.seq_len, spec.eval_windows


def chunks(spec: RunSpec, store: Store, program: Program) -> int:
    """How many chunks of windows the evaluator of a run has: what decides its executable."""
    return -(-sum(map(len, _windows(spec, store).values())) // program.eval_batch)


def _windows(spec: RunSpec, store: Store) -> dict[str, np.ndarray]:
    """The windows of every domain evaluated, then those of the task, each (W, L + 1)."""
    windows = {
        domain: evaluation_windows(store, domain, spec.data.seq_len, spec.eval_windows)
        for domain in dict(spec.data.evaluated)
    }
    if spec.data.task:
        task = load(spec.data.task, store, spec.data.seq_len)
        windows[task.domain] = task.evaluation_rows(spec.eval_windows)
    return windows


def _counted(windows_WT: np.ndarray) -> np.ndarray:
    """The targets that count, (n,)."""
    targets_WL = windows_WT[:, 1:]
    return targets_WL[targets_WL >= 0]


def _ratio(nll_W: np.ndarray, share_W: np.ndarray) -> tuple[float, float]:
    """(mean loss of the targets that count, its standard error over windows).

    The ratio of two means, each with the windows as its sample, and the usual standard error of a
    ratio (Cochran, Sampling Techniques, 1977, section 6.3). Where all count, that is the mean and
    its standard error.

    Args:
        nll_W: mean over all targets of each window, with 0 for those that do not count.
        share_W: share of its targets that count.
    """
    n, share = len(nll_W), share_W.mean()
    loss = nll_W.mean() / share
    if n < 2:
        return float(loss), 0.0
    residual_W = nll_W - loss * share_W
    deviation = np.sqrt((residual_W * residual_W).sum() / (n - 1))
    return float(loss), float(deviation / np.sqrt(n) / share)


def evaluators(program: Program) -> Callable[[RunSpec, Store], Evaluator]:
    """Evaluators of a pack's members; those with the same windows share one."""
    made: dict[tuple, Evaluator] = {}

    def of(spec: RunSpec, store: Store) -> Evaluator:
        key = store.fingerprint, *windows_key(spec)
        if key not in made:
            made[key] = Evaluator.create(spec, store, program)
        return made[key]

    return of
