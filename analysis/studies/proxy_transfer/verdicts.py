"""The last stage: every claim checked for every proxy, and one verdict for each claim."""

import math
from collections.abc import Mapping, Sequence

from stepladder.analysis.studies.proxy_transfer.checks import (
    NOT_SETTLED,
    Verdict,
    argmin_verdict,
    flips_verdict,
    range_verdict,
    regret_verdict,
    rise_verdict,
)
from stepladder.analysis.studies.proxy_transfer.measures import Row
from stepladder.analysis.studies.proxy_transfer.measures.grid import same_rate
from stepladder.analysis.studies.proxy_transfer.measures.learning_rates import ProxyRates
from stepladder.analysis.studies.proxy_transfer.prepare import Prepared
from stepladder.analysis.studies.proxy_transfer.read_table import MEAN, PROXY
from stepladder.analysis.studies.proxy_transfer.result import Flips, Ranking, Validity, Verdicts


def judge(prepared: Prepared, ranking: Ranking, flips: Flips, validity: Validity) -> Verdicts:
    """Check the claims (a) to (e): the first two over all sizes, the others for each proxy."""
    no_vote, sample = validity.below_bigram, prepared.sample
    out = [
        flips_verdict(prepared.main_grids, flips.rates, no_vote, sample),
        argmin_verdict(prepared.main_grids, no_vote, sample.level),
    ]
    chosen = ranking.chosen
    blocked = {c.size: no_vote.get(c.size, "") or no_evidence(c, validity) for c in chosen}
    out += [rise_verdict(c, ranking.scored, sample, blocked[c.size]) for c in chosen]
    out += [regret_verdict(c, ranking.scored, sample, blocked[c.size]) for c in chosen]
    out += [range_verdict(c, ranking.arm_ranges, sample, blocked[c.size]) for c in chosen]
    return Verdicts(tuple(out), overall(out, no_vote))


def no_evidence(chosen: ProxyRates, validity: Validity) -> str:
    """Why a proxy's numbers at its tiny or its standard rate are no evidence, by G1 or G6; "" when
    they are.
    """
    for rate in (r for r in (chosen.tiny, chosen.standard) if r is not None):
        trained, noise = (
            [
                r
                for r in rows
                if (r["role"], r["size"]) == (PROXY, chosen.size)
                and same_rate(r["learning_rate"], rate)
            ]
            for rows in (validity.trained, validity.snr)
        )
        if any(r["trained"] is False for r in trained):
            return f"at {rate:g} the {chosen.size} proxy did not train"
        for r in noise:
            if r["domain"] == MEAN and r["passes"] is False:
                return (
                    f"at {rate:g} the spread of the recipes is {r['snr']:.2g} seed SD, and noise "
                    f"alone makes {r['by_noise']:.2g}"
                )
    return ""


def overall(verdicts: Sequence[Verdict], no_vote: Mapping[str, str]) -> list[Row]:
    """One row a claim: the verdict of its proxies where they agree, else "not settled".

    A size that does not count (`no_vote`), or that the question could not be put to (no number),
    has no vote while another one has.
    """
    out = []
    for key in dict.fromkeys(v.id for v in verdicts):
        mine = [v for v in verdicts if v.id == key]
        words = {v.verdict for v in mine if v.size not in no_vote and math.isfinite(v.number)}
        out.append(
            {
                "id": key,
                "claim": mine[0].claim,
                "verdict": words.pop() if len(words) == 1 else NOT_SETTLED,
                "by_size": {v.size: v.verdict for v in mine if v.size},
            }
        )
    return out
