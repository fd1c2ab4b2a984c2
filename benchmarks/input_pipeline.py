"""Tokens/s of the input pipeline alone: `python benchmarks/input_pipeline.py [--json]
[--store=DIR]`.
"""

import argparse
import json
import tempfile
import time

from stepladder.configs.core.spec import CorpusSpec
from stepladder.train.data.prepare.prepare import prepare
from stepladder.train.data.read.batches import BatchSource, batches
from stepladder.train.data.read.store import Store

SHAPES = ((8, 128), (32, 128), (32, 256), (128, 128), (32, 1024))
SECONDS = 2.0


def measure(store: Store, batch_size: int, seq_len: int, seconds: float) -> float:
    """Tokens/s over about `seconds`, after the first batch."""
    weights = tuple((domain, 1 / len(store.domains)) for domain in store.domains)
    stream = batches(BatchSource(store, weights, seq_len, batch_size, seed=0), 0, 1 << 30)
    next(stream)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(stream)
        steps += 1
    return steps * batch_size * seq_len / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="one shape, a tenth of a second")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--store",
        help=(
            "a prepared store; default: the embedded corpus at 1 MB a domain, prepared for the "
            "measurement"
        ),
    )
    args = parser.parse_args()
    shapes, seconds, megabytes = (SHAPES[:1], 0.1, 0.2) if args.tiny else (SHAPES, SECONDS, 1.0)
    with tempfile.TemporaryDirectory() as folder:
        corpus = CorpusSpec("embedded", (), (), "bytes", megabytes, 0.05, (), "exact", 0)
        store = Store.open(args.store) if args.store else prepare(corpus, folder + "/store")
        rows = [
            {
                "batch_size": b,
                "seq_len": s,
                "tokens_per_second": round(measure(store, b, s, seconds)),
            }
            for b, s in shapes
        ]
    if args.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(
            f"{row['batch_size']:4d} x {row['seq_len']:5d}  {row['tokens_per_second'] / 1e6:8.1f} "
            "M tokens/s"
        )


if __name__ == "__main__":
    main()
