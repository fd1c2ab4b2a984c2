"""What a change of the weights of a fixed size costs: loss after Gaussian noise and after
quantisation, and the curvature that predicts it.

Noise: theta + strength * sd * z, with the standard deviation of each tensor's initialisation
(arXiv:2503.19206, section 3.3), or with its root mean square now: a control that tells a growth of
the weights from a growth of their sensitivity (ours). The same draws serve every strength, scale
and set of tensors. For small strengths the mean loss rises by strength^2 / 2 * Tr(H Sigma), with
Sigma the diagonal matrix of sd^2 (Taylor's expansion), which Hutchinson's estimate is checked with.

Which tensors the paper perturbs, its strengths and its number of draws are not published; the sets
here are ours.
"""

import functools
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from stepladder.configs.core import counting
from stepladder.configs.core.errors import UserError
from stepladder.configs.core.measurements import Perturbation
from stepladder.configs.core.spec import ModelSpec
from stepladder.model import noise
from stepladder.train.data.read.store import Store
from stepladder.train.probes import curvature, noise_losses
from stepladder.train.probes.quantisation import quantised
from stepladder.train.step.program import Program

VECTORS = 1  # folded into the seed of the noise for the vectors of Hutchinson's estimate


def asked(probe: Perturbation) -> dict:
    """What a result depends on beside run and step: kept in it, so that a file is never taken for
    the answer to another question.
    """
    names = "strengths draws windows scales tensors bits trace_probes seed iterations tolerance"
    values = {name: getattr(probe, name) for name in names.split()}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def perturbation(probe: Perturbation, params: dict, store: Store, program: Program) -> dict:
    """The body of a probe's file. Losses are nats a token, by domain and in "all", their mean under
    the run's weights; a loss that is not finite is None.

    noise has a row {scale, tensors, gamma, draw, loss} for every combination, gamma being the
    strength; quantised a row {bits, tensors, loss, relative_error}, which is the norm of what
    rounding changed over that of the tensors rounded; base is the loss of the checkpoint itself,
    computed in the same program as those with noise, and base_se its standard error over windows.
    sd has the standard deviations at strength 1, by scale and tensor, one a layer where there are
    several; without_noise says which tensors have none, and why.

    curvature, None unless asked for: the trace of the Hessian over all parameters, trace_sigma with
    a row {scale, tensors, trace, se} for every Tr(H Sigma), in nats a strength squared, and the top
    eigenvalue. Standard errors are over the vectors.

    Args:
        probe: the run, the step and what is measured.
        params: those of the run after `probe.step` steps, on the program's mesh.
        store: its token store.
        program: of the run; it has the mesh and the shapes.

    Raises:
        UserError: when parameters are not finite.
    """
    spec = probe.run
    _check_finite(probe, params)
    shares = dict(spec.data.evaluated)
    windows = curvature.validation_windows(spec, store, probe.windows)
    means = _Means(shares, windows)
    sets = [(scale, tensors) for scale in probe.scales for tensors in probe.tensors]
    scales = jax.device_get(_deviations(spec.model, probe.scales, params))
    sd = {(scale, tensors): noise.chosen(scales[scale], tensors) for scale, tensors in sets}
    variants = [(*chosen, gamma) for chosen in sets for gamma in probe.strengths]
    sd_J = jax.tree.map(
        lambda *leaves: np.stack(leaves).astype(np.float32),
        *(jax.tree.map(lambda s, g=gamma: g * s, sd[scale, t]) for scale, t, gamma in variants),
    )
    rows_WT = np.concatenate(list(windows.values()))
    base_W, noisy_QJW = noise_losses.noise_losses(
        program, params, sd_J, probe.draws, probe.seed, rows_WT
    )
    noisy = [
        {"scale": scale, "tensors": t, "gamma": gamma, "draw": q, "loss": means(losses_W)}
        for q, losses_JW in enumerate(noisy_QJW)
        for (scale, t, gamma), losses_W in zip(variants, losses_JW)
    ]
    return {
        "run_id": spec.run_id,
        "size": spec.model.size,
        "N": counting.count(spec.model, spec.data.seq_len).params_total,
        "role": spec.tag.get("role", ""),
        "recipe": spec.tag.get("recipe", ""),
        "arm": spec.tag.get("arm", ""),
        "step": probe.step,
        "fraction": probe.step / spec.steps,
        "tokens": probe.step * spec.tokens_per_step,
        "asked": asked(probe),
        "base": means(base_W),
        "base_se": means.standard_errors(base_W),
        "noise": noisy,
        "quantised": _quantised(probe, params, program, rows_WT, means),
        "curvature": _curvature(probe, params, program, shares, windows, sd),
        "sd": {
            scale: _by_tensor(noise.SCALES[scale](spec.model, params)) for scale in probe.scales
        },
        "without_noise": _without_noise(probe, params),
        "data_fingerprint": store.fingerprint,
        "validation_tokens": len(rows_WT) * spec.data.seq_len,
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _deviations(model: ModelSpec, scales: tuple[str, ...], params: dict) -> dict[str, dict]:
    """The deviations of every scale."""
    return {scale: noise.SCALES[scale](model, params) for scale in scales}


class _Means:
    """Means over the windows of each domain, and "all": their mean under the shares."""

    def __init__(self, shares: dict[str, float], windows: dict[str, np.ndarray]):
        self.shares = shares
        self.ends = np.cumsum([len(rows) for rows in windows.values()])[:-1]

    def __call__(self, losses_W: np.ndarray) -> dict[str, float | None]:
        return self._all(part.mean() for part in np.split(losses_W, self.ends))

    def standard_errors(self, losses_W: np.ndarray) -> dict[str, float | None]:
        """Of the means, over windows; None where a domain has only one."""
        parts = np.split(losses_W, self.ends)
        squares = [p.var(ddof=1) / len(p) if len(p) > 1 else math.nan for p in parts]
        every = sum(share**2 * square for share, square in zip(self.shares.values(), squares))
        found = {"all": every, **dict(zip(self.shares, squares))}
        return {domain: _finite(math.sqrt(square)) for domain, square in found.items()}

    def _all(self, means: Iterable[float]) -> dict[str, float | None]:
        found = dict(zip(self.shares, map(float, means)))
        every = sum(share * found[domain] for domain, share in self.shares.items())
        return {domain: _finite(value) for domain, value in {"all": every, **found}.items()}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _check_finite(probe: Perturbation, params: dict) -> None:
    """Raise UserError when a parameter is not finite, naming its tensor."""
    finite = jax.device_get(_all_finite(params))
    bad = [
        noise.name(path)
        for path, good in jax.tree_util.tree_flatten_with_path(finite)[0]
        if not good
    ]
    if bad:
        raise UserError(
            f"perturbation={probe.run.run_id}@{probe.step}: {', '.join(bad)} not finite, so the "
            "run has diverged by there; probe an earlier step, or a run with a lower learning rate"
        )


@jax.jit
def _all_finite(params: dict) -> dict:
    """Whether all values of each tensor are finite."""
    return jax.tree.map(lambda x: jnp.isfinite(x).all(), params)


def _quantised(
    probe: Perturbation, params: dict, program: Program, rows_WT: np.ndarray, means: _Means
) -> list[dict]:
    """A row for every number of bits and set of tensors."""
    chunks_CBT, rows = program.put(noise_losses.chunked(program, rows_WT)), []
    for bits in probe.bits:
        for tensors in probe.tensors:
            rounded, error = _rounded(bits, tensors, params)
            losses_CB = noise_losses.window_losses(
                probe.run.model, program.forward, rounded, chunks_CBT
            )
            losses_W = np.asarray(losses_CB, np.float64).reshape(-1)[: len(rows_WT)]
            rows.append(
                {
                    "bits": bits,
                    "tensors": tensors,
                    "loss": means(losses_W),
                    "relative_error": float(error),
                }
            )
    return rows


@functools.partial(jax.jit, static_argnums=(0, 1))
def _rounded(bits: int, tensors: str, params: dict) -> tuple[dict, jax.Array]:
    """(the parameters rounded, |rounded - params| / |params| over the tensors that were)."""
    rounded = quantised(params, bits, tensors)
    squares = [
        (jnp.square(new - old).sum(), jnp.square(old).sum())
        for (path, old), new in zip(
            jax.tree_util.tree_flatten_with_path(params)[0], jax.tree.leaves(rounded)
        )
        if noise.role(path) in noise.TENSORS[tensors]
    ]
    changed, whole = (sum(parts) for parts in zip(*squares))
    return rounded, jnp.sqrt(changed / whole)


def _curvature(
    probe: Perturbation,
    params: dict,
    program: Program,
    shares: dict[str, float],
    windows: dict[str, np.ndarray],
    sd: dict[tuple[str, str], dict],
) -> dict | None:
    """Traces and the top eigenvalue of the Hessian of the loss over all domains."""
    if not probe.trace_probes:
        return None
    chunks = curvature.mixture_chunks(program, shares, windows)
    key = jax.random.fold_in(jax.random.key(probe.seed), VECTORS)
    blocks = curvature.trace_samples(
        probe.run.model,
        curvature.execution_of(program),
        params,
        *chunks,
        jax.random.split(key, probe.trace_probes),
    )
    blocks = jax.device_get(blocks)
    ones = jax.tree.map(lambda samples: np.ones(samples.shape[1:]), blocks)
    trace, trace_se = _trace(blocks, ones)
    rows = [
        {"scale": scale, "tensors": t, **dict(zip(("trace", "se"), _trace(blocks, sd[scale, t])))}
        for scale, t in sd
    ]
    top = curvature.top_eigenvalue(program, params, *chunks, probe.iterations, probe.tolerance)
    return {
        "trace": trace,
        "trace_se": trace_se,
        "trace_sigma": rows,
        "probes": probe.trace_probes,
        **top,
    }


def _trace(blocks: dict, sd: dict) -> tuple[float, float]:
    """(Tr(H Sigma), its standard error), from estimates of the trace of every tensor's block."""
    weighed = jax.tree.map(
        lambda samples, s: (samples * np.square(s, dtype=np.float64)).reshape(len(samples), -1),
        blocks,
        sd,
    )
    samples = np.concatenate(jax.tree.leaves(weighed), axis=1).sum(axis=1)
    return float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(len(samples)))


def _by_tensor(sd: dict) -> dict[str, float | list[float]]:
    """Deviations by tensor: a list over layers, but for those without; no norms."""
    return {
        noise.name(path): leaf.ravel().tolist() if leaf.ndim else float(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(sd)[0]
        if noise.role(path) in noise.TENSORS["all"]
    }


def _without_noise(probe: Perturbation, params: dict) -> dict[str, str]:
    """Tensor -> why it has no noise in any row."""
    widest = "all" if "all" in probe.tensors else "matrices"
    constant = "starts as ones: no initialisation distribution"
    return {
        noise.name(path): f"not of the set {widest}"
        if noise.role(path) in noise.TENSORS["all"]
        else constant
        for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
        if noise.role(path) not in noise.TENSORS[widest]
    }
