"""Splash attention, jax's Pallas kernel for TPU (the tiling of arXiv:2205.14135 over the blocks a
static mask leaves), forward and backward.

Block sizes: the largest of `BLOCKS` that divides the sequence, for queries and keys alike. 512 x
512 scores in float32 are 1 MB of the 16 MB of VMEM a kernel may use, and a matmul of 512 x K x 512
keeps the matrix unit busy from K = 64 on. The backward pass is one kernel (five matmuls a block
where two kernels take seven) while its partial sums of the queries' gradient, one for each block of
keys, are few; with a window most blocks are empty, which only the two kernels' grids leave out.

Heads of less than the 128 lanes of a vector register are laid out with the sequence last: with the
head last they are padded to 128 in memory, and queries, keys and values are most of what a layer
saves. The 100m size (heads of 64) with 4 sequences of 2048 a device, compiled for a v5e: 13.1 GiB
instead of 15.1.
"""

import jax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from stepladder.model.attention.mask import MaskSpec

LANES = 128
BLOCKS = (512, 256, 128)  # multiples of LANES
FUSED = 4  # most blocks of keys for a backward pass in one kernel


def block_sizes(L: int, M: int, K: int, window: int) -> kernels.BlockSizes:
    """By the rules above, for lengths of a multiple of 128: attend.py refuses others."""
    q, kv = (next(size for size in BLOCKS if length % size == 0) for length in (L, M))
    fused = M // kv <= FUSED and not window
    layout = kernels.QKVLayout.HEAD_DIM_MINOR if K >= LANES else kernels.QKVLayout.SEQ_MINOR
    two = {} if fused else {"block_q_dq": q, "block_kv_dq": kv}
    return kernels.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        use_fused_bwd_kernel=fused,
        q_layout=layout,
        k_layout=layout,
        v_layout=layout,
        **two,
    )


def _mask(L: int, M: int, mask: MaskSpec) -> masks.Mask:
    if mask.window:
        return masks.LocalMask((L, M), (mask.window - 1, 0), offset=0)
    return masks.CausalMask((L, M)) if mask.causal else masks.FullMask((L, M))


def attend(
    q_BLHK: jax.Array,
    k_BMGK: jax.Array,
    v_BMGK: jax.Array,
    mask: MaskSpec,
    scale: float,
    interpret: bool = False,
) -> jax.Array:
    """As `attend.attend`.

    interpret: run the kernel's steps as ordinary operations, on any backend, slowly.
    """
    (L, H, K), M = q_BLHK.shape[1:], k_BMGK.shape[1]
    # A kernel object holds arrays made in this trace, so it is made anew in each; jax caches what
    # it worked out of the mask.
    kernel = kernels.make_splash_mha_single_device(
        masks.MultiHeadMask([_mask(L, M, mask)] * H),
        block_sizes=block_sizes(L, M, K, mask.window),
        interpret=interpret,
    )

    def heads_first(x_BLHK):
        return x_BLHK.swapaxes(1, 2)

    arrays = heads_first(q_BLHK * scale), heads_first(k_BMGK), heads_first(v_BMGK)
    if mask.documents_BL is None:
        return heads_first(jax.vmap(kernel)(*arrays))
    return heads_first(
        jax.vmap(kernel)(*arrays, kernels.SegmentIds(mask.documents_BL, mask.documents_BL))
    )
