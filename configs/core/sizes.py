"""A family of model shapes from about 10k to 7B parameters; width and depth grow together.

Every width is a multiple of its head size; d_ff is 8/3 of the width for SwiGLU, rounded up to a
multiple of 8 (128 from width 512 on), which keeps the MLP at about 8 D^2 parameters as with a 4x
GELU. Names give the approximate non-embedding parameter count.
"""

import re

from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.spec import ModelSpec

# parametrisation -> what it is relative to; the rules themselves are model/parametrization.py's
BASES = {"standard": (), "mup": ("base_width",), "completep": ("base_width", "base_depth")}

ACTIVATIONS = "swiglu", "gelu"
COMPUTE_DTYPES = "float32", "tensorfloat32", "bfloat16"  # model/arithmetic.py

# name: (d_model, n_layers, head_dim)
SIZES = {
    "6k": (16, 2, 8),
    "14k": (24, 2, 8),
    "19k": (24, 3, 8),
    "25k": (32, 2, 16),
    "37k": (32, 3, 16),
    "54k": (40, 3, 8),
    "84k": (48, 3, 16),
    "150k": (64, 3, 16),
    "200k": (64, 4, 16),
    "450k": (96, 4, 16),
    "1m": (128, 5, 32),
    "3m": (192, 6, 32),
    "5m": (256, 6, 32),
    "13m": (384, 7, 64),
    "25m": (512, 8, 64),
    "57m": (640, 11, 64),
    "100m": (768, 14, 64),
    "200m": (1024, 16, 64),
    "400m": (1280, 20, 128),
    "1b": (2048, 20, 128),
    "3b": (2560, 36, 128),
    "7b": (4096, 34, 128),
}


def shape(
    size: str,
    *,
    vocab_size: int,
    activation: str = "swiglu",
    tied: bool = True,
    kv_ratio: int = 1,
    qk_norm: bool = True,
    rope_theta: float = 10_000.0,
    norm_eps: float = 1e-6,
    logit_cap: float = 0.0,
    compute_dtype: str = "float32",
    parametrization: str = "standard",
    base_width: int = 0,
    base_depth: int = 0,
    window: int = 0,
    document_end: int = -1,
) -> ModelSpec:
    """The shape called `size`, or spelled out as width, depth and head size: `w256d2h32`.

    `kv_ratio` query heads share one key/value head; the other arguments are fields of the spec.
    Raises UserError for what is unknown or does not go together.
    """
    d_model, n_layers, head_dim = dimensions(size)
    n_heads = d_model // head_dim
    if kv_ratio < 1 or n_heads % kv_ratio:
        raise UserError(
            f"model.kv_ratio={kv_ratio}: does not divide the {n_heads} heads of size {size}; use a "
            "divisor"
        )
    _check_name("activation", activation, ACTIVATIONS)
    _check_name("compute_dtype", compute_dtype, COMPUTE_DTYPES)
    if window < 0:
        raise UserError(
            f"model.window={window}: negative; use 0 (no window) or the number of positions a "
            "token sees, itself included"
        )
    _check_parametrization(parametrization, {"base_width": base_width, "base_depth": base_depth})
    return ModelSpec(
        size=size,
        vocab_size=vocab_size,
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads // kv_ratio,
        head_dim=head_dim,
        d_ff=_mlp_width(d_model, activation),
        activation=activation,
        tied=tied,
        qk_norm=qk_norm,
        rope_theta=rope_theta,
        norm_eps=norm_eps,
        logit_cap=logit_cap,
        compute_dtype=compute_dtype,
        parametrization=parametrization,
        base_width=base_width,
        base_depth=base_depth,
        window=window,
        document_end=document_end,
    )


def _mlp_width(d_model: int, activation: str) -> int:
    hidden = 4 * d_model if activation == "gelu" else 8 * d_model / 3
    multiple = 128 if d_model >= 512 else 8
    return int(-(-hidden // multiple) * multiple)


def _check_name(field: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UserError(f"model.{field}={name!r}: unknown; {nearest(name, known)}")


def _check_parametrization(name: str, bases: dict[str, int]) -> None:
    """A base where the parametrisation reads one, 0 where it does not.

    Runs that are equal then have equal specs.
    """
    _check_name("parametrization", name, tuple(BASES))
    for field, base in bases.items():
        if field in BASES[name] and base < 1:
            raise UserError(
                f"model.{field}={base}: {name} is relative to a base; give the {field[5:]} its "
                "rates were tuned at"
            )
        if field not in BASES[name] and base:
            users = " or ".join(other for other, fields in BASES.items() if field in fields)
            raise UserError(
                f"model.{field}={base}: {name} does not read it; use 0, or "
                f"model.parametrization={users}"
            )


def dimensions(size: str) -> tuple[int, int, int]:
    """(d_model, n_layers, head_dim) of a name in SIZES or of a spelled-out size."""
    if size in SIZES:
        return SIZES[size]
    spelled = re.fullmatch(r"w(\d+)d(\d+)h(\d+)", size)
    if not spelled:
        raise UserError(
            f"model.size={size!r}: unknown size; {nearest(size, SIZES)}, or spell it out, e.g. "
            "w256d2h32"
        )
    width, depth, head = (int(part) for part in spelled.groups())
    if not (width and depth and head) or width % head or head % 2:
        raise UserError(
            f"model.size={size!r}: the width must be a multiple of an even head size, all above 0; "
            "e.g. w256d2h32"
        )
    return width, depth, head
