"""Which token store a run reads: one folder a corpus, named by its spec, prepared when missing."""

import hashlib
from pathlib import Path

from stepladder.configs.core.spec import CorpusSpec, RunSpec, canonical, to_dict
from stepladder.train.data.prepare.prepare import prepare
from stepladder.train.data.read.store import Store
from stepladder.train.processes import group


def folder(root: Path, corpus: CorpusSpec) -> Path:
    """The store's folder of a corpus, named by the hash of its spec."""
    digest = hashlib.sha256(canonical(to_dict(corpus)).encode()).hexdigest()[:8]
    return Path(root) / f"{corpus.name}-{digest}"


def stores(specs: list[RunSpec], root: Path, show: bool = True) -> dict[CorpusSpec, Store]:
    """Open the store of every corpus that `specs` use; process 0 prepares what is missing.

    Idempotent and resumable.
    """
    corpora = dict.fromkeys(spec.data.corpus for spec in specs)
    made: dict[CorpusSpec, Store] = {}

    def prepare_all() -> None:
        for corpus in corpora:
            made[corpus] = prepare(corpus, folder(root, corpus), show)

    group.broadcast_from_zero(prepare_all)
    return made or {corpus: Store.open(folder(root, corpus)) for corpus in corpora}
