"""Programs with known collectives, compiled for CPU devices and for TPU slices: their text says
exactly these bytes, this often.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stepladder.configs.core import sizes
from stepladder.model import transformer
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient
from stepladder.train.checks import hbm_bytes, hlo
from stepladder.train.hardware import topology

LAYERS, D, F, B = 3, 256, 512, 64
P = PartitionSpec
WHOLE = P()


@pytest.fixture(autouse=True)
def _uncached():
    with topology.uncached():
        yield


def mesh_of(devices, **axes: int) -> Mesh:
    return Mesh(
        np.array(devices).reshape(tuple(axes.values())),
        tuple(axes),
        axis_types=(AxisType.Auto,) * len(axes),
    )


def shape(mesh: Mesh, dims: tuple[int, ...], dtype=jnp.float32, spec=WHOLE):
    return jax.ShapeDtypeStruct(dims, dtype, sharding=NamedSharding(mesh, spec))


def step_text(mesh: Mesh) -> str:
    """`count` steps (traced), each: scanned layers whose weights are gathered over fsdp and whose
    gradients are scattered back.
    """

    def local(w_NDF, x_BD):
        def layer(x_BD, w_dF):
            w_DF = jax.lax.all_gather(w_dF, "fsdp", axis=0, tiled=True)

            def dot(a, b):
                # else a TPU gathers in bfloat16
                return jnp.dot(a, b, precision="highest")

            return jnp.tanh(dot(jnp.tanh(dot(x_BD, w_DF)), w_DF.T)), None

        def loss(w_NdF):
            return (jax.lax.scan(layer, x_BD, w_NdF)[0] ** 2).mean()

        return jax.lax.psum(jax.grad(loss)(w_NDF), "data")

    weights, batch = P(None, "fsdp", None), P(("data", "fsdp"))
    gradient = jax.shard_map(
        local, mesh=mesh, in_specs=(weights, batch), out_specs=weights, check_vma=False
    )

    def steps(w, x, count):
        return jax.lax.fori_loop(0, count, lambda i, w: w - gradient(w, x), w)

    arguments = (
        shape(mesh, (LAYERS, D, F), spec=weights),
        shape(mesh, (B, D), spec=batch),
        shape(mesh, (), jnp.int32),
    )
    return jax.jit(steps, donate_argnums=0).lower(*arguments).compile().as_text()


def moved(found: list[hlo.Collective]) -> dict[str, float]:
    """Bytes a step by kind."""
    return {
        kind: sum(c.bytes * c.times for c in found if c.kind == kind)
        for kind in {c.kind for c in found}
    }


def check_step(text: str, data: int, fsdp: int) -> None:
    """Gathered forward and backward, scattered once, a layer; what is left is summed over data once
    a step.
    """
    found = hlo.collectives(hlo.parse(text))
    whole = 4 * D * F
    layers = {(c.kind, c.size): c.times for c in found if c.kind != "all-reduce"}
    assert layers == {("all-gather", fsdp): LAYERS, ("reduce-scatter", fsdp): LAYERS}
    assert {c.dtype for c in found} == {"f32"} and {c.network for c in found} == {"ici"}
    bytes_moved, share = moved(found), (fsdp - 1) / fsdp
    gathers = bytes_moved["all-gather"] / (LAYERS * whole * share)
    assert gathers in (1, 2)  # saved by the forward pass (CPU), or gathered anew
    assert bytes_moved["reduce-scatter"] == pytest.approx(LAYERS * whole * share)
    assert bytes_moved["all-reduce"] == pytest.approx(LAYERS * whole / fsdp * 2 * (data - 1) / data)


def test_cpu_collectives_have_their_bytes_and_counts():
    check_step(step_text(mesh_of(jax.devices()[:4], data=2, fsdp=2)), 2, 2)


@pytest.mark.parametrize("name", ["v5e:4x4", "v5p:2x2x4"])
def test_tpu_collectives_have_their_bytes_and_counts(name):
    check_step(step_text(mesh_of(topology.devices(name), data=4, fsdp=4)), 4, 4)


def test_permutes_and_exchanges_in_a_loop_of_five():
    mesh = mesh_of(topology.devices("v5e:2x2"), ring=4)

    def local(x_BD):
        def turn(x_BD, _):
            x_BD = jax.lax.ppermute(x_BD, "ring", [(i, (i + 1) % 4) for i in range(4)])
            return jnp.tanh(jax.lax.all_to_all(x_BD, "ring", 0, 0, tiled=True)), None

        return jax.lax.scan(turn, x_BD, None, length=5)[0]

    compiled = (
        jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False))
        .lower(shape(mesh, (B, D)))
        .compile()
    )
    found = {c.kind: c for c in hlo.collectives(hlo.parse(compiled.as_text()))}
    assert {kind: (c.bytes, c.times) for kind, c in found.items()} == {
        "collective-permute": (4 * B * D, 5),
        "all-to-all": (4 * B * D * 3 / 4, 5),
    }
    assert found["collective-permute"].groups == ((0, 1), (1, 2), (2, 3), (3, 0))


def test_what_crosses_slices_goes_over_the_network():
    """psum over both axes: scattered within a slice, summed between two, gathered within."""
    mesh = mesh_of(topology.devices("v5e:2x2*2"), data=2, fsdp=4)

    def local(x_BD):
        return jnp.cos(jax.lax.psum(jnp.sin(x_BD), ("data", "fsdp")))

    compiled = (
        jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False))
        .lower(shape(mesh, (B, D)))
        .compile()
    )
    found = hlo.collectives(hlo.parse(compiled.as_text()))
    whole = 4 * B * D
    assert {(c.kind, c.network): (c.bytes, c.size, c.times) for c in found} == {
        ("reduce-scatter", "ici"): (whole * 3 / 4, 4, 1),
        ("all-reduce", "dcn"): (whole / 4, 2, 1),
        ("all-gather", "ici"): (whole * 3 / 4, 4, 1),
    }


@pytest.mark.slow
def test_what_the_compiler_partitions_itself_is_counted_once():
    """Asynchronous gathers stand three times in the text, a reduce-scatter may be written as a
    fused all-reduce.
    """
    mesh = mesh_of(topology.devices("v5e:4x4"), data=2, fsdp=8)
    wide, deep, layers = 4096, 1024, 6

    def loss(weights, x_BLD):
        def layer(x_BLD, w):
            return x_BLD + jax.nn.gelu(x_BLD @ w[0].astype(jnp.bfloat16)) @ w[1].astype(
                jnp.bfloat16
            ), None

        return (
            jax.lax.scan(jax.checkpoint(layer), x_BLD, weights)[0].astype(jnp.float32) ** 2
        ).mean()

    def step(w, x):
        return jax.tree.map(jnp.subtract, w, jax.grad(loss)(w, x))

    weights = (
        shape(mesh, (layers, deep, wide), spec=P(None, "fsdp")),
        shape(mesh, (layers, wide, deep), spec=P(None, None, "fsdp")),
    )
    x_BLD = shape(mesh, (128, 256, deep), jnp.bfloat16, P(("data", "fsdp")))
    jitted = jax.jit(
        step, donate_argnums=0, out_shardings=jax.tree.map(lambda s: s.sharding, weights)
    )
    text = jitted.lower(weights, x_BLD).compile().as_text()
    assert "AsyncCollectiveStart" in text and "%all-reduce-scatter" in text
    gathers = [c for c in hlo.collectives(hlo.parse(text)) if c.kind == "all-gather"]
    assert len(gathers) == 4 and {(c.bytes, c.times) for c in gathers} == {
        (2 * deep * wide * 7 / 8, layers)
    }  # forward and backward
    assert ("reduce-scatter", 2 * deep * wide * 7 / 8) in {
        (c.kind, c.bytes) for c in hlo.collectives(hlo.parse(text))
    }


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x", ((0, 1), (2, 3))),
        ("replica_groups={}, x", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("replica_groups=[2,4]<=[8], x", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("replica_groups=[2,4]<=[4,2]T(1,0), x", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}, x", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("replica_groups=mesh['a'=4,'b'=2] {'a'}, x", ((0, 2, 4, 6), (1, 3, 5, 7))),
        (
            "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x",
            ((0, 4), (1, 5), (2, 6), (3, 7)),
        ),
        ("replica_groups=mesh['a'=8] {'a':(2)2}, x", ((0, 2), (1, 3), (4, 6), (5, 7))),
    ],
)
def test_every_form_of_replica_groups(written, groups):
    assert hlo.replica_groups(written, 8) == groups


def test_a_loop_counts_as_often_as_it_turns():
    """Written out by hand as the TPU compiler does: the limit is a constant outside of the loop,
    the counter begins at 2.
    """
    text = """HloModule m, num_partitions=2

