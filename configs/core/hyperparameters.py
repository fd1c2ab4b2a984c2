"""One rule for the hyperparameters of a rung, in N (parameters, embedding included) and D (tokens
of the rung's longest run).

    batch (tokens a step) = BATCH * max(1, D / D_BATCH)^BATCH_D,
                            rounded to a power of two of sequences
    learning rate (peak)  = RATE * (N / N0)^RATE_N * (D / D0)^RATE_D * (batch / BATCH)^RATE_BATCH
    weight decay (a step) = DECAY / steps
                            (independent mode: DECAY e-foldings over the run at full rate)
    warm-up (steps)       = WARMUP * steps, at least 10

With one fixed learning rate over a ladder, L(N, D) would measure mistuning. The constants come from
our sweep (configs/sweep.py, 95 runs and two of a pilot at 11k, 34k and 96k parameters and 0.5M to
6M tokens, one seed each; `python benchmarks/rule_sweep.py` prints them). What it settles, and what
not:

- RATE 0.0074 +- 0.0007, RATE_N -0.30 +- 0.09, RATE_D -0.38 +- 0.08, RATE_BATCH 0.41 +- 0.14; a rate
  wrong by a factor 2 costs 0.7 % of the loss.
- At 0.5M and 2M tokens the smallest batch tried, 8 x 128 tokens, is best at both sizes that tried
  three; so BATCH is that, and its growth beyond D_BATCH is borrowed (arXiv:2503.04715: batch ~
  D^0.571).
- Some weight decay helps (1 to 3 % of the loss at D = 1M); 1 and 3 cannot be told apart, nor can
  warm-ups from 1 % to 15 %: a run's noise is 1.3 %.

Fitted without the longest horizon (0.5M and 2M tokens only) RATE_D came out at -0.62 +- 0.19, too
steep: far outside its range the rule is a start for your own sweep, not an answer.
"""

import math
from dataclasses import dataclass

N0, D0 = 50_000, 2_000_000
BATCH, D_BATCH, BATCH_D = 1024, 8_000_000, 0.571
RATE, RATE_N, RATE_D, RATE_BATCH = 7.4e-3, -0.30, -0.38, 0.41
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
    """The rule's hyperparameters for one run.

    Args:
        params: parameters, embedding included.
        tokens: training tokens.
        seq_len: tokens a sequence.
        batch_size: sequences a step; 0 takes the rule's.
    """
    if batch_size <= 0:
        batch_tokens = BATCH * max(1.0, tokens / D_BATCH) ** BATCH_D
        batch_size = 2 ** max(0, round(math.log2(batch_tokens / seq_len)))
    steps = max(1, round(tokens / (batch_size * seq_len)))
    rate = (
        RATE
        * (params / N0) ** RATE_N
        * (tokens / D0) ** RATE_D
        * (batch_size * seq_len / BATCH) ** RATE_BATCH
    )
    return Recommended(
        batch_size=batch_size,
        learning_rate=float(f"{rate:.6g}"),
        weight_decay=float(f"{DECAY / steps:.6g}"),
        warmup_steps=max(10, round(WARMUP * steps)),
        steps=steps,
    )


def step_law(
    params_non_embedding: int, tokens: float, seq_len: int, batch_size: int = 0
) -> tuple[int, float]:
    """Batch and learning rate by arXiv:2503.04715, table 1, fitted on 60M to 1B parameters.

    Returns (batch in sequences, a power of two; peak learning rate). `batch_size` > 0 keeps the
    caller's batch; the law's rate belongs to its own batch.
    """
    batch = batch_size or 2 ** max(0, round(math.log2(0.58 * tokens**0.571 / seq_len)))
    return batch, float(f"{1.79 * params_non_embedding**-0.713 * tokens**0.307:.6g}")
