"""Evaluation per domain: mean loss with its standard error, in nats a token and bits a byte."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.stages import Compiled

from stepladder.configs.core.spec import RunSpec
from stepladder.train.data.read.batches import evaluation_windows
from stepladder.train.data.read.store import Store
from stepladder.train.step.program import Program


@dataclass
class Evaluator:
    """The validation windows of a run's domains, on the devices, with the bytes they stand for."""

    program: Program
    weights: dict[str, float]
    domain_W: np.ndarray  # domain index of each window; -1 pads the last chunk
    bytes_per_token: dict[str, float]
    windows_CBT: jax.Array

    @classmethod
    def create(cls, spec: RunSpec, store: Store, program: Program) -> "Evaluator":
        """Evenly spaced validation windows of every domain evaluated, the same for every run of a
        ladder.
        """
        weights, windows = dict(spec.data.evaluated), _windows(spec, store)
        token_bytes = np.asarray(store.tokenizer().token_bytes)
        bytes_per_token = {
            d: float(token_bytes[w[:, 1:]].mean(dtype=np.float64)) for d, w in windows.items()
        }
        stacked_WT = np.concatenate(list(windows.values())).astype(np.int32)
        domain_W = np.repeat(np.arange(len(windows)), [len(w) for w in windows.values()])
        padding = -len(stacked_WT) % program.eval_batch
        stacked_WT = np.pad(stacked_WT, ((0, padding), (0, 0)), mode="wrap")
        return cls(
            program=program,
            weights=weights,
            domain_W=np.pad(domain_W, (0, padding), constant_values=-1),
            bytes_per_token=bytes_per_token,
            windows_CBT=program.put_windows(
                stacked_WT.reshape(-1, program.eval_batch, stacked_WT.shape[1])
            ),
        )

    def compile(self) -> Compiled:
        """The forward pass over all windows; compiles at the first call only."""
        return self.program.compile_window_losses(self.windows_CBT.shape[0])

    def __call__(self, params: dict) -> list[dict]:
        """One dict a domain, and "all" first: their mean under `weights`.

        Args:
            params: on the program's mesh, in its shardings.

        Returns:
            `loss` and `loss_se`, its standard error over windows, in nats a token; `bits_per_byte`;
            `windows` and `tokens_evaluated` are counts.
        """
        nll_W = np.asarray(self.compile()(params, self.windows_CBT), np.float64).reshape(-1)
        length = self.windows_CBT.shape[2] - 1
        rows = []
        for i, domain in enumerate(self.weights):
            nll = nll_W[self.domain_W == i]
            se = float(nll.std(ddof=1) / np.sqrt(len(nll))) if len(nll) > 1 else 0.0
            rows.append(
                {
                    "domain": domain,
                    "loss": float(nll.mean()),
                    "loss_se": se,
                    "windows": len(nll),
                    "tokens_evaluated": len(nll) * length,
                }
            )
        w = np.array(list(self.weights.values()))
        mixture = {
            "domain": "all",
            "loss": float(w @ [r["loss"] for r in rows]),
            "loss_se": float(np.sqrt(w**2 @ np.square([r["loss_se"] for r in rows]))),
            "windows": sum(r["windows"] for r in rows),
            "tokens_evaluated": sum(r["tokens_evaluated"] for r in rows),
        }
        per_token = self.bytes_per_token | {
            "all": sum(self.weights[d] * b for d, b in self.bytes_per_token.items())
        }
        return [
            {**row, "bits_per_byte": row["loss"] / np.log(2) / per_token[row["domain"]]}
            for row in (mixture, *rows)
        ]


def chunks(spec: RunSpec, store: Store, program: Program) -> int:
    """How many chunks of windows the evaluator of a run has: what decides its executable."""
    return -(-sum(map(len, _windows(spec, store).values())) // program.eval_batch)


def _windows(spec: RunSpec, store: Store) -> dict[str, np.ndarray]:
    """The windows of every domain evaluated, each (W, L + 1)."""
    return {
        domain: evaluation_windows(store, domain, spec.data.seq_len, spec.eval_windows)
        for domain in dict(spec.data.evaluated)
    }


def evaluators(program: Program) -> Callable[[RunSpec, Store], Evaluator]:
    """Evaluators of a pack's members; those with the same windows share one."""
    made: dict[tuple, Evaluator] = {}

    def of(spec: RunSpec, store: Store) -> Evaluator:
        key = store.fingerprint, spec.data.evaluated, spec.data.seq_len, spec.eval_windows
        if key not in made:
            made[key] = Evaluator.create(spec, store, program)
        return made[key]

    return of