%body (p: (s32[], s32[], f32[8])) -> (s32[], s32[], f32[8]) {
  %p = (s32[], s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  %x = f32[8]{0} get-tuple-element(%p), index=2
  %ar = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %t = (s32[], s32[], f32[8]{0}) tuple(%i, %n, %ar)
}

%condition (q: (s32[], s32[], f32[8])) -> pred[] {
  %q = (s32[], s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%q), index=0
  %n.1 = s32[] get-tuple-element(%q), index=1
  ROOT %lt = pred[] compare(%i.1, %n.1), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x.1 = f32[8]{0} parameter(0)
  %two = s32[] constant(2)
  %nine = s32[]{:T(128)} constant(9)
  %copy = s32[] copy(%nine)
  %start = (s32[], s32[], /*index=2*/f32[8]{0}) tuple(%two, %copy, %x.1)
  %loop = (s32[], s32[], f32[8]{0}) while(%start), condition=%condition, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=2
}
"""
    (found,) = hlo.collectives(hlo.parse(text))
    assert (found.times, found.bytes, found.size) == (7, 32, 2)
    (found,) = hlo.collectives(hlo.parse(text.replace("constant(9)", "parameter(1)")))
    assert found.times == 1
    known = text.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"4"}}')
    assert hlo.collectives(hlo.parse(known))[0].times == 4


@pytest.mark.parametrize("devices", ["cpu", "v5e:2x2"])
def test_traffic_of_a_scan_reads_its_weights_once(devices):
    """A scanned matmul reads each layer's slice, never the whole stack in every turn."""
    mesh = mesh_of(jax.devices()[:1] if devices == "cpu" else topology.devices(devices)[:1], data=1)
    layers, wide, rows = 16, 1024, 512

    def run(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    text = (
        jax.jit(run)
        .lower(shape(mesh, (rows, wide)), shape(mesh, (layers, wide, wide)))
        .compile()
        .as_text()
    )
    weights, activations = 4.0 * layers * wide * wide, 4.0 * layers * rows * wide
    assert weights <= hbm_bytes.bytes_accessed(hlo.parse(text)) <= 4 * weights + 8 * activations


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_traffic_without_loops_is_what_xla_says(dtype):
    """On CPU, where no memory is near; the two differ, if at all, in how often a fusion reads what
    it slices.
    """
    spec = sizes.shape("84k", vocab_size=512, compute_dtype=dtype)
    params = jax.eval_shape(lambda: transformer.init(spec, jax.random.key(0)))
    tokens_BT = jax.ShapeDtypeStruct((4, 65), jnp.int32)
    compiled = (
        jax.jit(lambda p, t: loss_and_gradient(spec, p, t, execution=Execution(layers="unroll"))[1])
        .lower(params, tokens_BT)
        .compile()
    )
    assert hbm_bytes.bytes_accessed(hlo.parse(compiled.as_text())) == pytest.approx(
        compiled.cost_analysis()["bytes accessed"], rel=0.1
    )
