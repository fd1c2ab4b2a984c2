"""One fit and its refits in this process, timed from its first line: the part of `fit_vs_scipy.py`
that is ours.

Prints one JSON line.

python benchmarks/fit_once.py POINTS.csv --starts hoffmann --resamples 4000
"""

import time

BEGIN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
from collections.abc import Callable  # noqa: E402


def timed(function: Callable, *args, **options) -> tuple[object, float]:
    """The result and the wall seconds of a call."""
    begin = time.perf_counter()
    result = function(*args, **options)
    return result, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("points", help="CSV with columns N, D, loss")
    parser.add_argument("--tiny", action="store_true", help="the same: one fit takes seconds")
    parser.add_argument(
        "--starts",
        default="",
        help="hoffmann: the 4,500 of arXiv 2203.15556; empty: the library's default",
    )
    parser.add_argument("--resamples", type=int, nargs="*", default=[])
    parser.add_argument("--warm", action="store_true", help="everything a second time, compiled")
    args = parser.parse_args()

    import pandas as pd

    from stepladder.analysis.fit.fit import fit

    frame = pd.read_csv(args.points)
    options = {"objective": "huber_log"} | ({"starts": args.starts} if args.starts else {})
    said = {"points": len(frame), "import_seconds": time.perf_counter() - BEGIN}
    found, said["fit_seconds"] = timed(fit, frame, "chinchilla", **options)
    if args.warm:
        said["fit_warm_seconds"] = timed(fit, frame, "chinchilla", **options)[1]
    said |= {
        "value": found.value,
        "params": dict(found.params),
        "starts": found.starts,
        "notes": list(found.notes),
        "refits": [],
    }
    if args.resamples:
        from stepladder.analysis.fit.bootstrap import bootstrap

        for count in args.resamples:
            refits, seconds = timed(bootstrap, found, resamples=count, seed=0)
            row = {
                "resamples": count,
                "seconds": seconds,
                "se": {k: float(v) for k, v in refits.params.std(ddof=1).items()},
            }
            row["rows"] = len(refits.params)
            if args.warm:
                row["warm_seconds"] = timed(bootstrap, found, resamples=count, seed=1)[1]
            said["refits"].append(row)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    said |= {
        "seconds": time.perf_counter() - BEGIN,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gib": usage.ru_maxrss / 2**20,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
