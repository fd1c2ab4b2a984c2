"""Classifier-like selection: a fixed score of one document, and the best share of a domain by it.

Stand-ins for the trained classifiers of web corpora (arXiv:2406.11794): features of the surface
with weights chosen by hand, so that the choice is the same on every machine and needs no model.
What they select *towards* is prose or code.
"""

import re
from collections.abc import Callable

import numpy as np

from stepladder.configs.core.errors import UserError
from stepladder.train.data.prepare.spool import Spool

SHARE = 0.3  # of the domain's bytes that a ranked step keeps

_WORD = re.compile(r"[^\W\d_]+")
_FUNCTION_WORDS = frozenset(
    _WORD.findall(
        "the of and to in a is that for it as was with be by on not or are this have from which an "
        "at if can will when may been one all has were their there used such than other these also "
        "any each must should more only into its they no"
    )
)


def prose(text: str) -> float:
    """Share of the words that are English function words, less the share of symbols.

    Symbols are visible characters other than letters, commas, full stops, apostrophes and hyphens.
    """
    words = _WORD.findall(text.lower())
    visible = max(sum(not c.isspace() for c in text), 1)
    other = sum(not (c.isalpha() or c.isspace() or c in ",.'-") for c in text)
    return sum(word in _FUNCTION_WORDS for word in words) / max(len(words), 1) - other / visible


def code(text: str) -> float:
    """Share of symbols among visible characters, plus half the share of indented lines.

    Symbols are brackets, operators, underscores and digits.
    """
    visible = max(sum(not c.isspace() for c in text), 1)
    lines = [line for line in text.splitlines() if line.strip()]
    symbols = sum(c in "()[]{}<>=+*/%&|^~!:;_#@\\" or c.isdigit() for c in text)
    return symbols / visible + 0.5 * sum(line[0] in " \t" for line in lines) / max(len(lines), 1)


RANKED: dict[str, Callable[[str], float]] = {"prose_top30": prose, "code_top30": code}


def best(step: str, spool: Spool, wanted: np.ndarray) -> np.ndarray:
    """The documents of the highest scores, up to SHARE of the bytes: bool [documents].

    Only those in `wanted`, bool [documents], are ranked. Raises UserError when there is none.
    """
    index = np.flatnonzero(wanted)
    if not len(index):
        raise UserError(f"filters={step}: no document to choose from; give the domain more text")
    scores = np.array([RANKED[step](data.decode("utf-8")) for data in spool.texts(wanted)])
    order = index[np.argsort(-scores, kind="stable")]
    count = (
        int(np.searchsorted(np.cumsum(spool.sizes[order]), SHARE * spool.sizes[index].sum())) + 1
    )
    chosen = np.zeros(len(wanted), bool)
    chosen[order[:count]] = True
    return chosen
