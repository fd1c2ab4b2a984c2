"""Read a config file and the command line's overrides: `--config=FILE[:ARG] --config.key=value
...`.
"""

import ast
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from stepladder.configs.core.branches.check import check_branch
from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.measurements import Probe
from stepladder.configs.core.spec import RunSpec

CONFIGS = Path(__file__).resolve().parents[1]  # a file in it is imported under its own name, once

Ladder = Callable[[ConfigDict], list[RunSpec]]
Probes = Callable[[ConfigDict, list[RunSpec]], list[Probe]]


@dataclass(frozen=True)
class Loaded:
    """A config with its overrides applied, and what its module makes of it."""

    path: str
    config: ConfigDict
    specs: list[RunSpec]  # parents before branches
    probes: tuple[Probe, ...] = ()


def load(reference: str, overrides: Iterable[tuple[str, str]] = ()) -> Loaded:
    """Load a config file and expand its ladder.

    The file has `get_config(arg)`, and may have `ladder(config) -> [RunSpec]` (default: one run)
    and `probes(config, specs) -> [Probe]` (default: none).

    Args:
        reference: FILE[:ARG].
        overrides: dotted keys and texts, applied in order before the ladder is expanded.

    Raises:
        UserError: anything the user can mend.
    """
    path, _, arg = reference.partition(":")
    module = _module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"config={path}: has no get_config(); copy configs/base.py")
    try:
        config: ConfigDict = module.get_config(arg) if arg else module.get_config()
    except (TypeError, ValueError) as error:
        raise UserError(f"config={reference}: {error}") from error
    for key, text in overrides:
        override(config, key, text)
    config.lock()
    expand: Ladder = getattr(module, "ladder", _single)
    ask: Probes = getattr(module, "probes", _no_probes)
    specs = checked(expand(config))
    return Loaded(path, config, specs, tuple(ask(config, specs)))


def override(config: ConfigDict, key: str, text: str) -> None:
    """Set a dotted `key` from text, keeping its type.

    A key that is not there yet is taken in the sections of `config.free_keys` only. Raises
    UserError on an unknown key or a wrong type, naming the nearest known key.
    """
    *parents, last = key.split(".")
    node = config
    for i, part in enumerate(parents):
        if part not in node or not isinstance(node[part], ConfigDict):
            raise UserError(
                f"config.{key}={text}: unknown section {'.'.join(parents[: i + 1])!r}; "
                f"{nearest(key, _leaves(config))}"
            )
        node = node[part]
    free: dict[str, object] = dict(config.get(FREE_KEYS, ()))
    section = ".".join(parents)
    if key == FREE_KEYS or (last not in node and section not in free):
        raise UserError(f"config.{key}={text}: unknown key; {nearest(key, _leaves(config))}")
    current = node[last] if last in node else free[section]
    if isinstance(current, ConfigDict):
        raise UserError(
            f"config.{key}={text}: is a section; set one of "
            f"{', '.join(f'{key}.{k}' for k in current) or f'{key}.<name>'}"
        )
    with node.unlocked():
        node[last] = _parse(key, text, current)


FREE_KEYS = "free_keys"  # of a config: (section that takes new keys, their default) pairs
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def _parse(key: str, text: str, current: object) -> object:
    """`text` as a value of the type that the key has now."""
    kind: Any = type(current)
    try:
        if kind is bool:
            return _BOOLS[text.lower()]
        if kind is tuple and text.startswith(("(", "[")):
            return tuple(ast.literal_eval(text))
        if kind is tuple:
            return tuple(part for part in text.split(",") if part)
        if kind is float and not math.isfinite(float(text)):
            raise ValueError("not finite")
        return kind(text)
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise UserError(
            f"config.{key}={text}: not a {kind.__name__}; the default is {current!r}"
        ) from error


def _leaves(config: ConfigDict, prefix: str = "") -> list[str]:
    """Dotted keys of every value."""
    found: list[str] = []
    for key, value in config.items():
        if key == FREE_KEYS:  # of the config file alone
            continue
        found += (
            _leaves(value, f"{prefix}{key}.")
            if isinstance(value, ConfigDict)
            else [f"{prefix}{key}"]
        )
    return found


def _module(path: str) -> ModuleType:
    """The config file as a module: one of this package's under its own name."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"config={path}: no such file; use e.g. configs/demo.py:cpu")
    try:
        inside = file.resolve().relative_to(CONFIGS).with_suffix("")
    except ValueError:  # someone else's
        inside = None
    try:
        if inside is None:
            return _from_file(file)
        return importlib.import_module(".".join(["stepladder.configs", *inside.parts]))
    except SyntaxError as error:
        raise UserError(
            f"config={path}: line {error.lineno}: {error.msg}; mend the file"
        ) from error


def _from_file(file: Path) -> ModuleType:
    loader = SourceFileLoader(f"stepladder_config_{file.stem}", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    loader.exec_module(module)
    return module


def _single(config: ConfigDict) -> list[RunSpec]:
    from stepladder.configs.core.build import rung

    return [rung(config)]


def _no_probes(config: ConfigDict, specs: list[RunSpec]) -> list[Probe]:
    return []


def checked(specs: list[RunSpec]) -> list[RunSpec]:
    """The specs; UserError for duplicates, for branches that come before their parent, and for
    branches that cannot start from it.
    """
    seen: dict[str, RunSpec] = {}
    for spec in specs:
        if spec.run_id in seen:
            raise UserError(
                f"ladder: run {spec.run_id} appears twice; two specs are identical, drop one"
            )
        if spec.parent and spec.parent.run_id not in seen:
            raise UserError(
                f"ladder: branch {spec.run_id} comes before its parent {spec.parent.run_id}; order "
                "parents first"
            )
        if spec.parent:
            check_branch(spec, seen[spec.parent.run_id])
        seen[spec.run_id] = spec
    if not specs:
        raise UserError("ladder: yields no run; check the config's ladder()")
    return specs
