"""The 23 recipes at the paper's scale (arXiv:2512.24503): ten mixtures, three corpora, six quality
mixes, four deduplications.

The paper names dimensions, corpora and counts; its weights and thresholds are not published, so
every number here is our choice. The text is the user's own: `stepladder plan
--config=configs/studies/proxy_transfer.py:tpu` takes a path or glob for every domain below
(`--config.data.sources.c4='.../*.jsonl.zst'`). The quality buckets of RedPajama-V2 are three
domains, as that corpus ships them.
"""

from stepladder.configs.recipes import Recipe, equal

PILE = ("pile_cc", "github", "arxiv", "wikipedia", "books", "stackexchange", "pubmed", "freelaw")
CORPORA = ("c4", "dclm", "refinedweb")
QUALITY = ("rpv2_head", "rpv2_middle", "rpv2_tail")
DOMAINS = (*PILE, *CORPORA, *QUALITY)
VALIDATION = ("pile_cc", "github", "arxiv", "wikipedia", "stackexchange")

_WEB = ("pile_cc",)
_CODE = ("github", "stackexchange")
_SCIENCE = ("arxiv", "pubmed")
_REFERENCE = ("wikipedia", "books", "freelaw")


def _pile(web: float, code: float, science: float, reference: float) -> dict[str, float]:
    """Weights by group, each group in equal parts."""
    parts = ((_WEB, web), (_CODE, code), (_SCIENCE, science), (_REFERENCE, reference))
    return {
        domain: weight
        for names, share in parts
        if share
        for domain, weight in equal(*names, of=share).items()
    }


def _quality(head: float, middle: float, tail: float) -> dict[str, float]:
    return {name: weight for name, weight in zip(QUALITY, (head, middle, tail)) if weight}


RECIPES: dict[str, Recipe] = {
    "pile_uniform": Recipe("mixture", equal(*PILE), "eight domains in equal parts"),
    "pile_web": Recipe("mixture", _pile(0.7, 0.1, 0.1, 0.1), "mostly web"),
    "pile_web_only": Recipe("mixture", _pile(1.0, 0, 0, 0), "web alone"),
    "pile_code": Recipe("mixture", _pile(0.2, 0.6, 0.1, 0.1), "mostly code"),
    "pile_science": Recipe("mixture", _pile(0.2, 0.1, 0.6, 0.1), "mostly papers"),
    "pile_reference": Recipe(
        "mixture", _pile(0.2, 0.1, 0.1, 0.6), "mostly books, encyclopedia and law"
    ),
    "pile_web_code": Recipe("mixture", _pile(0.5, 0.5, 0, 0), "half web, half code"),
    "pile_web_science": Recipe("mixture", _pile(0.5, 0, 0.5, 0), "half web, half papers"),
    "pile_no_web": Recipe("mixture", _pile(0, 0.34, 0.33, 0.33), "without web"),
    "pile_no_code": Recipe("mixture", _pile(0.4, 0, 0.3, 0.3), "without code"),
    "c4": Recipe("source", equal("c4"), "a whole corpus"),
    "dclm_baseline": Recipe("source", equal("dclm"), "a whole corpus"),
    "refinedweb": Recipe("source", equal("refinedweb"), "a whole corpus"),
    "head": Recipe("quality", _quality(1, 0, 0), "the best bucket"),
    "middle": Recipe("quality", _quality(0, 1, 0), "the middle bucket"),
    "tail": Recipe("quality", _quality(0, 0, 1), "the worst bucket"),
    "head_middle": Recipe("quality", _quality(0.5, 0.5, 0), "the two better buckets"),
    "head_tail": Recipe("quality", _quality(0.5, 0, 0.5), "best and worst"),
    "thirds": Recipe("quality", equal(*QUALITY), "all buckets in equal parts"),
    "dclm_none": Recipe("deduplication", equal("dclm"), "every copy", dedup="none"),
    "dclm_exact": Recipe("deduplication", equal("dclm"), "without exact copies", dedup="exact"),
    "dclm_minhash": Recipe("deduplication", equal("dclm"), "without near copies", dedup="minhash"),
    "dclm_strict": Recipe(
        "deduplication",
        equal("dclm"),
        "without near copies and repeated lines",
        ("no_repeated_lines",),
        "minhash",
    ),
}
