"""The jobs of same_bits.py: commands of `stepladder`, run alike with the code of both commits."""

import os
from dataclasses import dataclass

DEVICES = "--config.machine.devices=2"
WORKDIR = "W"


@dataclass(frozen=True)
class Job:
    """Commands of `stepladder` to run in one folder. `{run}` stands for the first run of WORKDIR.

    exact: JSON that is printed must be equal to the last bit, too.
    """

    name: str
    compared: str  # said in the line of the job
    commands: tuple[tuple[str, ...], ...]
    exact: bool = False


def jobs() -> list[Job]:
    """All jobs, the long ones first; those on public tables only where STEPLADDER_DATA is set."""
    public = _public() if os.environ.get("STEPLADDER_DATA") else []
    return [*_training(), *_examples(), *public, *_plans()]


def _train(config: str, *more: str) -> tuple[str, ...]:
    return ("run", f"--config=configs/{config}", f"--workdir={WORKDIR}", "--quiet", DEVICES, *more)


def _training() -> list[Job]:
    record = "rows, checkpoints, specs, lineage, token stores"
    transfer, widths = "studies/proxy_transfer.py:tiny", "studies/parametrization.py:tiny"
    probe = ("probe", f"--config=configs/{transfer}", f"--workdir={WORKDIR}", "--quiet", DEVICES)
    report = ("report", f"--workdir={WORKDIR}")
    grow = ("coordinates", f"--config=configs/{widths}", f"--workdir={WORKDIR}", "--quiet", DEVICES)
    sweep = ("--pack=8", "--config.sweep.sizes=6k", "--config.data.max_mb_per_domain=0.5")
    rate, rank = "--study=learning_rate", "--study=proxy_transfer"
    mesh = _settings("machine", mesh="fsdp=2,tensor=2", accumulation=2, remat="full", layers="scan")
    features = (
        *_settings("model", activation="gelu", tied="false", kv_ratio=2, window=32, logit_cap=20),
        *_settings("model", document_mask="true", compute_dtype="bfloat16"),
        *_settings("data", tokenizer="bpe:400", dedup="exact", domains="docstrings,arithmetic"),
        *_settings("model", parametrization="completep", base_width=32, base_depth=2),
        *_settings("optimizer", learning_rate=0.01),
        *_settings("run", checkpoints="50%"),
        "--config.schedule.kind=cosine",
    )
    vmap = _settings("machine", pack=8, pack_mode="vmap", layers="unroll")
    look = (("eval", "{run}"), ("eval", "{run}@30"), ("export", "{run}", "--out=weights.npz"))
    sample = ("sample", "{run}", "--tokens=40")
    return [
        Job(
            "run.demo",
            f"{record}, forecast and report",
            (_train("demo.py:tiny"), report),
        ),
        Job(
            "run.proxy_transfer",
            f"{record} of packs, probes and the study",
            (_train(transfer), probe, (*report, rank)),
        ),
        Job("run.parametrization", f"{record} and study", (_train(widths), (*report, rate))),
        Job("run.sweep", f"{record} of one pack", (_train("sweep.py:decay", *sweep),)),
        Job("run.chinchilla", record, (_train("ladders/chinchilla.py:tiny"), report)),
        Job("run.coordinates", "the coordinate check", ((*grow, "--widths=16,32"),)),
        Job("run.mesh", record, (_train("base.py:tiny", "--config.machine.devices=4", *mesh),)),
        Job(
            "run.features",
            f"{record}, eval, sample, export",
            (_train("base.py:tiny", *features), *look, sample),
        ),
        Job("run.vmap", f"{record} of packs", (_train(widths, *vmap),)),
        Job("data.prepare", "token stores of own files", (_prepare("bytes"), _prepare("bpe:300"))),
    ]


def _settings(section: str, **values: object) -> tuple[str, ...]:
    return tuple(f"--config.{section}.{name}={value}" for name, value in values.items())


def _prepare(tokenizer: str) -> tuple[str, ...]:
    out = f"--out=store-{tokenizer.partition(':')[0]}"
    domains = ("--domain", "web=texts/*.jsonl.gz", "code=texts/*.py")
    return ("data", "prepare", out, *domains, f"--tokenizer={tokenizer}", "--filters=min_length")


def _examples() -> list[Job]:
    """Studies and fits of the tables in the repository; numbers that need no table."""
    constants = ("E=1.69", "A=406", "B=411", "alpha=.34", "beta=.28")
    ask = ("recommend", "--budget=1e19", "--target=1e9,2e10", "--error=4%", "--json")
    return [
        _report("examples.proxy_transfer", "proxy_transfer", "examples/proxy_transfer/runs.csv.gz"),
        _report("examples.widths", "learning_rate", "examples/widths.csv.gz"),
        Job("examples.fit", "parameters, errors, allocation", (_fit_example(),)),
        Job(
            "recommend",
            "ladders, by published and by given constants",
            ((*ask, "--draws=50"), (*ask, "--draws=50", "--constants", *constants)),
        ),
    ]


