"""The same run on every mesh: golden shardings, equal steps, packs, and meshes that cannot be.

On eight fake devices.
"""

import dataclasses
import functools
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from stepladder.configs import base
from stepladder.configs.core.build import rung
from stepladder.configs.core.errors import UserError
from stepladder.model import layer, mlp
from stepladder.model.attention import attend as attention
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient, window_losses
from stepladder.model.parallel import collectives, rules
from stepladder.train.hardware.machine import Machine
from stepladder.train.hardware.mesh import by_state, mesh_of_pack, mesh_of_run, padded_members
from stepladder.train.step import packed_program, step
from stepladder.train.step.program import Program

GOLDEN = Path(__file__).parents[2] / "golden" / "shardings.json"
MESHES = (
    "data=8",
    "fsdp=8",
    "data=4,tensor=2",
    "data=2,fsdp=4",
    "data=1,fsdp=4,tensor=2",
    "data=2,fsdp=2,tensor=2",
    "data=1,tensor=8",
)
SOME = [
    text
    if text in ("data=8", "data=1,fsdp=4,tensor=2")
    else pytest.param(text, marks=pytest.mark.slow)
    for text in MESHES
]
MORE = [
    text if text == "data=2,fsdp=2,tensor=2" else pytest.param(text, marks=pytest.mark.slow)
    for text in MESHES
]
PACKED = ("run=8", "run=4,data=2", "run=2,fsdp=2,tensor=2", "run=2,data=1,fsdp=4")


def spec_of(batch: int = 8, untied: bool = False, **changes):
    """A run whose heads, hidden units and width can be cut into eight."""
    c = base.get_config()
    c.model.size, c.model.tied, c.data.seq_len = "w64d2h8", not untied, 16
    c.run.duration, c.run.batch_size, c.optimizer.learning_rate, c.schedule.warmup = (
        "40 steps",
        batch,
        1e-2,
        "4 steps",
    )
    c.optimizer.epsilon = (
        1e-4  # Adam's first step is the gradient's sign but for epsilon: rounding must not flip it
    )
    c.update(changes)
    return rung(c)


SPEC = spec_of(untied=True)
MODEL = SPEC.model
TOKENS_SBT = np.random.default_rng(0).integers(0, MODEL.vocab_size, (20, 8, 17)).astype(np.int32)
# of sums over 128 tokens in float32, relative to a tensor's largest value; float64 tells mistakes
# from rounding
ROUNDING = 5e-6
EXECUTION = Execution(micro_batch=1)


def machine(text: str, **more) -> Machine:
    return Machine(devices=8, mesh=text, pack_mode="vmap", **more)


def described(tree: dict, shapes: dict) -> dict[str, str]:
    """path -> 'partition -> the shape that a device holds'."""
    leaves, at = (jax.tree_util.tree_leaves_with_path(t) for t in (shapes, tree))
    return {
        jax.tree_util.keystr(p): f"{s.spec} {s.shard_shape(x.shape)}"
        for (p, x), (_, s) in zip(leaves, at)
    }


def test_golden_shardings():
    """Every leaf of the state and the batch on every mesh; STEPLADDER_GOLDEN=write after a
    change that was meant.
    """
    found = {}
    for text in MESHES:
        program = Program(SPEC, machine(text))
        places = described(program.by_state, program.shapes)
        places["tokens_BT"] = str(rules.partition(rules.TOKENS_BT))
        found[text] = places
    for text in PACKED:
        pack = packed_program.Packed(Program(SPEC, machine(text)), 8, 1)
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((8, *x.shape), x.dtype), pack.program.shapes
        )
        found[f"pack of 8: {text}"] = described(pack.by_state, shapes)
    if os.environ.get("STEPLADDER_GOLDEN") == "write":
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(GOLDEN.read_text())


