"""`stepladder data`: text -> token store (prepare) or -> domains by its words (cluster); a toy."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.spec import CorpusSpec

if TYPE_CHECKING:
    from stepladder.train.data.prepare.cluster import Clusters
    from stepladder.train.data.read.store import Store

HELP = "Prepare token stores from text, or sort text into domains."
EXAMPLE = "stepladder data prepare --out=store --corpus=embedded"

EPILOG = """examples:
  # the text this installation carries; nothing is downloaded
  stepladder data prepare --out=store
  stepladder data prepare --out=store --max-mb-per-domain=4 --domains=python_jax,docstrings
  stepladder data prepare --out=store --domain web='crawl/*.jsonl.zst' --domain code=src \
--tokenizer=bpe:4096"""
CLUSTER_EPILOG = """example: domains by their words, for configs/studies/split.py:clusters
  stepladder data cluster --k=4 --out=text --domain science='science.jsonl.gz' --domain law=law"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions with their arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_prepare_arguments(
        actions.add_parser("prepare", help="tokenise text into a token store", allow_abbrev=False)
    )
    _add_cluster_arguments(
        actions.add_parser("cluster", help="sort text into domains", allow_abbrev=False)
    )
    _add_phonebook_arguments(
        actions.add_parser("phonebook", help="domains of names with numbers", allow_abbrev=False)
    )


def _add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = CLUSTER_EPILOG
    _add_sources(parser)
    parser.add_argument("--k", required=True, type=int, help="number of domains")
    parser.add_argument("--out", required=True, type=Path, help="new folder of the domains")
    parser.add_argument("--seed", type=int, default=0, help="of the grouping (0)")


def _add_phonebook_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, type=Path, help="new folder of the books")
    parser.add_argument("--books", type=int, default=4, help="domains (4)")
    parser.add_argument(
        "--records", type=int, default=250, help="names with a number, a book (250)"
    )
    parser.add_argument("--copies", type=int, default=100, help="pages that a record is on (100)")
    parser.add_argument("--seed", type=int, default=0, help="of names, numbers and order (0)")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    from stepladder.train.data.prepare.documents import READERS

    parser.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help=f"files, folders or globs of the domain 'text' ({', '.join(list(READERS)[:5])}, ...)",
    )
    parser.add_argument(
        "--domain",
        nargs="+",
        action="append",
        default=[],
        metavar="NAME=GLOB",
        help="a domain of one's own files; repeatable",
    )


def _add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """Which text, and how it becomes tokens."""
    from stepladder.train.data.prepare.filters import FILTERS

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    _add_sources(parser)
    parser.add_argument("--out", required=True, type=Path, help="folder of the store")
    parser.add_argument(
        "--corpus",
        default=None,
        help=(
            "label in the manifest; 'embedded' (default without sources) is the installation's own "
            "text"
        ),
    )
    parser.add_argument(
        "--domains", default="", help="only these domains, separated by commas (default: all)"
    )
    parser.add_argument("--tokenizer", default="bytes", help="bytes (default) or bpe:<vocabulary>")
    parser.add_argument(
        "--max-mb-per-domain",
        type=float,
        default=0.0,
        help="a fixed random sample of this size (default 0: everything)",
    )
    parser.add_argument(
        "--dedup",
        default="minhash",
        help="none, exact or minhash (default), over all domains and before the split",
    )
    parser.add_argument(
        "--filters", default="", help=f"steps in order, separated by commas: {', '.join(FILTERS)}"
    )
    parser.add_argument(
        "--validation-fraction",
        type=float,
        default=0.05,
        help="share of the text's bytes held out, by document or package (0.05)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample and the split (0)")


