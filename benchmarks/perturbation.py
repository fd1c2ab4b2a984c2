"""Losses under many draws of noise: one compiled program against Python loops.

One command, ratios of one call.

    python benchmarks/perturbation.py [--cases=1x32,8x32,8x128] [--draws=64] [--repeats=2] [--json]
    python benchmarks/perturbation.py --tiny

64 draws x 8 strengths on a model of 1M parameters, by number and length of the windows that the
loss is measured on: what a model takes grows with them, what a loop adds does not. Compilation is
not timed. Every way is a process of its own, because jax fixes the number of CPU devices when it
starts; the loops have jax's own default, one device with all cores. A round runs all ways once, so
that a busy machine slows them alike; the figures are medians over the rounds. The loops fetch
losses at their end only. The weights are those of the initialisation: the time does not depend on
them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from stepladder.configs import base
from stepladder.configs.core.build import rung
from stepladder.configs.core.spec import RunSpec
from stepladder.model import noise, transformer
from stepladder.model.gradient import window_losses
from stepladder.train.hardware.machine import Machine
from stepladder.train.probes.noise_losses import noise_losses
from stepladder.train.step.program import Program

CORES = os.cpu_count() or 1
STRENGTHS = 8
Work = Callable[[int], np.ndarray]  # draws -> a loss a draw and strength


@dataclass
class Job:
    """What every way computes: the loss of `windows_WT` for every draw and strength."""

    spec: RunSpec
    draws: int
    gammas: np.ndarray
    windows_WT: np.ndarray

    @classmethod
    def of(cls, size: str, case: str, draws: int) -> "Job":
        count, length = map(int, case.split("x"))
        config = base.get_config()
        config.model.size, config.data.seq_len = size, length
        spec = rung(config)
        rng = np.random.default_rng(0)
        windows_WT = rng.integers(0, spec.model.vocab_size, (count, length + 1), dtype=np.int32)
        return cls(spec, draws, np.geomspace(0.01, 1, STRENGTHS).astype(np.float32), windows_WT)

    @property
    def params(self) -> dict:
        return jax.jit(lambda key: transformer.init(self.spec.model, key))(jax.random.key(0))

    def sd(self, params: dict) -> dict:
        return jax.device_get(noise.chosen(noise.initial_sd(self.spec.model, params), "matrices"))

    @property
    def loss(self) -> Callable[[dict], jax.Array]:
        """The mean loss as a user compiles it."""
        windows_WT = jnp.asarray(self.windows_WT)
        return jax.jit(lambda params: window_losses(self.spec.model, params, windows_WT).mean())


def one_program(**machine) -> Callable[[Job], Work]:
    def prepare(job: Job) -> Work:
        program = Program(job.spec, Machine(tensorboard=False, **machine))
        params = program.put(jax.device_get(job.params))
        sd = job.sd(params)
        sd_J = jax.tree.map(lambda s: np.stack([gamma * s for gamma in job.gammas]), sd)

        def work(_: int) -> np.ndarray:  # how many draws is part of the program
            found = noise_losses(program, params, sd_J, job.draws, 0, job.windows_WT)
            return found[1].mean(axis=2)

        return work

    return prepare


def numpy_loop(job: Job) -> Work:
    """The noise tensor by tensor in NumPy, for every loss anew."""
    loss, host, sd = job.loss, jax.device_get(job.params), job.sd(job.params)

    def work(draws: int) -> np.ndarray:
        losses, rng = [], np.random.default_rng(0)
        for _ in range(draws):
            for gamma in job.gammas:
                moved = jax.tree.map(
                    lambda x, s, gamma=gamma: x + gamma * s * rng.standard_normal(x.shape, x.dtype),
                    host,
                    sd,
                )
                losses.append(loss(moved))
        return np.array(losses)

    return work


def jax_loop(job: Job) -> Work:
    """The same in jax, one operation after another."""
    loss, params, sd = job.loss, job.params, job.sd(job.params)
    leaves, tree = jax.tree.flatten(params)

    def work(draws: int) -> np.ndarray:
        losses, key = [], jax.random.key(0)
        for _ in range(draws):
            for gamma in job.gammas:
                key, *keys = jax.random.split(key, len(leaves) + 1)
                moved = [
                    x + gamma * s * jax.random.normal(k, x.shape)
                    for x, s, k in zip(leaves, jax.tree.leaves(sd), keys)
                ]
                losses.append(loss(jax.tree.unflatten(tree, moved)))
        return np.array(losses)

    return work


def jitted_loop(job: Job) -> Work:
    """Noise and loss in one compiled function of the draw and the strength."""
    loss, params, sd = job.loss, job.params, job.sd(job.params)

    @jax.jit
    def noisy(params: dict, draw: int, gamma: float) -> jax.Array:
        normal = noise.standard_normal(params, jax.random.fold_in(jax.random.key(0), draw))
        return loss(jax.tree.map(lambda x, z, s: x + gamma * s * z, params, normal, sd))

    def work(draws: int) -> np.ndarray:
        return np.array(
            [noisy(params, draw, gamma) for draw in range(draws) for gamma in job.gammas]
        )

    return work


def loss_loop(job: Job) -> Work:
    """No noise at all: as many losses of the model as it is."""
    loss, params = job.loss, job.params
    return lambda draws: np.array([loss(params) for _ in range(draws * len(job.gammas))])


# Way -> (CPU devices, or none to leave it to jax; what prepares it)
WAYS = {
    "loop, NumPy noise": (0, numpy_loop),
    "loop, jax noise op by op": (0, jax_loop),
    "loop, noise jitted with the loss": (0, jitted_loop),
    "loop, no noise: the losses alone": (0, loss_loop),
    "one program, vmapped": (CORES, one_program(pack_mode="vmap")),
    "one program, one device": (1, one_program()),
    "one program: what stepladder does": (CORES, one_program()),
}
OURS = "one program: what stepladder does"


def worker(way: str, size: str, case: str, draws: int) -> float:
    """Seconds of one way in this process, after a first call that compiles."""
    devices, prepare = WAYS[way]
    jax.config.update("jax_platforms", "cpu")
    if devices:
        jax.config.update("jax_num_cpu_devices", devices)
    work = prepare(Job.of(size, case, draws))
    work(1)
    began = time.perf_counter()
    losses = work(draws)
    taken = time.perf_counter() - began
    if losses.size != draws * STRENGTHS or not (np.isfinite(losses).all() and losses.min() > 0):
        raise SystemExit(f"{way}: {losses.size} losses, some of them no losses")
    return taken


def seconds(way: str, size: str, case: str, draws: int) -> float:
    """The same in a process of its own."""
    words = [f"--worker={way}", f"--size={size}", f"--cases={case}", f"--draws={draws}"]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    taken = float(done.stdout.split()[-1])
    print(f"{case}, {way}: {taken:.2f} s", file=sys.stderr, flush=True)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="1m")
    parser.add_argument("--cases", default="1x32,8x32,8x128", help="windows x tokens of each")
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="the smallest size, 3 draws, once")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(worker(args.worker, args.size, args.cases, args.draws))
        return
    if args.tiny:
        args.size, args.cases, args.draws, args.repeats = "6k", "2x16", 3, 1
    result = {}
    for case in args.cases.split(","):
        rounds = [
            {way: seconds(way, args.size, case, args.draws) for way in WAYS}
            for _ in range(args.repeats)
        ]
        result[case] = {way: round(statistics.median(r[way] for r in rounds), 3) for way in WAYS}
    if args.json:
        about = {name: getattr(args, name) for name in ("size", "draws", "repeats")}
        print(json.dumps({**about, "cores": CORES, "seconds": result}, indent=1))
        return
    for case, by_way in result.items():
        print(f"{case}: {args.draws} draws x {STRENGTHS} strengths of {args.size}, seconds (times")
        print(f"  '{OURS}')")
        for way, taken in by_way.items():
            print(f"  {way:34} {taken:8.2f}  {taken / by_way[OURS]:6.2f}x")


if __name__ == "__main__":
    main()
