"""The command: help with an example for all, plan, refusals in one line with exit status 1, a whole
tiny run from the shell.
"""

import ast
import errno
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from stepladder.train.cli import parser
from stepladder.train.record import checkpoint
from tests.support import tiny


def command(*args: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stepladder.train", *args],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("name", parser.COMMANDS)
def test_help_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as done:
        parser.main([name, "--help"])
    assert done.value.code == 0
    assert f"example: stepladder {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", parser.COMMANDS)
def test_every_command_keeps_the_convention(name):
    """HELP is one sentence, EXAMPLE a command line of this command that parses, and the module has
    no other public way in.
    """
    module = parser.COMMANDS[name]
    assert module.HELP.endswith((".", "?")) and "\n" not in module.HELP
    program, *words = shlex.split(module.EXAMPLE)
    assert (program, words[0]) == ("stepladder", name)
    args = parser.parse(words)
    assert args.command == name and args.overrides == []
    assert list(inspect.signature(module.add_arguments).parameters) == ["parser"]
    assert list(inspect.signature(module.main).parameters) == ["args"]


def test_every_file_of_a_command_is_in_the_table():
    """A file with the convention's names that is in no row would be a command nobody can call."""
    files = {Path(inspect.getfile(module)) for module in parser.COMMANDS.values()}
    found = set()
    for path in Path(parser.__file__).parent.rglob("*.py"):
        names = {n for node in ast.parse(path.read_text()).body for n in assigned(node)}
        found |= {path} if "EXAMPLE" in names else set()
    assert found == files


def assigned(node: ast.AST) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_commands_named_in_help_exist(capsys):
    """`stepladder X` in any help text is a command."""
    for name in parser.COMMANDS:
        with pytest.raises(SystemExit):
            parser.main([name, "--help"])
    for words in re.findall(r"stepladder ([a-z]+)", capsys.readouterr().out):
        assert words in parser.COMMANDS


def test_overrides_are_taken_from_the_words():
    args = parser.parse(["plan", "--config=c.py:x", "--config.a.b=1=2", "--config.c="])
    assert (args.config, args.overrides) == ("c.py:x", [("a.b", "1=2"), ("c", "")])
    with pytest.raises(SystemExit):
        parser.parse(["status", "--workdir=W", "--config.seed=1"])


def test_version(capsys):
    with pytest.raises(SystemExit) as done:
        parser.main(["--version"])
    assert done.value.code == 0 and re.fullmatch(r"stepladder [\d.]+\n", capsys.readouterr().out)


def test_help_loads_no_heavy_library():
    """Nor does a `run` before it listens to signals. `report` lists the studies, which are read
    from the analysis; all else is quick.
    """
    code = """if True:
        import contextlib, io, sys
        from stepladder.train.cli import parser
        for name in parser.COMMANDS.keys() - {"report", "data"}:
            with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
                parser.main([name, "--help"])
        print(*({"jax", "pandas", "numpy", "scipy", "ml_collections"} & sys.modules.keys()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_plan_counts_and_totals(root, capsys):
    assert parser.main(["plan", f"--config={root}/configs/demo.py:cpu"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert all(
        word in out[0]
        for word in ("N non-emb", "tokens", "FLOPs", "6ND", "steps", "ckpt", "bytes", "time")
    )
    *lines, _rule, total, apart = out[2:]
    runs = [re.sub(r"^ *\|- @\d+ ", "", line).split() for line in lines]
    assert sum(int(r[3].replace(",", "")) for r in runs) == int(total.split()[5].replace(",", ""))
    assert total.startswith(f"total: {len(runs)} runs")
    assert sum("|- @" in line for line in lines) == 14, "two cooldowns of each of seven trunks"
    assert apart.startswith("trained apart") and float(apart.split()[-4]) > 1


def test_plan_shows_branches_below_their_trunk_and_what_they_save(root, capsys):
    """Apart, a cooldown takes its trunk's steps again: all of its own end."""
    assert parser.main(["plan", f"--config={root}/configs/demo.py:tiny", "--json"]) == 0
    runs = {run["run_id"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
    branches = [run for run in runs.values() if run["parent"]]
    assert branches and all(run["branch"] == "cooldown" for run in branches)
    for run in branches:
        trunk = runs[run["parent"]]
        steps = run["parent_step"] + run["steps"]
        assert run["flops_apart"] == pytest.approx(trunk["flops"] * steps / trunk["steps"])
    assert all(run["flops_apart"] == run["flops"] for run in runs.values() if not run["parent"])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["plan", "--config=absent.py"], "no such file"),
        (
            ["plan", "--config={root}/configs/base.py", "--config.model.sise=6k"],
            "did you mean 'model.size'",
        ),
        (["plan", "--config={root}/configs/base.py", "--config.model.size=9q"], "model.size='9q'"),
        (["plan", "--config={root}/configs/base.py:huge"], "'huge'"),
        (["status", "--workdir={tmp}/absent"], "no ladder.json"),
        (["eval", "{tmp}/absent@3"], "no spec.json"),
        (
            [
                "run",
                "--config={root}/configs/base.py",
                "--workdir={tmp}/W",
                "--config.machine.layers=fold",
            ],
            "machine.layers",
        ),
        (["run", "--config={root}/configs/base.py", "--workdir={tmp}/file/W"], "cannot write"),
        (
            [
                "run",
                "--config={root}/configs/base.py",
                "--workdir={tmp}/W",
                "--config.data.sources.a={tmp}/none/*.txt",
            ],
            "none/*.txt",
        ),
        (
            [
                "run",
                "--config={root}/configs/base.py",
                "--workdir={tmp}/W",
                "--config.data.sources.a={tmp}/broken.txt",
            ],
            "UTF-8",
        ),
    ],
)
def test_refusals_are_one_line(args, says, root, tmp_path, capsys):
    (tmp_path / "file").write_text("a file where a folder is wanted")
    (tmp_path / "broken.txt").write_bytes(b"good \xff bad " * 100)
    filled = [a.format(root=root, tmp=tmp_path) for a in args]
    assert parser.main(filled) == 1
    err = capsys.readouterr().err.strip()
    assert says in err and len(err.splitlines()) == 1