def corpus_of(args: argparse.Namespace) -> CorpusSpec:
    """The corpus spec of parsed arguments. Raises UserError."""
    sources = _sources(args)
    if args.corpus == "embedded" and sources:
        raise UserError(
            "corpus=embedded: takes no sources of one's own; leave out --corpus or the sources"
        )
    if args.corpus not in (None, "embedded") and not sources:
        raise UserError(
            f"corpus={args.corpus}: no sources given; add --domain NAME=GLOB, or use "
            "--corpus=embedded"
        )
    return CorpusSpec(
        name=args.corpus or ("files" if sources else "embedded"),
        sources=tuple(sources),
        domains=_names(args.domains),
        tokenizer=args.tokenizer,
        max_mb_per_domain=args.max_mb_per_domain,
        validation_fraction=args.validation_fraction,
        filters=_names(args.filters),
        dedup=args.dedup,
        seed=args.seed,
    )


def _sources(args: argparse.Namespace) -> list[tuple[str, str]]:
    """(domain, pattern) of every source."""
    sources = [("text", source) for source in args.sources]
    for item in (part for group in args.domain for part in group):
        name, equals, pattern = item.partition("=")
        if not (name and equals and pattern):
            raise UserError(
                f"domain={item}: must be NAME=GLOB, e.g. --domain web='crawl/*.jsonl.gz'"
            )
        sources.append((name, pattern))
    return sources


def main(args: argparse.Namespace) -> int:
    """Do the action and print its table; returns 0. Raises UserError."""
    return {"prepare": _prepare, "cluster": _cluster, "phonebook": _phonebook}[args.action](args)


def _phonebook(args: argparse.Namespace) -> int:
    from stepladder.train.data.tasks.books import write_books

    names = write_books(args.out, args.books, args.records, args.copies, args.seed)
    sys.stdout.write(f"{args.out}: {', '.join(names)}\n")
    return 0


def _cluster(args: argparse.Namespace) -> int:
    from stepladder.train.data.prepare.cluster import cluster

    sources = _sources(args)
    if not sources:
        raise UserError("sources: none given; add files, or --domain NAME=GLOB")
    sys.stdout.write(cluster_table(cluster(sources, args.k, args.out, args.seed)))
    return 0


def cluster_table(found: "Clusters") -> str:
    """Groups with their size, the label that most of them have, and the words of their centre."""
    lines = [f"{'domain':12s}{'docs':>9s}{'MB':>10s}  {'most are':24s}words"]
    for name, documents, size, words, row_L in zip(
        found.names, found.documents, found.bytes, found.words, found.counts_KL
    ):
        most = f"{found.labels[row_L.argmax()]} {row_L.max() / documents:.0%}"
        lines.append(f"{name:12s}{documents:9,}{size / 1e6:10.2f}  {most:24s}{', '.join(words)}")
    if len(found.labels) > 1:
        lines.append(f"adjusted Rand index with the {len(found.labels)} labels: {found.rand:.2f}")
    return "\n".join(lines) + "\n"


def _prepare(args: argparse.Namespace) -> int:
    from stepladder.train.data.prepare.prepare import prepare

    store = prepare(corpus_of(args), args.out)
    sys.stdout.write(table(store))
    return 0


def table(store: "Store") -> str:
    """A store as a table: domains with documents, MB, tokens, overlap, and what was dropped.

    The overlap is the share of validation's 13-grams that training holds too.
    """
    lines = [
        f"{'domain':24s}{'docs':>9s}{'MB':>10s}{'tokens':>14s}"
        f"{'val. tokens':>13s}{'overlap':>9s}  dropped"
    ]
    for domain, entry in store.manifest["domains"].items():
        train = entry["train"]
        validation = entry.get("validation", {"documents": 0, "bytes": 0, "tokens": 0})
        dropped = ", ".join(f"{reason} {n:,}" for reason, n in entry["dropped"].items()) or "-"
        size = (train["bytes"] + validation["bytes"]) / 1e6
        documents = train["documents"] + validation["documents"]
        lines.append(
            f"{domain:24s}{documents:9,}{size:10.2f}{train['tokens']:14,}"
            f"{validation['tokens']:13,}{entry['overlap']:9.2%}  {dropped}"
        )
    made = store.manifest["tokenizer"]
    lines.append(
        f"{store.path}: {made['name']}, vocabulary {made['vocab_size']:,}, fingerprint "
        f"{store.fingerprint}"
    )
    return "\n".join(lines) + "\n"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
