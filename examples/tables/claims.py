"""The claims of the paper's section 5.2 and Appendix D, held against results.

A claim is a list of comparisons, each a difference per seed that the claim says is above 0. All of them above 0 in
every seed: the claim replicates. One of them below 0 in every seed: it does not. Else, and from one seed, it cannot be
told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Results = Mapping[str, Sequence[Mapping[str, float]]]
"""Row name to its metrics (fractions), a seed each."""

ALPHAS = [f"wordnet_alpha{a}" for a in (1, 2, 3, 4, 5)]
BETAS = [f"wordnet_beta{b}" for b in (1, 2, 3, 4, 5)]
BOTH = {b: f"wordnet_alpha2_beta{b}" for b in (1, 2, 3, 4, 5, 6, 7, 9, 25)}
NTP, ITEM, STEPWISE = "wordnet_ntp", "wordnet_alpha2", "wordnet_stepwise"
RECALLS = [f"recall@{k}" for k in range(1, 6)]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared, and the difference of each seed; `scale` is what a line shows it by, 100 for fractions."""

    what: str
    differences: tuple[float, ...]
    scale: float = 100

    @property
    def holds(self) -> bool:
        """True where it is as the claim says in every seed, of at least two."""
        return len(self.differences) > 1 and min(self.differences) > 0

    @property
    def fails(self) -> bool:
        """True where it is the other way round in every seed, of at least two."""
        return len(self.differences) > 1 and max(self.differences) < 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, where it stands, its verdict in words, and the comparisons that decided it."""

    claim: str
    where: str
    verdict: str
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        """As a dictionary."""
        return asdict(self)

    def line(self) -> str:
        """One line: verdict, claim, and the numbers (in points of per cent) of the comparison that holds least.

        One that fails in every seed holds less than one that holds in some of them.
        """
        worst = min(self.comparisons, key=lambda one: (one.holds, not one.fails, float(np.mean(one.differences))))
        numbers = ", ".join(f"{worst.scale * each:+.2f}" for each in worst.differences)
        held, failed = (sum(getattr(one, word) for one in self.comparisons) for word in ("holds", "fails"))
        count = len(self.comparisons)
        least = "" if count == 1 else f"Of {count} comparisons {held} hold in every seed and {failed} fail; least: "
        return f"{self.verdict}: {self.claim} ({self.where}). {least}{worst.what}: {numbers}"


def judged(claim: str, where: str, comparisons: Sequence[Comparison]) -> Verdict:
    """The verdict on a claim."""
    if all(one.holds for one in comparisons):
        verdict = "replicates in miniature"
    elif any(one.fails for one in comparisons):
        verdict = "does not replicate"
    else:
        verdict = "cannot be told"
    return Verdict(claim, where, verdict, tuple(comparisons))


def verdicts(results: Results) -> list[Verdict]:
    """A verdict on every claim, from the results of Tables 1 and 3."""
    return [judged(claim, where, list(make(results))) for claim, where, make in CLAIMS]


def better(results: Results, row: str, other: str, metric: str) -> Comparison:
    """`row` against `other`: the metric's difference, turned so that more is better."""
    sign = -1 if metric == "cvr" else 1
    pairs = zip(results[row], results[other], strict=True)
    return Comparison(f"{metric}, {row} over {other}", tuple(sign * (a[metric] - b[metric]) + 0.0 for a, b in pairs))


def _violations(results: Results) -> Iterator[Comparison]:
    for row in (*ALPHAS, STEPWISE, *BETAS):
        yield better(results, row, NTP, "cvr")


def _fractional(results: Results) -> Iterator[Comparison]:
    """The best alpha by mean nDCG against stepwise."""
    best = max(ALPHAS, key=lambda row: np.mean([run["ndcg"] for run in results[row]]))
    for metric in ("ndcg", *RECALLS):
        yield better(results, best, STEPWISE, metric)


