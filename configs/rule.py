"""One rule for the hyperparameters of a rung, in N (parameters, embedding included) and D (tokens of the rung's longest run).

    batch          tokens a step  = BATCH * (D / D0)^BATCH_D, rounded to a power of two of sequences
    learning rate  peak           = RATE * (N / N0)^RATE_N * (D / D0)^RATE_D
    weight decay   a step         = DECAY / steps          (independent mode: DECAY e-foldings over the run at full rate)
    warm-up        steps          = WARMUP * steps, at least 10

With one fixed learning rate over a ladder, L(N, D) would measure mistuning.
"""

import math
from dataclasses import dataclass

N0, D0 = 50_000, 2_000_000
BATCH, BATCH_D = 4096, 0.5
RATE, RATE_N, RATE_D = 8e-3, -0.3, 0.0
DECAY = 1.0
WARMUP = 0.05


@dataclass(frozen=True)
class Recommended:
    batch_size: int  # sequences
    learning_rate: float
    weight_decay: float  # a step, independent mode
    warmup_steps: int
    steps: int


def recommend(params: int, tokens: float, seq_len: int, batch_size: int = 0) -> Recommended:
    """The rule's hyperparameters for `params` parameters trained on `tokens` tokens; `batch_size` > 0 overrides the rule's batch."""
    if batch_size <= 0:
        batch_size = 2 ** max(2, round(math.log2(BATCH * (tokens / D0) ** BATCH_D / seq_len)))
    steps = max(1, round(tokens / (batch_size * seq_len)))
    return Recommended(
        batch_size=batch_size,
        learning_rate=float(f"{RATE * (params / N0) ** RATE_N * (tokens / D0) ** RATE_D:.6g}"),
        weight_decay=float(f"{DECAY / steps:.6g}"),
        warmup_steps=max(10, round(WARMUP * steps)),
        steps=steps,
    )
