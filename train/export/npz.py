"""Weights and spec of a checkpoint as one .npz of plain float32 arrays, readable with numpy
alone.
"""

import json
from pathlib import Path

import jax
import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import replacing
from stepladder.configs.core.record import SPEC
from stepladder.configs.core.spec import RunSpec, from_dict
from stepladder.train.export.restore import Opened
from stepladder.train.record.record import read_json

ABOUT = "__about__"  # the array that holds run id, step and spec, as JSON


def export(opened: Opened, out: Path) -> Path:
    """Write `out` with suffix .npz: one array a parameter, its path in the tree joined by dots.

    Returns the path; raises UserError when it cannot be written.
    """
    out = Path(out).with_suffix(".npz")
    arrays = {
        ".".join(str(getattr(key, "key", key)) for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(opened.params)[0]
    }
    spec = read_json(opened.record / SPEC)
    about = json.dumps({"run_id": opened.spec.run_id, "step": opened.step, "spec": spec})
    arrays[ABOUT] = np.array(about)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # the stub takes any keyword for the one named allow_pickle
        with replacing(out) as file:
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        raise UserError(
            f"out={out}: cannot write it ({error.strerror}); choose another --out"
        ) from error
    return out


def load(path: Path) -> tuple[RunSpec, dict]:
    """The spec and nested parameters of a file that `export` wrote; KeyError for another one."""
    with np.load(path) as file:
        about = json.loads(str(file[ABOUT]))
        arrays = {name: file[name] for name in file.files if name != ABOUT}
    params: dict = {}
    for name, array in arrays.items():
        *parents, last = name.split(".")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return from_dict(about["spec"]), params
