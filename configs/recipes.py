"""Data recipes of the embedded corpus: what a study of data curation compares.

A recipe is weights over domains, and filters and a deduplication for all of them; with either, it
trains on variants of its domains (train/data/prepare/variants.py). Filtered recipes take CORE in
equal parts, so `uniform` is what each differs from by its filter alone; those of deduplication
share a pool with many copies. Which recipes are bad on purpose is the dimension `control`.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ml_collections import ConfigDict

from stepladder.configs.core.errors import UserError, nearest
from stepladder.configs.core.spec import Variant, check_weights

DIMENSIONS = ("mixture", "source", "quality", "deduplication", "control")


@dataclass(frozen=True)
class Recipe:
    """What a run trains on: weights over domains, and perhaps filters and a deduplication.

    Weights sum to 1. With `filters` (train/data/prepare/filters.py, quality.py) or `dedup` ("" is
    the corpus') the text is a variant of each domain.
    """

    dimension: str
    weights: Mapping[str, float] = field(hash=False)
    note: str
    filters: tuple[str, ...] = ()
    dedup: str = ""

    @property
    def made(self) -> bool:
        """Whether it trains on variants of its domains, not on the domains."""
        return bool(self.filters or self.dedup)


# Training text a domain has in the embedded corpus, MB, without a cap (Python 3.11, the wheels of
# constraints/3.11.txt).
MEGABYTES = {
    "python_numeric": 17.2,
    "python_numeric_tests": 28.4,
    "python_jax": 14.4,
    "c_cpp": 5.1,
    "cython": 3.4,
    "docstrings": 14.1,
    "reference": 1.1,
    "tables": 2.6,
}
CORE = ("python_numeric", "python_numeric_tests", "python_jax", "c_cpp", "docstrings")
PROSE, CODE = ("docstrings", "reference"), ("python_numeric", "python_jax", "c_cpp", "cython")
# half of the licences are copies; of the code few
COPIES = {"c_cpp": 0.5, "licences": 0.25, "reference": 0.25}
VALIDATION = ("docstrings", "reference", "python_numeric", "python_jax", "c_cpp")


def equal(*domains: str, of: float = 1.0) -> dict[str, float]:
    return {domain: of / len(domains) for domain in domains}


def tempered(power: float) -> dict[str, float]:
    """Weights in proportion to size^power (arXiv:1901.07291): 1 is natural, 0 is uniform."""
    raised = {domain: size**power for domain, size in MEGABYTES.items()}
    return {domain: value / sum(raised.values()) for domain, value in raised.items()}


def _core(dimension: str, note: str, *filters: str) -> Recipe:
    return Recipe(dimension, equal(*CORE), note, filters)


RECIPES: dict[str, Recipe] = {
    "natural": Recipe("mixture", tempered(1.0), "every domain by its size"),
    "uniform": Recipe(
        "mixture",
        equal(*CORE),
        "the five largest domains in equal parts: what filtered recipes start from",
    ),
    "temperature_03": Recipe(
        "mixture", tempered(0.3), "sizes to the power 0.3: small domains more often"
    ),
    "prose_heavy": Recipe(
        "mixture",
        {"docstrings": 0.6, "reference": 0.1, **equal(*CODE, of=0.3)},
        "70 % prose, 30 % code",
    ),
    "code_heavy": Recipe(
        "mixture", {**equal(*CODE, of=0.9), "docstrings": 0.1}, "90 % code, 10 % prose"
    ),
    "no_python": Recipe(
        "mixture",
        {"c_cpp": 0.4, "cython": 0.2, "docstrings": 0.35, "reference": 0.05},
        "without Python code",
    ),
    "only_docstrings": Recipe("source", equal("docstrings"), "technical English"),
    "only_python_numeric": Recipe(
        "source", equal("python_numeric"), "Python of numpy, scipy, pandas and matplotlib"
    ),
    "only_python_jax": Recipe("source", equal("python_jax"), "Python of jax and its libraries"),
    "only_c_cpp": Recipe("source", equal("c_cpp"), "C and C++ headers"),
    "gopher": _core(
        "quality",
        "heuristics on words and repetition (arXiv:2112.11446)",
        "word_length",
        "no_repeated_lines",
        "no_repeated_words",
        "stop_words",
    ),
    "prose_top30": _core("quality", "the 30 % of each domain most like prose", "prose_top30"),
    "code_top30": _core("quality", "the 30 % of each domain most like code", "code_top30"),
    "dedup_none": Recipe(
        "deduplication", COPIES, "domains with many copies, all kept", dedup="none"
    ),
    "dedup_exact": Recipe("deduplication", COPIES, "the same without exact copies", dedup="exact"),
    "dedup_minhash": Recipe(
        "deduplication", COPIES, "the same without near copies", dedup="minhash"
    ),
    "repeat_8": Recipe(
        "deduplication",
        equal(*CORE),
        "one document in eight, eight times over",
        ("repeat_8",),
        "none",
    ),
    "repeat_some": Recipe(
        "deduplication",
        equal(*CORE),
        "documents once to eight times, as in a crawl",
        ("repeat_some",),
        "none",
    ),
    "noise_5": _core("control", "5 % of the characters replaced", "noise_5"),
    "shuffle_half": _core("control", "the words of half the documents shuffled", "shuffle_half"),
    "lower_case": _core("control", "lower-cased", "lower_case"),
    "cut_500": Recipe(
        "control", equal(*CORE), "documents cut at 500 characters", ("cut_500",), "none"
    ),
    "generated": Recipe("control", equal("generated"), "tables and parsers written by programs"),
}


def chosen(
    names: Iterable[str],
    table: Mapping[str, Recipe] = RECIPES,
    domains: Iterable[str] | None = None,
) -> dict[str, Recipe]:
    """The named recipes, checked.

    Warns of two that are the same; raises UserError for an unknown name and for a recipe that
    cannot be.

    `domains`: those the corpus has; left out, any.
    """
    found: dict[str, Recipe] = {}
    for name in names:
        if name not in table:
            raise UserError(f"study.recipes={name!r}: no such recipe; {nearest(name, table)}")
        if name in found:
            raise UserError(f"study.recipes={name!r}: named twice; name every recipe once")
        check(name, table[name], domains)
        same = next((n for n, r in found.items() if _content(r) == _content(table[name])), None)
        if same:
            warnings.warn(
                f"recipes {same} and {name} are the same weights, filters and deduplication: one "
                "is trained twice",
                stacklevel=2,
            )
        found[name] = table[name]
    return found


def check(name: str, recipe: Recipe, domains: Iterable[str] | None = None) -> None:
    """Check one recipe.

    Raises UserError for an unknown dimension or domain, and for weights that are negative or do not
    sum to 1.
    """
    known = None if domains is None else tuple(domains)
    if recipe.dimension not in DIMENSIONS:
        raise UserError(
            f"recipe {name}: dimension={recipe.dimension!r} is unknown; "
            f"{nearest(recipe.dimension, DIMENSIONS)}"
        )
    for domain, weight in recipe.weights.items():
        if known is not None and domain not in known:
            raise UserError(
                f"recipe {name}: weights.{domain}={weight}: the corpus has no such domain; "
                f"{nearest(domain, known)}"
            )
    check_weights(recipe.weights, f"recipe {name}: weights")


def weights(name: str, recipe: Recipe) -> dict[str, float]:
    """Weights over what the store holds: domains, or the variants that the recipe makes of them."""
    return {
        variant_name(name, domain) if recipe.made else domain: weight
        for domain, weight in recipe.weights.items()
        if weight > 0
    }


def variant_name(name: str, domain: str) -> str:
    return f"{domain}-{name}"


def prepare_config(config: ConfigDict, recipes: Mapping[str, Recipe]) -> None:
    """Give the corpus of `config` the domains and variants of all `recipes`.

    All of them then read one token store.
    """
    if not config.data.sources:
        used = {
            domain
            for recipe in recipes.values()
            for domain, weight in recipe.weights.items()
            if weight > 0
        }
        config.data.domains = tuple(sorted(used | set(config.data.validation)))
    for name, recipe in recipes.items():
        for domain in weights(name, recipe) if recipe.made else ():
            base = domain.removesuffix(f"-{name}")
            config.data.variants[domain] = Variant(domain, base, recipe.filters, recipe.dedup)


def _content(recipe: Recipe) -> tuple[object, ...]:
    return (
        {d: round(w, 9) for d, w in recipe.weights.items() if w > 0},
        recipe.filters,
        recipe.dedup,
    )
