"""Every implementation of `attend` against plain NumPy in float64, values and gradients; masks;
what each refuses; who is chosen where.
"""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stepladder.model import execution, transformer
from stepladder.model.attention.attend import attend
from stepladder.model.attention.mask import MaskSpec, document_numbers
from stepladder.model.execution import Execution
from stepladder.model.gradient import loss_and_gradient
from stepladder.train.hardware import topology
from stepladder.train.hardware.defaults import DEVICES
from tests.support.model_shapes import SHAPES, create, jit

RNG = np.random.default_rng(0)
# A case: query heads, key/value heads, and keywords of `attend`; "documents" stands for
# documents_BL.
CASES = {
    "causal": (2, 2, {}),
    "all": (2, 1, {"causal": False}),
    "window": (4, 2, {"window": 100}),
    "window of one": (2, 1, {"window": 1}),
    "documents": (4, 2, {"documents": True}),
    "window, documents, scale": (6, 2, {"window": 150, "documents": True, "scale": 0.5}),
    "all, documents": (2, 2, {"causal": False, "documents": True}),
}


def seen(L, M, causal=True, window=0, documents_L=None, mask_LM=None):
    """By its definition, one pair at a time."""

    def sees(i, j):
        return (
            (not causal or j <= i)
            and (not window or j > i - window)
            and (documents_L is None or documents_L[i] == documents_L[j])
            and (mask_LM is None or mask_LM[i, j])
        )

    return np.array([[sees(i, j) for j in range(M)] for i in range(L)])


def reference(q_LK, k_MK, v_MK, mask_LM, scale, slope_LK):
    """Output and gradients of sum(slope * output) of one head, float64; the gradient of a softmax
    is p (x - p . x).
    """
    scores = np.where(mask_LM, q_LK @ k_MK.T * scale, -np.inf)
    p_LM = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p_LM /= p_LM.sum(axis=-1, keepdims=True)
    dp_LM = slope_LK @ v_MK.T
    ds_LM = p_LM * (dp_LM - (p_LM * dp_LM).sum(axis=-1, keepdims=True)) * scale
    return p_LM @ v_MK, ds_LM @ k_MK, ds_LM.T @ q_LK, p_LM.T @ slope_LK


def arrays(L, M, H, G, K, B=2, documents=False):
    q, k, v, slope = (
        RNG.standard_normal((B, n, h, K)).astype(np.float32)
        for n, h in ((L, H), (M, G), (M, G), (L, H))
    )
    return (
        q,
        k,
        v,
        slope,
        np.sort(RNG.integers(0, 4, (B, L)), axis=1).astype(np.int32) if documents else None,
    )


def expected(q, k, v, slope, documents_BL, *, scale=None, mask_BLM=None, **limits):
    """(output, gradients of q, k and v) of all sequences and heads."""
    (B, L, H, K), (M, G) = q.shape, k.shape[1:3]
    found = [np.zeros(x.shape) for x in (q, q, k, v)]
    for b, h in itertools.product(range(B), range(H)):
        g = h // (H // G)
        documents_L = None if documents_BL is None else documents_BL[b]
        mask_LM = None if mask_BLM is None else mask_BLM[b]
        mask_LM = seen(L, M, **limits, documents_L=documents_L, mask_LM=mask_LM)
        heads = (np.float64(x[b, :, i]) for x, i in ((q, h), (k, g), (v, g), (slope, h)))
        q_LK, k_MK, v_MK, slope_LK = heads
        out = reference(q_LK, k_MK, v_MK, mask_LM, K**-0.5 if scale is None else scale, slope_LK)
        for total, part, i in zip(found, out, (h, h, g, g)):
            total[b, :, i] += part
    return found


def computed(q, k, v, slope, documents_BL, *, implementation="xla", scale=None, **limits):
    mask = MaskSpec(**limits, documents_BL=documents_BL)

    def loss(q, k, v):
        out = attend(q, k, v, mask, implementation=implementation, scale=scale)
        return (out * slope).astype(jnp.float32).sum(), out

    grads, out = jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


