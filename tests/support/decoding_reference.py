"""Decoding as plain loops over dictionaries of prefixes, in float64, from one unpadded-in-effect forward a docID."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tests.support.reference import Prefix


@dataclass(frozen=True)
class Case:
    """One query to decode: docIDs with their terminators, and how their scores are made."""

    prompt: list[int]
    docids: list[Prefix]
    counted: list[int]
    reduction: str

    @property
    def frontier(self) -> int:
        """The most inner nodes at any depth: that many beams lose nothing."""
        inner = {ids[:step] for ids in self.docids for step in range(len(ids))}
        return max(sum(len(prefix) == depth for prefix in inner) for depth in range(max(map(len, inner)) + 1))


def prefix_logprobs(model: torch.nn.Module, case: Case) -> dict[Prefix, float]:
    """log p of the last token of every prefix: a row a docID, plain causal attention, padding on the right."""
    longest = max(map(len, case.docids))
    rows = [[*case.prompt, *ids, *[0] * (longest - len(ids))] for ids in case.docids]
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor(rows)).logits.double().log_softmax(-1)
    return {
        ids[: step + 1]: logprobs[row, len(case.prompt) - 1 + step, token].item()
        for row, ids in enumerate(case.docids)
        for step, token in enumerate(ids)
    }


def doc_score(logprobs: dict[Prefix, float], ids: Prefix, counted: int, reduction: str) -> float:
    """Section 5.1: the mean over the counted tokens, or their sum."""
    total = math.fsum(logprobs[ids[: step + 1]] for step in range(counted))
    return total / counted if reduction == "mean" else total


def ranking(case: Case, logprobs: dict[Prefix, float], docs: Sequence[int]) -> list[tuple[int, float]]:
    """(doc, score) of `docs`, best first, docIDs listed earlier first among equals."""
    scored = [(doc, doc_score(logprobs, case.docids[doc], case.counted[doc], case.reduction)) for doc in docs]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))


def brute_force(model: torch.nn.Module, case: Case) -> list[tuple[int, float]]:
    return ranking(case, prefix_logprobs(model, case), range(len(case.docids)))


def plain_beam_search(model: torch.nn.Module, case: Case, num_beams: int) -> tuple[list[tuple[int, float]], float]:
    """The pruning rule that `beam_search` documents, and the smallest gap at which it cut (nats)."""
    logprobs = prefix_logprobs(model, case)
    total = {(): 0.0}
    found: list[int] = []
    closest = math.inf
    while total:
        children = {
            prefix: total[prefix[:-1]] + logprobs[prefix] for prefix in logprobs if prefix[:-1] in total
        }  # fmt: skip
        found += [doc for doc, ids in enumerate(case.docids) if ids in children]
        inner = [
            prefix for prefix in children if any(len(ids) > len(prefix) == _common(ids, prefix) for ids in case.docids)
        ]
        inner.sort(key=lambda prefix: (-children[prefix], prefix))
        if len(inner) > num_beams:
            closest = min(closest, children[inner[num_beams - 1]] - children[inner[num_beams]])
        total = {prefix: children[prefix] for prefix in inner[:num_beams]}
    return ranking(case, logprobs, found)[:num_beams], closest


def plain_greedy(model: torch.nn.Module, case: Case) -> tuple[tuple[int, float], float]:
    """The best docID on the walk that takes the likeliest valid token, and the smallest gap to the second (nats)."""
    logprobs = prefix_logprobs(model, case)
    walk, found, closest = (), [], math.inf
    while children := sorted((-logprobs[p], p) for p in logprobs if p[:-1] == walk and p):
        walk = children[0][1]
        found += [doc for doc, ids in enumerate(case.docids) if ids == walk]
        closest = min([closest, *(other[0] - children[0][0] for other in children[1:2])])
    return ranking(case, logprobs, found)[0], closest


def _common(first: Prefix, second: Prefix) -> int:
    """How many tokens two prefixes share."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