def test_every_parameter_has_a_rule():
    shapes = Program(SPEC, machine("data=8")).shapes
    named = {
        rules.name_of(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"])
    }
    assert named.keys() <= rules.PARAMETERS.keys() == named.keys() | {"embed"}
    for name, leaf in named.items():
        assert len(rules.PARAMETERS[name]) == leaf.ndim
    known = {
        axis for axes in (*rules.PARAMETERS.values(), rules.TOKENS_BT) for axis in axes if axis
    }
    assert known | {"run"} == set(rules.RULES)


def put(mesh, tree):
    return jax.device_put(tree, by_state(mesh, tree))


def wide(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if x.dtype == jnp.float32 else x, tree)


def trained(text: str | None, steps: int, dtype: str = "float32") -> tuple[dict, list[float]]:
    """State and losses after `steps` steps from the same state, on a mesh or (None) on one
    device.
    """
    model = dataclasses.replace(MODEL, compute_dtype=dtype)
    hyper = wide({k: jnp.asarray(v) for k, v in step.traced_hypers(SPEC).items()}, dtype)
    state = wide(jax.jit(lambda h: step.initial_state(model, SPEC.optimizer, h))(hyper), dtype)
    mesh = mesh_of_run(machine(text), SPEC) if text else None
    execution = dataclasses.replace(EXECUTION, mesh=mesh)
    one = jax.jit(functools.partial(step.train_step, model, SPEC.optimizer, execution))
    state, losses = put(mesh, state) if text else state, []
    for s in range(steps):
        state, metrics = one(state, hyper, TOKENS_SBT[s])
        losses.append(float(metrics["last_loss"]))
    return jax.device_get(state), losses


@functools.cache
def on_one_device(steps: int, dtype: str) -> tuple[dict, list[float]]:
    return trained(None, steps, dtype)


def assert_close(got: dict, want: dict, tolerance: float, least: float = 0.0) -> None:
    """Every leaf to `tolerance` of its largest value, or of `least`."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(
            x,
            y,
            rtol=0,
            atol=tolerance * max(least, float(np.abs(y).max())),
            err_msg=jax.tree_util.keystr(path),
        )


@pytest.mark.parametrize("remat", ["none", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("text", MORE)
def test_gradient_is_that_of_one_device_to_1e_6(text, remat):
    params = Program(SPEC, machine("data=8")).init(step.traced_hypers(SPEC))["params"]
    want = jax.jit(lambda p, t: loss_and_gradient(MODEL, p, t, 1e-4, execution=EXECUTION))(
        jax.device_get(params), TOKENS_SBT[0]
    )
    mesh = mesh_of_run(machine(text), SPEC)
    execution = dataclasses.replace(EXECUTION, remat=remat, mesh=mesh)
    got = jax.jit(lambda p, t: loss_and_gradient(MODEL, p, t, 1e-4, execution=execution))(
        put(mesh, params), TOKENS_SBT[0]
    )
    same = jax.tree.map(
        lambda x, at: x.sharding.is_equivalent_to(at.sharding, x.ndim), got[1], put(mesh, params)
    )
    assert all(jax.tree.leaves(same))
    assert_close(jax.device_get(got[0]), want[0], 1e-6)
    assert_close(jax.device_get(got[1]), want[1], ROUNDING)
    assert_close(jax.device_get(got[1]), want[1], 1e-6, least=1.0)


@pytest.mark.parametrize("text", SOME)
def test_one_step_is_that_of_one_device_to_1e_6(text):
    state, losses = trained(text, 1)
    want, wanted = on_one_device(1, "float32")
    np.testing.assert_allclose(losses, wanted, rtol=1e-6)
    assert_close(state["opt"], want["opt"], ROUNDING)
    assert_close(state["opt"], want["opt"], 1e-6, least=1.0)
    assert_close(state["params"], want["params"], 1e-6, least=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("text", MESHES)
def test_20_steps_in_float64_are_those_of_one_device_to_1e_9(text):
    with jax.enable_x64(True):
        state, losses = trained(text, 20, "float64")
        want, wanted = on_one_device(20, "float64")
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)
    assert state["params"]["embed"].dtype == np.float64
    assert_close(state, want, 1e-9)


@pytest.mark.parametrize("text", ["data=1,fsdp=4,tensor=2"])
def test_windows_are_evaluated_alike(text):
    params = Program(SPEC, machine("data=8")).init(step.traced_hypers(SPEC))["params"]
    mesh = mesh_of_run(machine(text), SPEC)
    execution = Execution(mesh=mesh)
    got = jax.jit(lambda p: window_losses(MODEL, p, TOKENS_SBT[0], execution=execution))(
        put(mesh, params)
    )
    want = jax.jit(lambda p: window_losses(MODEL, p, TOKENS_SBT[0]))(jax.device_get(params))
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("text", PACKED[2:])
def test_a_pack_over_a_mesh_is_its_runs(text):
    """Members cut over fsdp and tensor beside the axis run; each back on its own program's mesh,
    and what it was.
    """
    program = Program(SPEC, machine(text))
    pack = packed_program.Packed(program, 4, 1)
    hypers = [
        {**step.traced_hypers(SPEC), "learning_rate": np.float32(rate), "seed": np.int32(i)}
        for i, rate in enumerate((1e-3, 2e-3, 3e-3))
    ]
    states = [program.init(hyper) for hyper in hypers]
    before = [jax.device_get(state) for state in states]
    state = pack.place(states)
    for i, one in enumerate(before):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(pack.take(state, i)), one)
    batch = pack.batch([2, 2, 1], [0, 0, 0], [list(TOKENS_SBT[:2])])
    state, metrics = pack.step(state, pack.hyper(hypers), *batch)
    alone = jax.jit(functools.partial(step.train_steps, MODEL, SPEC.optimizer, EXECUTION))
    for i, (one, hyper, count) in enumerate(zip(before, hypers, (2, 2, 1))):
        want, wanted = alone(one, hyper, np.int32(count), TOKENS_SBT[:2])
        np.testing.assert_allclose(
            pack.fetch(metrics)["last_loss"][i], wanted["last_loss"], rtol=1e-6
        )
        taken = pack.take(state, i)
        assert taken["params"]["embed"].sharding == program.by_state["params"]["embed"]
        assert_close(
            jax.device_get(taken["params"]), jax.device_get(want["params"]), 2e-6, least=1.0
        )


@pytest.mark.parametrize("rings", [(8,), (2, 4), (4, 2), (2, 2, 2)])
@pytest.mark.parametrize(
    ("shape", "dim"), [((3, 16), 1), ((16, 2, 3), 0), ((3, 2, 16), 2), ((2, 16, 3, 5), 1)]
)
def test_scattering_ring_by_ring_is_scattering_at_once(rings, shape, dim):
    """What a TPU's torus asks for; a device of rank i holds piece i either way."""
    mesh = mesh_of_run(machine("fsdp=8"), SPEC)
    parts = np.random.default_rng(1).normal(size=(8, *shape)).astype(np.float32)
    shard = collectives.Shard(dim, ("fsdp",), rings)
    partition = rules.partition(("embed",))

    def local(part):
        return collectives.scatter(part[0], shard)

    scattered = PartitionSpec(*(None,) * dim, "fsdp")
    got = jax.jit(collectives.on_devices(local, mesh, partition, scattered))(
        jax.device_put(parts, NamedSharding(mesh, partition))
    )
    np.testing.assert_allclose(got, parts.sum(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16_on_a_mesh_is_bfloat16_on_one_device(tied):
    """To its own rounding; the embedding tied too."""
    spec = spec_of(untied=not tied)
    model = dataclasses.replace(spec.model, compute_dtype="bfloat16")
    params = jax.device_get(
        Program(spec, machine("data=8")).init(step.traced_hypers(spec))["params"]
    )
    want = jax.jit(lambda p, t: loss_and_gradient(model, p, t, 1e-4, execution=EXECUTION))(
        params, TOKENS_SBT[0]
    )
    mesh = mesh_of_run(machine("data=1,fsdp=4,tensor=2"), spec)
    on_mesh = dataclasses.replace(EXECUTION, mesh=mesh)
    got = jax.jit(lambda p, t: loss_and_gradient(model, p, t, 1e-4, execution=on_mesh))(
        put(mesh, params), TOKENS_SBT[0]
    )
    assert_close(jax.device_get(got), want, 0.03)


@pytest.mark.slow
def test_a_tied_embedding_on_a_mesh():
    spec = spec_of()
    params = jax.device_get(
        Program(spec, machine("data=8")).init(step.traced_hypers(spec))["params"]
    )
    want = jax.jit(lambda p, t: loss_and_gradient(spec.model, p, t, 1e-4, execution=EXECUTION))(
        params, TOKENS_SBT[0]
    )
    mesh = mesh_of_run(machine("data=1,fsdp=4,tensor=2"), spec)
    on_mesh = dataclasses.replace(EXECUTION, mesh=mesh)
    got = jax.jit(lambda p, t: loss_and_gradient(spec.model, p, t, 1e-4, execution=on_mesh))(
        put(mesh, params), TOKENS_SBT[0]
    )
    assert_close(jax.device_get(got[0]), want[0], 1e-6)
    assert_close(jax.device_get(got[1]), want[1], ROUNDING)
    assert_close(jax.device_get(got[1]), want[1], 1e-6, least=1.0)


def test_bfloat16_gathers_in_bfloat16_and_sums_in_float32():
    model = dataclasses.replace(MODEL, compute_dtype="bfloat16")
    mesh = mesh_of_run(machine("fsdp=8"), SPEC)
    params = Program(SPEC, machine("fsdp=8")).shapes["params"]
    on_mesh = dataclasses.replace(EXECUTION, mesh=mesh)

    def gradient(params):
        return loss_and_gradient(model, params, TOKENS_SBT[0], execution=on_mesh)[1]

    text = str(jax.make_jaxpr(gradient)(params))
    moved = {
        kind: [
            line.split("[")[0].split(":")[-1] for line in text.splitlines() if f" {kind}[" in line
        ]
        for kind in ("all_gather", "reduce_scatter")
    }
    assert set(moved["all_gather"]) == {"bf16"} and set(moved["reduce_scatter"]) == {"f32"}


@pytest.mark.parametrize("text", ["data=2,fsdp=2,tensor=2", "data=4,tensor=2"])
def test_activations_are_shared_by_the_devices(text, monkeypatch):
    """What a device holds inside of the step: its part of the sequence where a block is entered,
    heads in attention, hidden units in the MLP.
    """
    seen = {}
    attend, swiglu = attention.attend, mlp.ACTIVATIONS["swiglu"]
    enter = collectives.Parallel.all_gather_sequence

    def entered(self, x_BLD):
        seen["x_BLD"] = x_BLD.shape
        return enter(self, x_BLD)

    def attended(q_BLHK, *args, **options):
        seen["heads_BLHK"] = q_BLHK.shape
        return attend(q_BLHK, *args, **options)

    def hidden(gate_YF, up_YF):
        seen["hidden_BLF"] = gate_YF.shape
        return swiglu.function(gate_YF, up_YF)

    monkeypatch.setattr(collectives.Parallel, "all_gather_sequence", entered)
    monkeypatch.setattr(attention, "attend", attended)
    monkeypatch.setitem(mlp.ACTIVATIONS, "swiglu", swiglu._replace(function=hidden))
    mesh, params = mesh_of_run(machine(text), SPEC), Program(SPEC, machine(text)).shapes["params"]
    jax.eval_shape(
        lambda p: loss_and_gradient(MODEL, p, TOKENS_SBT[0], execution=Execution(mesh=mesh)),
        params,
    )
    B, L, D, H, K, F = 8, 16, MODEL.d_model, MODEL.n_heads, MODEL.head_dim, MODEL.d_ff
    rows = ("data", "fsdp")
    for name, shape, partition in (
        ("x_BLD", (B, L, D), PartitionSpec(rows, "tensor", None)),
        ("heads_BLHK", (B, L, H, K), PartitionSpec(rows, None, "tensor", None)),
        ("hidden_BLF", (B, L, F), PartitionSpec(rows, None, "tensor")),
    ):
        held = NamedSharding(mesh, partition).shard_shape(shape)
        assert seen[name] == ((held[0] * held[1], held[2]) if name == "hidden_BLF" else held), name


@pytest.mark.parametrize("remat", layer.REMAT)
def test_weights_are_gathered_again_and_never_kept(remat):
    """Four matrices of a layer, forward and backward, and the two tables."""
    mesh = mesh_of_run(machine("fsdp=8"), SPEC)
    params = Program(SPEC, machine("fsdp=8")).shapes["params"]
    execution = dataclasses.replace(EXECUTION, remat=remat, mesh=mesh)

    def gradient(params):
        return loss_and_gradient(MODEL, params, TOKENS_SBT[0], execution=execution)

    text = str(jax.make_jaxpr(gradient)(params))
    assert text.count(" all_gather[") == 4 + 4 + 2


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        ("fsdp=3", {}, "machine.mesh='fsdp=3': 3 devices, and there are 8"),
        (
            "data=4",
            {},
            (
                "machine.mesh='data=4': 4 devices, and there are 8; change a size, or set "
                "machine.devices=4"
            ),
        ),
        ("data=4,fsdp=4", {}, "16 devices, and there are 8"),
        (
            "rows=8",
            {},
            "machine.mesh='rows=8': not a mesh; use auto, or sizes of run, data, fsdp, tensor",
        ),
        ("fsdp=8,fsdp=1", {}, "not a mesh"),
        (
            "tensor=8",
            {"model.size": "w64d2h16"},
            "tensor = 8 does not divide the 4 key/value heads of w64d2h16",
        ),
        (
            "tensor=2",
            {"data.seq_len": 15},
            "tensor = 2 does not divide the 15 tokens of a sequence",
        ),
        ("fsdp=8", {"model.size": "w36d2h6"}, "fsdp x tensor = 8 does not divide the width 36"),
        (
            "data=8",
            {"run.batch_size": 12},
            (
                "run.batch_size=12: not divisible by data x fsdp = 8; use machine.mesh=auto, or a "
                "batch of 16"
            ),
        ),
    ],
)
def test_meshes_that_cannot_be(text, changes, said):
    c = base.get_config()
    c.model.size, c.data.seq_len, c.run.duration, c.run.batch_size, c.schedule.warmup = (
        "w64d2h8",
        16,
        "40 steps",
        8,
        "4 steps",
    )
    for key, value in changes.items():
        section, name = key.split(".")
        c[section][name] = value
    with pytest.raises(UserError) as error:
        Program(rung(c), machine(text))
    assert said in str(error.value)


@pytest.mark.parametrize(
    "text", ["data=8", "data=4,tensor=2", "data=2,fsdp=4", "run=8", "run=4,fsdp=2"]
)
@pytest.mark.parametrize(("batch", "members"), [(8, 8), (8, 3), (4, 8)])
def test_packs_on_any_mesh(text, batch, members):
    """A mesh has all devices, its axis run divides the members, and a run alone has one too; or it
    is said why not.
    """
    spec, here = spec_of(batch), machine(text)
    size = padded_members(here, members, batch)
    if batch == 4 and text in ("data=8", "data=2,fsdp=4"):
        with pytest.raises(UserError, match="run.batch_size=4: not divisible by data x fsdp = 8"):
            mesh_of_pack(here, spec, size, "vmap")
        return
    mesh = mesh_of_pack(here, spec, size, "vmap")
    assert size >= members and mesh.size == 8 and size % mesh.shape["run"] == 0
    assert (
        mesh_of_run(here, spec).size == 8 and batch % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
    )


def test_slices_meet_along_data_only():
    """Two slices beside each other: what is gathered over fsdp and tensor stays within one."""
    spec = spec_of(64)
    mesh = mesh_of_run(Machine(topology="v5e:2x4*2", mesh="fsdp=4,tensor=2"), spec)
    assert dict(mesh.shape) == {"run": 1, "data": 2, "fsdp": 4, "tensor": 2}
    for i, one in enumerate(mesh.devices[0]):
        assert {device.slice_index for device in one.flat} == {i}
    with pytest.raises(
        UserError, match="fsdp x tensor = 16 does not lie within a slice of 8 devices"
    ):
        mesh_of_run(Machine(topology="v5e:2x4*2", mesh="fsdp=16"), spec)


def test_accumulation_must_divide_what_a_mesh_shares():
    with pytest.raises(UserError, match="times machine.accumulation=3"):
        Program(spec_of(8), machine("data=4,tensor=2", accumulation=3))