def tiny_run(tmp_path, root, *more: str, workdir: str = "W", **changes) -> list[str]:
    return [
        "run",
        f"--config={root}/configs/base.py",
        f"--workdir={tmp_path / workdir}",
        *tiny.overrides(tmp_path / "text", **changes),
        *more,
    ]


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        ({"run__duration": "3000 steps"}, (), "max_epochs"),
        ({"run__batch_size": 9, "machine__accumulation": 2}, (), "machine.accumulation"),
        ({}, ("--config.data.weights.a=1",), "no such domain"),
        ({"optimizer__name": "sgdd"}, (), "optimizer.name"),
        ({"schedule__kind": "wavy"}, (), "optimizer.schedule"),
    ],
)
def test_refused_before_anything_compiles(changes, more, says, tmp_path, root, capsys, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_: pytest.fail("it compiles"))
    assert parser.main(tiny_run(tmp_path, root, *more, **changes)) == 1
    assert says in capsys.readouterr().err


def prepared_store(tmp_path, root):
    """A finished run's token store, and the arguments of another run that reads it."""
    assert parser.main(tiny_run(tmp_path, root, run__duration="10 steps")) == 0
    (store,) = (tmp_path / "W" / "data").iterdir()
    return store, tiny_run(
        tmp_path,
        root,
        f"--config.machine.store={tmp_path / 'W' / 'data'}",
        workdir="other",
        run__duration="11 steps",
    )


def test_store_of_another_tokenizer_is_refused(tmp_path, root, capsys):
    prepared_store(tmp_path, root)
    (run,) = (tmp_path / "W" / "runs").iterdir()
    assert (
        parser.main(
            [
                "data",
                "prepare",
                f"--out={tmp_path / 'bpe'}",
                "--tokenizer=bpe:300",
                f"{tmp_path}/text/words/*.txt",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert parser.main(["eval", str(run), f"--store={tmp_path / 'bpe'}"]) == 1
    assert "was made with bpe:300" in capsys.readouterr().err


def test_truncated_token_store_is_refused(tmp_path, root, capsys):
    store, another = prepared_store(tmp_path, root)
    file = next(store.rglob("*train*.bin"))
    file.write_bytes(file.read_bytes()[:-100])
    capsys.readouterr()
    assert parser.main(another) == 1
    assert file.name in capsys.readouterr().err


def test_disk_full_during_a_checkpoint(tmp_path, root, capsys, monkeypatch):
    """The run stops in one line with status 1; with space again the same command finishes it, as if
    nothing had happened.
    """
    args = tiny_run(tmp_path, root, run__checkpoints=("50%",))
    real = checkpoint.ocp.CheckpointManager.wait_until_finished

    def full(self):
        real(self)
        if 40 in self.all_steps():
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "wait_until_finished", full)
    assert parser.main(args) == 1
    err = capsys.readouterr().err
    assert "disk full" in err and "resumes" in err
    assert parser.main(["status", f"--workdir={tmp_path / 'W'}"]) == 0
    assert "failed" in capsys.readouterr().out
    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "wait_until_finished", real)
    assert parser.main(args) == 0
    assert "1 done" in capsys.readouterr().out


@pytest.mark.slow
def test_from_the_shell(tmp_path, root):
    """run, status while it runs, run again, report, eval, sample, export."""
    args = tiny_run(tmp_path, root, run__duration="150 steps", data__max_epochs=20.0)
    running = subprocess.Popen(
        [sys.executable, "-m", "stepladder.train", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    workdir, seen = tmp_path / "W", set()
    while running.poll() is None:
        if (workdir / "ladder.json").exists():
            status = command("status", f"--workdir={workdir}")
            assert status.returncode == 0, status.stderr
            seen.add(next(word for word in ("pending", "running", "done") if word in status.stdout))
        time.sleep(0.2)
    assert running.returncode == 0, running.stderr.read()
    assert seen & {"pending", "running"}
    again = command(*args)
    assert again.returncode == 0 and "1 done" in again.stdout
    (run,) = (workdir / "runs").iterdir()
    for words in (
        ["report", f"--workdir={workdir}"],
        ["eval", f"{run}@150"],
        ["sample", str(run), "--tokens=20"],
        ["export", str(run), f"--out={tmp_path}/w.npz"],
    ):
        done = command(*words)
        assert done.returncode == 0, done.stderr
    assert (workdir / "report" / "index.html").stat().st_size > 10_000


@pytest.mark.slow
def test_sigterm_saves_and_leaves_with_143(tmp_path, root):
    """As a preempting scheduler does it; the same command then finishes the run."""
    args = tiny_run(tmp_path, root, run__duration="2000 steps", data__max_epochs=1000.0)
    running = subprocess.Popen(
        [sys.executable, "-m", "stepladder.train", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while running.poll() is None and not list((tmp_path / "W").glob("runs/*/heartbeat.json")):
        time.sleep(0.05)
    running.terminate()
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143, err
    assert "preempted" in err and "repeat the command" in err
    (saved,) = (tmp_path / "W").glob("runs/*/checkpoints/*/state")
    assert 0 < int(saved.parent.name) < 2000
    assert parser.main(args) == 0
