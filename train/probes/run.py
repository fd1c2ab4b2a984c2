"""Make the probes that a config asks for and that are not there yet.

A probe is a measurement of a trained model or of its data that a study reads. A new kind is one
entry in KINDS.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import write_atomic
from stepladder.configs.core.load import Loaded
from stepladder.configs.core.measurements import (
    Alignment,
    Elsewhere,
    Floors,
    Interpolation,
    Ngrams,
    Perturbation,
    Probe,
    Routing,
)
from stepladder.configs.core.record import (
    CHECKPOINTS,
    DIVERGED,
    PENDING,
    PROBES,
    RUNS,
    STATUS,
    STUDIES,
)
from stepladder.configs.core.spec import CorpusSpec
from stepladder.train.data import floors, ngrams
from stepladder.train.data.prepare.prepare import prepare
from stepladder.train.data.read import corpora
from stepladder.train.data.read.batches import evaluation_windows
from stepladder.train.data.read.mixture import epochs
from stepladder.train.data.read.store import Store
from stepladder.train.export import restore
from stepladder.train.hardware.machine import Machine
from stepladder.train.probes import evaluations, perturbation, routing
from stepladder.train.probes.alignment import alignment
from stepladder.train.record.record import read_json
from stepladder.train.step.program import Program
from stepladder.train.step.programs import Programs
from stepladder.train.step.step import traced_hypers

Say = Callable[[str], None]


def _alignment_path(workdir: Path, probe: Alignment) -> Path:
    return workdir / RUNS / probe.run.run_id / PROBES / f"alignment-{probe.step}.json"


def _alignment(
    workdir: Path, probe: Alignment, store: Store, machine: Machine, programs: Programs
) -> dict:
    return alignment(probe, *_opened(workdir, probe, store, machine, programs))


def _perturbation_path(workdir: Path, probe: Perturbation) -> Path:
    return workdir / RUNS / probe.run.run_id / PROBES / f"perturbation-{probe.step}.json"


def _perturbation(
    workdir: Path, probe: Perturbation, store: Store, machine: Machine, programs: Programs
) -> dict:
    status = read_json(workdir / RUNS / probe.run.run_id / STATUS) or {}
    if status.get("state") == DIVERGED:
        raise UserError(
            f"perturbation={probe.run.run_id}@{probe.step}: the run diverged at step "
            f"{status.get('step')} ({status.get('reason', 'the loss was not finite')}); leave it "
            "out of the config's probes(), or lower its learning rate"
        )
    opened = _opened(workdir, probe, store, machine, programs)
    return perturbation.perturbation(probe, *opened)


def _interpolation_path(workdir: Path, probe: Interpolation) -> Path:
    return workdir / RUNS / probe.run.run_id / PROBES / "interpolation.json"


def _interpolation(
    workdir: Path, probe: Interpolation, store: Store, machine: Machine, programs: Programs
) -> dict:
    parent = probe.run.parent
    assert parent
    start = _checkpoint(workdir, parent.run_id, parent.step, store, machine, programs)
    end = _checkpoint(workdir, probe.run.run_id, probe.run.steps, store, machine, programs)
    return evaluations.interpolation(probe, start, end)


def _elsewhere_path(workdir: Path, probe: Elsewhere) -> Path:
    name = f"elsewhere-{probe.corpus.name}-{probe.step}.json"
    return workdir / RUNS / probe.run.run_id / PROBES / name


def _elsewhere(
    workdir: Path, probe: Elsewhere, store: Store, machine: Machine, programs: Programs
) -> dict:
    opened = _checkpoint(workdir, probe.run.run_id, probe.step, None, machine, programs)
    return evaluations.elsewhere(probe, opened, store)


def _routing_path(workdir: Path, probe: Routing) -> Path:
    return workdir / STUDIES / probe.study / "routing" / f"{probe.name}.json"


def _routing(
    workdir: Path, probe: Routing, store: Store, machine: Machine, programs: Programs
) -> dict:
    experts = [
        _checkpoint(workdir, run.run_id, run.steps, store, machine, programs)
        for run in probe.experts
    ]
    first = probe.experts[0]
    marked = dataclasses.replace(first, model=dataclasses.replace(first.model, marked=True))
    return routing.routing(probe, experts, store, programs.program(marked, machine))


def _opened(
    workdir: Path,
    probe: Alignment | Perturbation,
    store: Store,
    machine: Machine,
    programs: Programs,
) -> tuple[dict, Store, Program]:
    """(the parameters of a probe's step, on the program's mesh; the store; the program).

    Raises UserError when the run has no checkpoint there.
    """
    if probe.step == 0:  # a function of the seed: no checkpoint holds it
        program = programs.program(probe.run, machine)
        state = program.init(program.put(traced_hypers(probe.run)))
        return state["params"], store, program
    opened = _checkpoint(workdir, probe.run.run_id, probe.step, store, machine, programs)
    return opened.program.put(opened.params), store, opened.program


def _checkpoint(
    workdir: Path,
    run_id: str,
    step: int,
    store: Store | None,
    machine: Machine,
    programs: Programs,
) -> restore.Opened:
    """A run's checkpoint; `store` None is where the run had it.

    Raises UserError when the run has none there.
    """
    record = workdir / RUNS / run_id
    if not (record / CHECKPOINTS / str(step)).is_dir():
        state = (read_json(record / STATUS) or {}).get("state", PENDING)
        raise UserError(
            f"probe={run_id}@{step}: no checkpoint there, the run is {state}; `stepladder run` the "
            "same config first"
        )
    place = str(store.path) if store else ""
    return restore.open_checkpoint(f"{record}@{step}", place, machine, programs)


def _ngrams_path(workdir: Path, probe: Ngrams) -> Path:
    return workdir / STUDIES / probe.study / "ngrams.json"


def _ngrams(
    workdir: Path, probe: Ngrams, store: Store, machine: Machine, programs: Programs
) -> dict:
    windows = {
        domain: evaluation_windows(store, domain, probe.seq_len, probe.eval_windows)
        for domain in probe.validation
    }
    recipes = dict(probe.recipes)
    seen = {
        name: epochs(store, weights, probe.seq_len, probe.examples)
        for name, weights in recipes.items()
    }
    found = ngrams.baselines(
        store, {name: dict(weights) for name, weights in recipes.items()}, windows
    )
    return {**found, "epochs": seen, "data_fingerprint": store.fingerprint}


def _floors_path(workdir: Path, probe: Floors) -> Path:
    return workdir / STUDIES / probe.study / "floors.json"


def _floors(
    workdir: Path, probe: Floors, store: Store, machine: Machine, programs: Programs
) -> dict:
    windows = {
        domain: evaluation_windows(store, domain, probe.seq_len, probe.eval_windows)
        for domain in probe.validation
    }
    found = floors.floors(store, dict(probe.weights), windows)
    overall = {order: by_domain["all"] for order, by_domain in found.items()}
    return {**overall, "by_domain": found, "data_fingerprint": store.fingerprint}


def _corpus_of_run(probe: Alignment | Perturbation | Interpolation) -> CorpusSpec:
    return probe.run.data.corpus


def _corpus_of_experts(probe: Routing) -> CorpusSpec:
    return probe.experts[0].data.corpus


def _own_corpus(probe: Elsewhere | Ngrams | Floors) -> CorpusSpec:
    return probe.corpus


@dataclass(frozen=True)
class Kind:
    """A kind of probe."""

    path: Callable[[Path, Any], Path]  # (workdir, probe) -> the file of its result
    make: Callable[[Path, Any, Store, Machine, Programs], dict]  # its result
    describe: Callable[[dict], str]  # one line about a result
    # what a result's "asked" has to be; None: its path says it all
    asked: Callable[[Any], dict] | None = None
    # of a probe, that whose store it is given
    corpus: Callable[[Any], CorpusSpec] = _corpus_of_run


def _describe_alignment(body: dict) -> str:
    return f"lambda_max {body['lambda_max']:.4g} in {body['lambda_iterations']} products"


def _describe_perturbation(body: dict) -> str:
    base, (least, most) = body["base"]["all"], _extremes(body)
    found = f"loss {base:.4f}, with noise {least:.4f} to {most:.4f} ({len(body['noise'])} losses)"
    lost = sum(row["loss"]["all"] is None for row in body["noise"])
    return found + (f", {lost} of them not finite" if lost else "")


def _extremes(body: dict) -> tuple[float, float]:
    """The smallest and the largest finite loss with noise; NaN when there is none."""
    finite = [row["loss"]["all"] for row in body["noise"] if row["loss"]["all"] is not None]
    return min(finite, default=math.nan), max(finite, default=math.nan)


def _describe_ngrams(body: dict) -> str:
    return f"{len(body['bigram'])} recipes; most epochs of a domain: {_most(body['epochs'])}"


def _most(epochs: dict[str, dict[str, float]]) -> str:
    count, recipe, domain = max(
        (count, recipe, domain) for recipe, seen in epochs.items() for domain, count in seen.items()
    )
    return f"{count:.2f} ({recipe}, {domain})"


def _describe_rows(body: dict) -> str:
    losses = [row["loss"] for row in body["rows"]]
    return f"{len(losses)} losses, {min(losses):.4f} to {max(losses):.4f}"


def _describe_routing(body: dict) -> str:
    return ", ".join(
        f"{row['domain']} {row['prefix']:.4f} (own expert {row['oracle']:.4f})"
        for row in body["rows"]
    )


def _describe_floors(body: dict) -> str:
    return ", ".join(f"{order} {body[order]:.3f} nats a token" for order in floors.ORDERS)


KINDS: dict[type, Kind] = {
    Alignment: Kind(_alignment_path, _alignment, _describe_alignment),
    Perturbation: Kind(
        _perturbation_path, _perturbation, _describe_perturbation, perturbation.asked
    ),
    Interpolation: Kind(_interpolation_path, _interpolation, _describe_rows),
    Elsewhere: Kind(_elsewhere_path, _elsewhere, _describe_rows, corpus=_own_corpus),
    Routing: Kind(_routing_path, _routing, _describe_routing, corpus=_corpus_of_experts),
    Ngrams: Kind(_ngrams_path, _ngrams, _describe_ngrams, corpus=_own_corpus),
    Floors: Kind(_floors_path, _floors, _describe_floors, corpus=_own_corpus),
}


def path_of(workdir: Path, probe: Probe) -> Path:
    """The file of the probe's result; when it is there, it is complete."""
    return KINDS[type(probe)].path(Path(workdir), probe)


