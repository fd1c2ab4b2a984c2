"""Parametrisations: how init, optimizer and forward pass change with width and depth, in one table
by tensor role.

m_N is width / base_width and m_L is depth / base_depth. What is tuned at the base (learning rate,
decay, epsilon) is meant to hold at every width (mup) and at every width and depth (completep).
Sources:

- standard: every model is its own base, so all multipliers are 1.
- mup: arXiv:2203.03466, table 8 for Adam (the form that allows tied embeddings: the readout keeps
  the embedding's init and rate, and its output is divided by m_N). Gradients fall as 1 / m_N, so
  epsilon follows (its appendix B.3, and arXiv:2407.05872). It says nothing of depth.
- completep: arXiv:2505.01618, table 1 with alpha = 1: mup, residual branches times m_L^-alpha, and
  all that follows from it.

Weight decay. The papers count AdamW's coupled decay, a step of rate * multiplier * decay, and give
matrices whose rate falls as 1 / m_N a decay that grows as m_N. The product of the two multipliers
is what shrinks a tensor in a step, and it is 1 for every role here; so in both modes of the
optimizer a step's decay does not depend on width or depth ("independent" leaves out the base rate
as well).

At base width and depth all three give the same function and the same training, but for the scale of
attention without QK-norm.
"""

from collections.abc import Mapping
from typing import NamedTuple

from stepladder.model.shape import Shape

# Tensor -> role, by its path below `layers`. output: a hidden matrix that writes to the residual
# stream.
ROLES = {
    "embed": "embed",
    "attention_norm": "norm",
    "attention.qkv": "hidden",
    "attention.q_norm": "norm",
    "attention.k_norm": "norm",
    "attention.out": "output",
    "mlp_norm": "norm",
    "mlp.up": "hidden",
    "mlp.down": "output",
    "final_norm": "final_norm",
    "unembed": "unembed",
}
ALPHA = 1.0  # of CompleteP: residual branches are multiplied by m_L^-ALPHA


class Power(NamedTuple):
    """The multiplier m_N^width * m_L^depth."""

    width: float = 0.0
    depth: float = 0.0


ONE = Power()


class Rule(NamedTuple):
    """Multipliers of one role, relative to the base model.

    `weight_decay` is of the coupled decay, which the rate multiplies again.
    """

    init_std: Power = ONE
    learning_rate: Power = ONE
    weight_decay: Power = ONE
    epsilon: Power = ONE


class Parametrization(NamedTuple):
    """`attention` is the exponent of the head size K in the scale of scores, for queries and keys
    that are not normalised.
    """

    roles: Mapping[str, Rule]
    residual: Power = ONE  # of what a branch adds to the stream
    logits: Power = ONE
    attention: float = -1.0


_VECTOR = Rule(epsilon=Power(-1))  # its number of inputs does not grow with width
_MATRIX = Rule(
    init_std=Power(-0.5), learning_rate=Power(-1), weight_decay=Power(1), epsilon=Power(-1)
)
_DEEP = _MATRIX._replace(
    learning_rate=Power(-1, ALPHA - 1), weight_decay=Power(1, 1 - ALPHA), epsilon=Power(-1, -ALPHA)
)
_ENDS = {"embed": _VECTOR, "unembed": _VECTOR, "final_norm": _VECTOR}

PARAMETRIZATIONS = {
    "standard": Parametrization(roles=dict.fromkeys(ROLES.values(), Rule()), attention=-0.5),
    "mup": Parametrization(
        roles={**_ENDS, "hidden": _MATRIX, "output": _MATRIX, "norm": _VECTOR}, logits=Power(-1)
    ),
    "completep": Parametrization(
        roles={
            **_ENDS,
            "hidden": _DEEP,
            "output": _DEEP,
            "norm": Rule(learning_rate=Power(0, ALPHA - 1), epsilon=Power(-1, -ALPHA)),
        },
        residual=Power(0, -ALPHA),
        logits=Power(-1),
    ),
}


def ratios(cfg: Shape) -> tuple[float, float]:
    """(m_N, m_L); a base of 0 is the model itself."""
    return cfg.d_model / (cfg.base_width or cfg.d_model), cfg.n_layers / (
        cfg.base_depth or cfg.n_layers
    )


def value(cfg: Shape, power: Power) -> float:
    """The multiplier itself, exactly 1.0 where nothing is to be multiplied."""
    m_n, m_l = ratios(cfg)
    return float(m_n**power.width * m_l**power.depth)


def rule(cfg: Shape, role: str) -> Rule:
    """The powers of `role` (a value of `ROLES`) in the model's parametrisation."""
    return PARAMETRIZATIONS[cfg.parametrization].roles[role]


def decay(cfg: Shape, role: str) -> float:
    """What the decay of one step is multiplied with: learning rate's times decay's multiplier, as
    one power so that 1 is exactly 1.
    """
    found = rule(cfg, role)
    return value(cfg, Power(*(a + b for a, b in zip(found.learning_rate, found.weight_decay))))


def residual(cfg: Shape) -> float:
    """What each attention and MLP branch is multiplied with before it joins the residual stream."""
    return value(cfg, PARAMETRIZATIONS[cfg.parametrization].residual)


def logits(cfg: Shape) -> float:
    """What the logits are multiplied with, before a soft-cap."""
    return value(cfg, PARAMETRIZATIONS[cfg.parametrization].logits)


def attention_scale(cfg: Shape) -> float:
    """What q k^T is multiplied with: 1 / sqrt(K) for standard, 1 / K for mup (arXiv:2203.03466,
    definition 4.1).

    With QK-norm it is 1 / sqrt(K) everywhere (arXiv:2302.05442): the product of unit vectors times
    sqrt(K) cannot grow with training, which is what 1 / K guards against, and 1 / K would hold
    every score between -1 and 1, attention close to uniform.
    """
    exponent = -0.5 if cfg.qk_norm else PARAMETRIZATIONS[cfg.parametrization].attention
    return float(cfg.head_dim**exponent)


def role_of(path: tuple[str, ...]) -> str:
    """The role of the parameter at `path`, a tuple of keys.

    Raises KeyError for a tensor that has none.
    """
    return ROLES[".".join(path).removeprefix("layers.")]