def _report(name: str, study: str, table: str, *more: str) -> Job:
    command = ("report", f"--study={study}", f"--table={table}", "--out=report", *more)
    return Job(name, "every number of results.json", (command,))


def _fit_example() -> tuple[str, ...]:
    table = "examples/proxy_transfer/runs.csv.gz"
    rows = ("--where", "recipe=uniform", "domain=all", "loss<3", "--keep-duplicates")
    options = ("--unidentified=report", "--budget=1e15", "--json")
    return ("fit", table, "--n=N", "--d=D", "--loss=loss", *rows, *options)


def _public() -> list[Job]:
    """The public tables that `stepladder` can fit without a script."""
    chinchilla = (
        "public/chinchilla/svg_extracted_data.csv",
        "--n=Model Size",
        "--derive=D=`Training FLOP` / 6 / N",
    )
    drop, lad = "--drop-highest=5", "--objective=lad"
    ask = ("--budget=1e19", "--target=1e9,2e10", "--error=4%", "--draws=50", "--json")
    table = "public/{}".format
    colpret = ("--n=num_params", "--d=tokens_seen", "--loss=perf", "--group=scaled_set")
    rates = ("--column", "loss=smooth loss", "learning_rate=lr", "batch_size=bs", "seq_len=2048")
    steplaw = table("steplaw/dense_lr_bs_loss.csv.gz")
    return [
        _fit(
            "chinchilla",
            (*chinchilla, drop, "--bootstrap=200", "--budget=5.76e23"),
            (*chinchilla, drop, lad),
            (*chinchilla, "--starts=hoffmann"),
        ),
        Job(
            "public.predict",
            "prediction intervals",
            (("predict", *chinchilla, drop, "--at", "N=7e9,D=2e11", "N=7e10,D=1e12", "--json"),),
        ),
        Job(
            "public.recommend",
            "recommended ladders",
            (("recommend", f"--from={chinchilla[0]}", *chinchilla[1:], *ask),),
        ),
        _fit("datablations", (table("datablations/c4_fit182.csv"), "--law=muennighoff")),
        _fit("porian", (table("porian/isoflop_points.csv"), "--n=n", "--d=t", "--group=config")),
        _fit(
            "isoflop",
            (
                table("isoflop/isoflops_flagged.csv"),
                "--n=params",
                "--d=tokens",
                "--group=experiment",
            ),
        ),
        _fit(
            "okar",
            (
                table("okar/ladder_edu.csv"),
                "--n=n_total",
                "--d=tokens",
                "--loss=loss_fineweb_edu",
                "--bootstrap=100",
            ),
        ),
        _fit(
            "test_time",
            (table("test_time/porian_rw_base_short_chinchilla_isoflop.csv"), "--loss=val_loss"),
        ),
        _fit(
            "colpret",
            (
                table("colpret/colpret_perf.parquet"),
                *colpret,
                "--unidentified=report",
                "--drop-bad",
                "--keep-duplicates",
                "--units-checked",
            ),
        ),
        _report("public.steplaw", "learning_rate", steplaw, *rates),
    ]


def _fit(name: str, *arguments: tuple[str, ...]) -> Job:
    commands = tuple(("fit", *words, "--json") for words in arguments)
    return Job(f"public.{name}", "parameters, errors, minima, intervals", commands)


def _plans() -> list[Job]:
    """Run ids, counts and FLOPs of the shipped configs; of small ones also every executable."""
    names = ["base.py", "base.py:tiny", "demo.py:cpu", "demo.py:tiny"]
    names += [f"sweep.py:{grid}" for grid in ("rate", "long", "decay")]
    names += [f"studies/proxy_transfer.py:{arg}" for arg in ("tiny", "cpu", "gpu", "tpu")]
    names += [f"studies/parametrization.py:{arg}" for arg in ("tiny", "cpu", "gpu")]
    budgets = ["tiny", "cpu", "gpu", "gpu-8", "v4-16", "v5e-16", "v6e-16", "v5p-64", "v5e-256"]
    names += [f"ladders/chinchilla.py:{budget}" for budget in (*budgets, "v6e-256")]
    plain = [
        Job(f"plan.{name}", "run ids, counts, FLOPs", (_plan(name),), exact=True) for name in names
    ]
    here = ("--topology=here", "--json", DEVICES)
    compiled = [
        Job(
            f"plan.compiled.{name}",
            "packs, members, mesh, FLOPs, collectives, fingerprints",
            ((*_plan(name), *here),),
            exact=True,
        )
        for name in ("demo.py:tiny", "studies/proxy_transfer.py:tiny", "ladders/chinchilla.py:tiny")
    ]
    return [*plain, *compiled]


def _plan(name: str) -> tuple[str, ...]:
    return ("plan", f"--config=configs/{name}", "--json")
