"""TensorBoard event files of a record's rows."""

from collections.abc import Sequence
from pathlib import Path

from stepladder.configs.core.record import EVAL, TRAIN

FOLDER = "tensorboard"


def mirror(record: Path, rows: Sequence[dict]) -> None:
    """Write the values of `rows` as scalars under the record's folder."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(record / FOLDER)) as writer:
        for row in rows:
            if row["kind"] == TRAIN:
                for name in ("loss", "grad_norm", "learning_rate"):
                    writer.add_scalar(f"train/{name}", row[name], row["step"])
            elif row["kind"] == EVAL:
                writer.add_scalar(f"eval/{row['domain']}", row["loss"], row["step"])
            elif row.get("tokens_per_second"):
                writer.add_scalar("timing/tokens_per_second", row["tokens_per_second"], row["step"])
