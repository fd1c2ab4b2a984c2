"""Read a config file and the command line's overrides: `--config=FILE[:ARG] --config.key=value
...`.
"""

import ast
import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.measurements import Probe
from stepladder.configs.core.spec import RunSpec

CONFIGS = Path(__file__).resolve().parents[1]  # a file in it is imported under its own name, once


@dataclass(frozen=True)
class Loaded:
    """A config with its overrides applied, the run specs it yields, parents before branches, and
    the probes it asks for.
    """

    path: str
    config: ConfigDict
    specs: list[RunSpec]
    probes: tuple[Probe, ...] = ()


def load(reference: str, overrides: Iterable[tuple[str, str]] = ()) -> Loaded:
    """Load FILE[:ARG], apply `overrides` (dotted key, text) and expand the ladder.

    Raises UserError for anything the user can mend.
    """
    path, _, arg = reference.partition(":")
    module = _module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"config={path}: has no get_config(); copy configs/base.py")
    try:
        config = module.get_config(arg) if arg else module.get_config()
    except (TypeError, ValueError) as error:
        raise UserError(f"config={reference}: {error}") from error
    for key, text in overrides:
        override(config, key, text)
    config.lock()
    expand: Callable[[ConfigDict], list[RunSpec]] = getattr(module, "ladder", None) or _single
    specs = _checked(expand(config))
    asked: Callable[[ConfigDict, list[RunSpec]], list[Probe]] = getattr(module, "probes", None) or (
        lambda config, specs: []
    )
    return Loaded(path, config, specs, tuple(asked(config, specs)))


def override(config: ConfigDict, key: str, text: str) -> None:
    """Set a dotted `key` from text, keeping its type.

    Raises UserError on an unknown key or a wrong type, naming the nearest known key.
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
    # the maps whose keys are the user's
    free = parents in (["data", "weights"], ["data", "sources"], ["data", "variants"])
    if last not in node and not free:
        raise UserError(f"config.{key}={text}: unknown key; {nearest(key, _leaves(config))}")
    current = node[last] if last in node else (0.0 if parents[-1] == "weights" else "")
    if isinstance(current, ConfigDict):
        raise UserError(
            f"config.{key}={text}: is a section; set one of "
            f"{', '.join(f'{key}.{k}' for k in current) or f'{key}.<name>'}"
        )
    with node.unlocked():
        node[last] = _parse(key, text, current)


def _parse(key: str, text: str, current: object) -> object:
    kind = type(current)
    try:
        if kind is str:
            return text
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if kind is tuple:
            value = (
                ast.literal_eval(text)
                if text.startswith(("(", "["))
                else tuple(part for part in text.split(",") if part)
            )
            return tuple(value)
        return kind(text)
    except (KeyError, ValueError, SyntaxError) as error:
        raise UserError(
            f"config.{key}={text}: not a {kind.__name__}; the default is {current!r}"
        ) from error


def _leaves(config: ConfigDict, prefix: str = "") -> list[str]:
    found = []
    for key, value in config.items():
        found += (
            _leaves(value, f"{prefix}{key}.")
            if isinstance(value, ConfigDict)
            else [f"{prefix}{key}"]
        )
    return found


def _module(path: str):
    file = Path(path)
    if not file.is_file():
        raise UserError(f"config={path}: no such file; use e.g. configs/demo.py:cpu")
    try:
        inside = file.resolve().relative_to(CONFIGS).with_suffix("")
    except ValueError:  # someone else's
        return _from_file(path, file)
    return importlib.import_module(".".join(["stepladder.configs", *inside.parts]))


def _from_file(path: str, file: Path):
    spec = importlib.util.spec_from_file_location(f"stepladder_config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(
            f"config={path}: line {error.lineno}: {error.msg}; mend the file"
        ) from error
    return module


def _single(config: ConfigDict) -> list[RunSpec]:
    from stepladder.configs.core.build import rung

    return [rung(config)]


def _checked(specs: list[RunSpec]) -> list[RunSpec]:
    """Refuse duplicate runs and branches whose parent is not before them."""
    seen: set[str] = set()
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
        seen.add(spec.run_id)
    if not specs:
        raise UserError("ladder: yields no run; check the config's ladder()")
    return specs
