"""Which token store a spec reads: one folder a corpus under `root`, named by the corpus spec's
hash, prepared when missing.
"""

import hashlib
from pathlib import Path

from stepladder.configs.core.spec import CorpusSpec, RunSpec, canonical, to_dict
from stepladder.train.data.prepare.prepare import prepare
from stepladder.train.data.read.store import Store
from stepladder.train.processes import group


def folder(root: Path, corpus: CorpusSpec) -> Path:
    digest = hashlib.sha256(canonical(to_dict(corpus)).encode()).hexdigest()[:8]
    return Path(root) / f"{corpus.name}-{digest}"


def stores(specs: list[RunSpec], root: Path, show: bool = True) -> dict[CorpusSpec, Store]:
    """Open the store of every corpus that `specs` use; process 0 prepares what is missing.

    Idempotent and resumable.
    """
    corpora, made = dict.fromkeys(s.data.corpus for s in specs), {}
    group.broadcast_from_zero(
        lambda: made.update(
            {corpus: prepare(corpus, folder(root, corpus), show) for corpus in corpora}
        )
    )
    return made or {corpus: Store.open(folder(root, corpus)) for corpus in corpora}