def compare(case, L, K, tolerance, dtype="float32", *, implementation):
    H, G, asked = CASES[case]
    given = arrays(L, L, H, G, K, documents=asked.get("documents", False))
    asked = {k: v for k, v in asked.items() if k != "documents"}
    want = expected(*given, **asked)
    got = computed(
        *(x if x is None or x.dtype == np.int32 else jnp.asarray(x, dtype) for x in given),
        **asked,
        implementation=implementation,
    )
    for name, x, y in zip(("out", "q", "k", "v"), got, want):
        error = np.abs(np.asarray(x, np.float64) - y).max() / max(1, np.abs(y).max())
        assert error < tolerance, f"{name}: {error}"


@pytest.mark.parametrize("case", CASES)
def test_xla(case):
    compare(case, 24, 8, 1e-5, implementation="xla")


@pytest.mark.parametrize(
    ("case", "head_dim"),
    [*((case, 8) for case in CASES), ("causal", 128), ("window, documents, scale", 128)],
)
def test_splash(case, head_dim):
    """Three blocks of 128 a side, in the interpreter: empty, partial and full ones; both kinds of
    backward pass (a window decides) and of layout (the size of a head does)."""
    compare(case, 384, head_dim, 1e-5, implementation="splash_interpreted")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_cudnn(case, head_dim, monkeypatch):
    """On a GPU, cuDNN's numbers.

    Elsewhere those of what it is asked for: the same call of jax, whose plain implementation takes
    its place.
    """
    if jax.default_backend() != "gpu":
        call = jax.nn.dot_product_attention
        monkeypatch.setattr(
            jax.nn,
            "dot_product_attention",
            lambda *arrays, **asked: call(*arrays, **{**asked, "implementation": "xla"}),
        )
    compare(case, 384, head_dim, 2e-2, "bfloat16", implementation="cudnn")


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
def test_xla_with_an_explicit_mask_and_other_lengths(causal, kv_heads):
    given = arrays(5, 6, 4, kv_heads, 8)
    mask_BLM = RNG.random((2, 5, 6)) < 0.6
    mask_BLM[:, :, 0] = True  # every query sees something
    for got, want in zip(
        computed(*given, causal=causal, mask_BLM=mask_BLM),
        expected(*given, causal=causal, mask_BLM=mask_BLM),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_large_scores_are_finite():
    q = np.full((1, 4, 1, 8), 1e4, np.float32)
    value, grads = jit(jax.value_and_grad(lambda q: attend(q, q, q).sum()))(q)
    assert np.isfinite(value) and np.isfinite(grads).all()


def test_splash_in_layers_on_devices_in_packs():
    """Under vmap over runs, in a shard_map, in a scan over layers that are computed again: as the
    reference does.
    """
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    x = RNG.standard_normal((2, 2, 128, 2, 8)).astype(np.float32)  # runs, batch, L, H, K
    weights = RNG.standard_normal((2, 2, 8)).astype(np.float32)  # runs, layers, K
    documents_BL = np.sort(RNG.integers(0, 3, (2, 128)), axis=1).astype(np.int32)

    def gradient(implementation):
        def local(x_BLHK, weights_NK, documents_BL):
            def loss(weights_NK):
                def layer(x, w_K):
                    return x + attend(
                        x * w_K,
                        x,
                        x,
                        MaskSpec(window=70, documents_BL=documents_BL),
                        implementation=implementation,
                    ), None

                layer = jax.checkpoint(
                    layer, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False
                )
                return jnp.square(jax.lax.scan(layer, x_BLHK, weights_NK)[0]).sum()

            return jax.lax.psum(jax.grad(loss)(weights_NK), "data")

        sharded = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(PartitionSpec("data"), PartitionSpec(), PartitionSpec("data")),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
        return jit(jax.vmap(sharded, in_axes=(0, 0, None)))(x, weights, documents_BL)

    want = gradient("xla")
    np.testing.assert_allclose(
        gradient("splash_interpreted"), want, rtol=1e-4, atol=1e-4 * np.abs(want).max()
    )


def test_a_model_trains_with_splash_as_with_the_reference():
    cfg = dataclasses.replace(SHAPES["all"], n_layers=1, window=60, document_end=3)
    params, tokens = create(cfg), RNG.integers(0, cfg.vocab_size, (2, 129))

    def step(name):
        execution = Execution(remat="dots", attention=name)
        return jit(lambda p: loss_and_gradient(cfg, p, tokens, 1e-3, execution=execution))(params)

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
        step("splash_interpreted"),
        step("xla"),
    )


