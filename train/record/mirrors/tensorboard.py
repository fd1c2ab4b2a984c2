"""TensorBoard event files: a mirror of committed rows, never the store of record."""

from pathlib import Path

from stepladder.configs.core import record


def mirror(folder: Path, rows: list[dict]) -> None:
    """Write the values of committed `rows` as scalars under `folder`."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for row in rows:
            if row["kind"] == record.TRAIN:
                for name in ("loss", "grad_norm", "learning_rate"):
                    writer.add_scalar(f"train/{name}", row[name], row["step"])
            elif row["kind"] == record.EVAL:
                writer.add_scalar(f"eval/{row['domain']}", row["loss"], row["step"])
            elif row.get("tokens_per_second"):
                writer.add_scalar("timing/tokens_per_second", row["tokens_per_second"], row["step"])
