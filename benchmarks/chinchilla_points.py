"""The 240 points of arXiv 2404.10102, from the public table."""

import os
from pathlib import Path

import pandas as pd


def chinchilla_points(folder: str | Path | None = None) -> pd.DataFrame:
    """The 240 points of arXiv 2404.10102: Figure 4 of Hoffmann et al. without the 5 highest losses.

    Columns N, D, loss.
    """
    folder = folder or os.environ.get("STEPLADDER_DATA")
    if not folder:
        raise SystemExit(
            "STEPLADDER_DATA: not set; name the folder that holds chinchilla/svg_extracted_data.csv"
        )
    table = pd.read_csv(Path(folder) / "chinchilla" / "svg_extracted_data.csv")
    points = pd.DataFrame(
        {
            "N": table["Model Size"],
            "D": table["Training FLOP"] / (6 * table["Model Size"]),
            "loss": table["loss"],
        }
    )
    return points.sort_values("loss").iloc[:-5].sort_index()