def test_documents_end_with_their_token():
    tokens = np.array([[5, 9, 9, 4, 9], [9, 1, 2, 3, 4]])
    np.testing.assert_array_equal(document_numbers(tokens, 9), [[0, 0, 1, 2, 2], [0, 1, 1, 1, 1]])


def test_a_packed_document_equals_the_same_document_alone():
    cfg = dataclasses.replace(SHAPES["all"], document_end=0)
    params, tokens = create(cfg), RNG.integers(1, cfg.vocab_size, (2, 14))
    tokens[:, [3, 9]] = 0
    got = jit(transformer.logits, static_argnums=0)(cfg, params, tokens)
    free = dataclasses.replace(cfg, document_end=-1)
    for begin, end in ((0, 4), (4, 10), (10, 14)):
        alone = jit(transformer.logits, static_argnums=0)(free, params, tokens[:, begin:end])
        # rotary positions are relative
        np.testing.assert_allclose(got[:, begin:end], alone, rtol=1e-4, atol=1e-5)
    across = jit(transformer.logits, static_argnums=0)(free, params, tokens)
    assert np.abs(across - got)[:, 4:].max() > 1e-3


def test_a_window_forgets():
    """Two layers of a window of 3 see 2 * 2 positions back, and no further."""
    cfg = dataclasses.replace(SHAPES["gqa"], n_layers=2, window=3)
    params, tokens = create(cfg), RNG.integers(0, cfg.vocab_size, (1, 12))
    changed = tokens.copy()
    changed[0, 2] = (changed[0, 2] + 1) % cfg.vocab_size
    a, b = (
        np.asarray(jit(transformer.logits, static_argnums=0)(cfg, params, t)[0])
        for t in (tokens, changed)
    )
    moved = [position for position in range(12) if (a[position] != b[position]).any()]
    assert moved == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("implementation", "shape", "limits", "said"),
    [
        ("xla", (8, 8), {"window": 3, "causal": False}, "window=3"),
        ("xla", (8, 8), {"window": -1}, "window=-1"),
        ("xla", (8, 6), {"documents_BL": np.zeros((1, 8), np.int32)}, "documents_BL"),
        ("splash", (200, 128), {}, "multiple of 128, not 200"),
        ("splash", (128, 128), {"mask_BLM": np.ones((1, 128, 128), bool)}, "no explicit mask"),
        ("cudnn", (128, 128), {}, "bfloat16 or float16, not float32"),
    ],
)
def test_what_cannot_be_done_is_refused(implementation, shape, limits, said):
    q, k = (np.zeros((1, n, 2, 8), np.float32) for n in shape)
    with pytest.raises(ValueError, match=said):
        attend(q, k, k, MaskSpec(**limits), implementation=implementation)


def test_who_is_chosen_where():
    """The kernel of the backend where it can be used and is worth it, the reference elsewhere; a
    wish is kept or refused with its reason.
    """

    def of(**changed):
        return dataclasses.replace(
            SHAPES["plain"], **{"head_dim": 64, "compute_dtype": "bfloat16", **changed}
        )

    def chosen(shape, seq_len, backend, wanted="auto", mapped=False):
        row = DEVICES[backend]
        choice = {"kernel": row.attention, "kernel_from": row.kernel_from}
        return execution.attention_for(shape, seq_len, backend, wanted, mapped=mapped, **choice)

    assert [chosen(of(), 2048, backend) for backend in ("cpu", "gpu", "tpu")] == [
        "xla",
        "cudnn",
        "splash",
    ]
    assert chosen(of(window=512, document_end=0), 2048, "tpu") == "splash"
    assert chosen(of(), 2000, "tpu") == chosen(of(), 128, "tpu") == chosen(of(), 32, "gpu") == "xla"
    assert chosen(of(), 128, "gpu") == "cudnn"
    assert (
        chosen(of(compute_dtype="float32"), 2048, "gpu")
        == chosen(of(head_dim=256), 2048, "gpu")
        == "xla"
    )
    assert (
        chosen(of(document_end=0), 2048, "gpu") == "cudnn"
        and chosen(of(document_end=0), 2048, "gpu", mapped=True) == "xla"
    )
    assert (
        chosen(of(), 128, "tpu", "splash") == "splash" and chosen(of(), 2048, "tpu", "xla") == "xla"
    )
    assert chosen(of(), 128, "cpu", "splash_interpreted") == "splash_interpreted"
    for backend, wanted, said in (
        ("cpu", "splash", "runs on tpu, not cpu"),
        ("tpu", "cudnn", "runs on gpu"),
        ("tpu", "splash", "128"),
    ):
        with pytest.raises(ValueError, match=said):
            chosen(of(), 2048 if "runs" in said else 100, backend, wanted)