def _limit(results: Results) -> Iterator[Comparison]:
    """The largest alpha is nearer to next-token prediction than the smallest, in nDCG and R@1."""
    for metric in ("ndcg", "recall@1"):
        yield nearer(results, ALPHAS[-1], ALPHAS[0], NTP, metric)


def _token_level(results: Results) -> Iterator[Comparison]:
    for row in BETAS:
        for metric in ("cvr", "ndcg", *RECALLS[2:]):
            yield better(results, row, NTP, metric)


def _less_dramatic(results: Results) -> Iterator[Comparison]:
    """Every alpha above every beta."""
    for row in ALPHAS:
        for other in BETAS:
            for metric in ("cvr", "ndcg"):
                yield better(results, row, other, metric)


def _best_alpha(results: Results) -> Iterator[Comparison]:
    for row in ALPHAS:
        if row != ITEM:
            yield better(results, ITEM, row, "recall@4")
            yield better(results, ITEM, row, "recall@5")


def _rising(results: Results) -> Iterator[Comparison]:
    """Spearman's correlation of beta and nDCG from 1 to 7."""
    rows = [BOTH[b] for b in range(1, 8)]
    seeds = range(len(results[rows[0]]))
    curves = [[results[row][seed]["ndcg"] for row in rows] for seed in seeds]
    found = tuple(spearman(list(range(len(rows))), curve) for curve in curves)
    yield Comparison("correlation of beta with ndcg", found, scale=1)


def _stops(results: Results) -> Iterator[Comparison]:
    """The best beta up to 7 has at least the nDCG of 9 and of 25."""
    best = max((BOTH[b] for b in range(1, 8)), key=lambda row: np.mean([run["ndcg"] for run in results[row]]))
    for b in (9, 25):
        yield better(results, best, BOTH[b], "ndcg")


def _not_above(results: Results) -> Iterator[Comparison]:
    for row in BOTH.values():
        yield better(results, ITEM, row, "ndcg")


def _converges(results: Results) -> Iterator[Comparison]:
    """Beta = 25 is nearer to one-hot targets than beta = 1 is."""
    for metric in ("ndcg", *RECALLS):
        yield nearer(results, BOTH[25], BOTH[1], ITEM, metric)


def nearer(results: Results, row: str, other: str, to: str, metric: str) -> Comparison:
    """How much nearer `row` is than `other` to a third row."""
    runs = zip(results[row], results[other], results[to], strict=True)
    found = tuple(abs(b[metric] - c[metric]) - abs(a[metric] - c[metric]) for a, b, c in runs)
    return Comparison(f"{metric}, {row} nearer to {to} than {other}", found)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The correlation of ranks; values that tie have the mean of their ranks."""
    ranks = [mean_ranks(values) for values in (first, second)]
    if min(np.std(each) for each in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def mean_ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1, the smallest first."""
    found = np.asarray(values)
    return [float((found < one).sum() + ((found == one).sum() + 1) / 2) for one in found]


CLAIMS: tuple[tuple[str, str, Callable[[Results], Iterator[Comparison]]], ...] = (
    ("every ranking-aware loss lowers CVR", "section 5.2", _violations),
    ("fractional item weights are more effective than stepwise", "section 5.2", _fractional),
    ("the larger alpha, the more like top-1 training", "section 5.2", _limit),
    ("trie targets lower CVR and raise nDCG and R@k for k > 2", "section 5.2", _token_level),
    ("but not as dramatically as item weights", "section 5.2", _less_dramatic),
    ("alpha = 2 has the best R@4 and R@5 among alphas", "Appendix D", _best_alpha),
    ("nDCG improves as beta goes from 1 to 7", "Appendix D", _rising),
    ("the trend stops for larger beta", "Appendix D", _stops),
    ("no beta surpasses one-hot targets in nDCG", "Appendix D", _not_above),
    ("as beta grows, results converge to one-hot targets", "Appendix D", _converges),
)
