"""Domains without labels: documents grouped by their words, a folder of JSON lines a group.

TF-IDF, its leading singular vectors (latent semantic analysis), k-means: scikit-learn's. Domains
for experts are made so in arXiv:2303.14177 (c-BTM).
"""

import io
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.configs.core.files import new_folder
from stepladder.train.data.prepare.documents import Document, expand, read

NAME, TABLE = "cluster{}", "clusters.json"
CHARACTERS = 20_000  # of a document that are looked at
TERMS, VECTORS, STARTS = 2**15, 64, 4  # words at most; dimensions of k-means; its starts
SHOWN = 8  # words that name a cluster


@dataclass(frozen=True)
class Clusters:
    """What was found.

    Attributes:
        names: of the groups, folders of `out`.
        documents, bytes: of each.
        words: of each, those that weigh most at its centre.
        counts_KL: documents of each by the label that their source gave; labels: its columns.
        rand: adjusted Rand index of the groups with these labels; 0 is chance, 1 the same.
    """

    names: tuple[str, ...]
    documents: tuple[int, ...]
    bytes: tuple[int, ...]
    words: tuple[tuple[str, ...], ...]
    counts_KL: np.ndarray
    labels: tuple[str, ...]
    rand: float


def cluster(sources: Sequence[tuple[str, str]], k: int, out: Path, seed: int = 0) -> Clusters:
    """Write every document of the sources into one of `k` groups: out/cluster0/documents.jsonl.zst.

    The same sources, k and seed give the same groups.

    Args:
        sources: (label, file or folder or glob); the label is only compared with the groups.
        k: number of groups.
        out: a new folder; it appears when all is written.
        seed: of k-means and the singular vectors.

    Raises:
        UserError: for a k that the documents do not fill, and an `out` that is there.
    """
    if k < 2:
        raise UserError(f"k={k}: must be 2 or more groups")
    files = [(label, expand(label, pattern)) for label, pattern in sources]
    with new_folder(out) as folder:
        labels: list[str] = []
        group_D, words = _groups(_texts(files, labels), labels, k, seed)
        sizes = _write(files, group_D, k, folder)
        done = _summary(group_D, words, labels, sizes)
        given = [list(source) for source in sources]
        body = {"k": k, "seed": seed, "sources": given, **_json(done)}
        (folder / TABLE).write_text(json.dumps(body, indent=1) + "\n")
    return done


def _documents(files: list[tuple[str, list[Path]]]) -> Iterator[tuple[str, Document]]:
    for label, paths in files:
        for document in read(label, paths):
            yield label, document


def _texts(files: list[tuple[str, list[Path]]], labels: list[str]) -> Iterator[str]:
    """The text of every document; its label is added to `labels`."""
    for label, document in _documents(files):
        labels.append(label)
        yield document.text[:CHARACTERS]


def _groups(
    texts: Iterator[str], labels: list[str], k: int, seed: int
) -> tuple[np.ndarray, tuple[tuple[str, ...], ...]]:
    """The group of every document, and the words of each group. `labels` has one a text read."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    vectorizer = TfidfVectorizer(max_features=TERMS, sublinear_tf=True, stop_words="english")
    try:
        weight_DT = vectorizer.fit_transform(texts)
    except ValueError as error:  # no document has a word
        raise UserError(f"sources: {error}; give documents of words") from error
    if len(labels) < 2 * k:
        raise UserError(f"k={k}: too many groups for {len(labels)} documents; use fewer")
    terms = vectorizer.get_feature_names_out()
    size = min(VECTORS, min(weight_DT.shape) - 1)
    if size < 1:
        raise UserError(f"sources: {len(terms)} different words are too few to tell groups apart")
    svd = TruncatedSVD(size, random_state=seed)
    vector_DV = normalize(svd.fit_transform(weight_DT))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer groups than k: refused
        means = KMeans(k, n_init=STARTS, random_state=seed)  # pyright: ignore[reportArgumentType]
        group_D = means.fit_predict(vector_DV)
    if (distinct := len(np.unique(group_D))) < k:
        raise UserError(
            f"k={k}: an empty group, for the documents have {distinct} distinct ones; use "
            f"k={distinct} or more text"
        )
    centre_KT = means.cluster_centers_ @ svd.components_
    words = tuple(tuple(map(str, terms[row.argsort()[::-1][:SHOWN]])) for row in centre_KT)
    return group_D, words


def _write(
    files: list[tuple[str, list[Path]]], group_D: np.ndarray, k: int, folder: Path
) -> tuple[int, ...]:
    """The groups as compressed JSON lines; returns the bytes of text of each."""
    import zstandard

    sizes = [0] * k
    with ExitStack() as stack:
        opened = []
        for i in range(k):
            (folder / NAME.format(i)).mkdir(parents=True)
            file = stack.enter_context((folder / NAME.format(i) / "documents.jsonl.zst").open("wb"))
            packed = stack.enter_context(zstandard.ZstdCompressor().stream_writer(file))
            opened.append(stack.enter_context(io.TextIOWrapper(packed, encoding="utf-8")))
        for (label, document), group in zip(_documents(files), group_D, strict=True):
            row = {"text": document.text, "label": label, "name": document.name}
            opened[group].write(json.dumps(row, ensure_ascii=False) + "\n")
            sizes[group] += len(document.text.encode())
    return tuple(sizes)


def _summary(
    group_D: np.ndarray,
    words: tuple[tuple[str, ...], ...],
    label_of: Sequence[str],
    sizes: tuple[int, ...],
) -> Clusters:
    from sklearn.metrics import adjusted_rand_score

    labels, label_D = np.unique(label_of, return_inverse=True)
    counts_KL = np.zeros((len(words), len(labels)), int)
    np.add.at(counts_KL, (group_D, label_D), 1)
    return Clusters(
        names=tuple(NAME.format(i) for i in range(len(words))),
        documents=tuple(map(int, counts_KL.sum(1))),
        bytes=sizes,
        words=words,
        counts_KL=counts_KL,
        labels=tuple(map(str, labels)),
        rand=float(adjusted_rand_score(label_D, group_D)),
    )


def _json(found: Clusters) -> dict:
    return {
        "rand": found.rand,
        "groups": [
            {
                "name": name,
                "documents": documents,
                "bytes": size,
                "words": list(words),
                "labels": dict(zip(found.labels, map(int, row_L))),
            }
            for name, documents, size, words, row_L in zip(
                found.names, found.documents, found.bytes, found.words, found.counts_KL
            )
        ],
    }