@pytest.mark.parametrize(
    ("case", "mapped"),
    [
        ("causal", False),
        ("causal", True),
        ("window", False),
        ("window", True),
        ("documents", False),
        ("window, documents, scale", False),
    ],
)
def test_cudnn_is_called(case, mapped, monkeypatch):
    """Lowered for CUDA without a GPU: the forward and backward calls of cuDNN, its own causality
    and window, a bias for documents only.
    """
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    H, G, asked = CASES[case]
    q, k, v, slope, documents_BL = arrays(
        128, 128, H, G, 64, documents=asked.get("documents", False)
    )
    asked = {k: v for k, v in asked.items() if k != "documents"}

    scale = asked.pop("scale", None)
    mask = MaskSpec(**asked, documents_BL=documents_BL)

    def gradient(q, k, v, slope):
        def loss(*qkv):
            return (attend(*qkv, mask, implementation="cudnn", scale=scale) * slope).sum()

        return jax.grad(loss, (0, 1, 2))(q, k, v)

    given = [jnp.asarray(np.stack([x, x]) if mapped else x, "bfloat16") for x in (q, k, v, slope)]
    text = (
        jax.jit(jax.vmap(gradient) if mapped else gradient)
        .trace(*given)
        .lower(lowering_platforms=("cuda",))
        .as_text()
    )
    bias = "ScaleBias" if documents_BL is not None else ""
    assert re.findall(r"@__cudnn\$fmha(\w+)", text) == [f"{bias}Softmax", f"{bias}SoftmaxBackward"]
    assert text.count("mask_type\\22: \\22CAUSAL") == 2
    window = 0 if bias else asked.get("window", 0)
    assert set(re.findall(r"sliding_window_length\\22: (\d+)", text)) == {str(window)}


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("seq_len", [1024, 2048])
@pytest.mark.parametrize("limits", [{}, {"documents": True}, {"window": 512, "documents": True}])
def test_splash_compiles_for_a_tpu(head_dim, seq_len, limits):
    """Value and gradient in a shard_map over a slice: kernels for both directions in the program,
    one backward or, with a window, two.
    """
    mesh = Mesh(np.array(topology.devices("v5e:2x2")), ("data",), axis_types=(AxisType.Auto,))

    def rows(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(
            (8, *shape), dtype, sharding=NamedSharding(mesh, PartitionSpec("data"))
        )

    def local(q, k, v, documents_BL):
        def loss(q, k, v):
            documents = documents_BL if "documents" in limits else None
            mask = MaskSpec(window=limits.get("window", 0), documents_BL=documents)
            out = attend(q, k, v, mask, implementation="splash")
            return jnp.square(out.astype(jnp.float32)).sum()

        value, grads = jax.value_and_grad(loss, argnums=(0, 1, 2))(q, k, v)
        return jax.lax.psum(value, "data"), grads

    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=(PartitionSpec(), PartitionSpec("data")),
        check_vma=False,
    )
    q, k = rows(seq_len, 8, head_dim), rows(seq_len, 4, head_dim)
    text = jax.jit(sharded).lower(q, k, k, rows(seq_len, dtype=jnp.int32)).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == (3 if "window" in limits else 2)
    assert (
        "splash_mha_fwd" in text
        and "splash_mha_dkv" in text
        and ("segmented" in text) == ("documents" in limits)
    )