def run_probes(loaded: Loaded, workdir: Path, say: Say = lambda line: None) -> list[Path]:
    """Make the probes that are missing, in order; returns the files written.

    `machine.start_jax` must have been called. Raises UserError when the config asks for no probe,
    when two probes have one file, when a file is there that answers another question, and when a
    run has not been trained to the step of a probe.
    """
    workdir = Path(workdir)
    if not loaded.probes:
        raise UserError(
            f"config={loaded.path}: asks for no probes; give its module a probes(config, specs), "
            "as the studies' configs have"
        )
    _check_files(workdir, loaded.probes)
    missing = [probe for probe in loaded.probes if not path_of(workdir, probe).is_file()]
    if not missing:
        return []
    machine, programs = Machine.from_config(loaded.config), Programs()
    opened: dict[CorpusSpec, Store] = {}
    written = []
    for i, probe in enumerate(missing, 1):
        kind = KINDS[type(probe)]
        corpus = kind.corpus(probe)
        if corpus not in opened:
            root = Path(machine.store) if machine.store else workdir / "data"
            opened[corpus] = prepare(corpus, corpora.folder(root, corpus), show=False)
        path = kind.path(workdir, probe)
        body = kind.make(workdir, probe, opened[corpus], machine, programs)
        write_atomic(path, json.dumps(body, indent=1, allow_nan=False) + "\n")
        written.append(path)
        say(f"{i}/{len(missing)} {path.relative_to(workdir)}: {kind.describe(body)}")
    return written


def _check_files(workdir: Path, probes: tuple[Probe, ...]) -> None:
    """Raise UserError where the file of a probe is, or would be, that of another one."""
    owners: dict[Path, Probe] = {}
    for probe in probes:
        path, asked = path_of(workdir, probe), KINDS[type(probe)].asked
        if owners.setdefault(path, probe) != probe:
            raise UserError(
                f"probes={path.relative_to(workdir)}: two probes have this file; ask for one of "
                "them, with the settings of both"
            )
        if asked is None:
            continue
        held, wanted = (read_json(path) or {}).get("asked", asked(probe)), asked(probe)
        if changed := [name for name in wanted if held.get(name) != wanted[name]]:
            name = changed[0]
            raise UserError(
                f"probe={path.relative_to(workdir)}: was made with {name}={held.get(name)}, the "
                f"config asks for {name}={wanted[name]}; move the file away to measure anew"
            )
