"""Position by position: the chain rule, a perfect model, and sums over prefixes by a loop over dictionaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stoical.decoding.scores import valid_mass
from stoical.evaluation.diagnostics import diagnose
from stoical.trie.node_weights import TargetSettings
from tests.support.made_up import made_up_logprobs
from tests.support.packed import BETA, pack, prefix_of
from tests.support.random_queries import ragged_queries
from tests.support.reference import Prefix, constrained_reach, trie_target

SETTINGS = {"trie": BETA, "alpha": TargetSettings("fractional", 1.0), "one_hot": TargetSettings()}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_teacher_forced_kl_adds_up_to_that_over_docids(settings: TargetSettings) -> None:
    queries = ragged_queries(negatives=2)
    batch = pack(queries, settings)
    logprobs = made_up_logprobs(batch)
    found = diagnose(batch, logprobs)["teacher_forced"].kl.sum(dim=1)
    for row, query in enumerate(queries):
        ranks = np.array(query.ranks[: len(query.ranks) - query.num_negatives])
        mass = {"trie": ranks**-2.0, "alpha": ranks**-1.0, "one_hot": 1.0 * (ranks == 1)}
        (pi,) = (mass[name] / mass[name].sum() for name, value in SETTINGS.items() if value is settings)
        paths = batch.doc_path[batch.doc_query == row]
        expected = 0.0
        for share, path in zip(pi, paths, strict=False):
            expected += share * (math.log(share) - float(logprobs[path[path >= 0]].sum())) if share else 0.0
        assert found[row].item() == pytest.approx(expected, rel=1e-6)


def test_a_model_that_is_the_target_has_no_divergence_and_stays_in_the_trie() -> None:
    batch = pack(ragged_queries())
    found = diagnose(batch, torch.where(batch.node_token >= 0, batch.node_target, 1.0).log())
    for name, sums in found.items():
        assert sums.kl.abs().max() < 1e-6, name
        torch.testing.assert_close(sums.valid, sums.prefixes, atol=1e-6, rtol=0)
    for name in ("free_running", "common", "unconstrained"):
        torch.testing.assert_close(found[name].prefixes, found["teacher_forced"].prefixes, atol=1e-6, rtol=0)


def test_sums_are_those_of_a_loop_over_prefixes() -> None:
    batch = pack(queries := ragged_queries(negatives=3))
    logprobs = made_up_logprobs(batch)
    found = diagnose(batch, logprobs)
    for row, query in enumerate(queries):
        of_prefix = {
            prefix_of(batch, node): float(logprobs[node])
            for node in range(len(logprobs))
            if int(batch.node_row[node]) == row
        }
        docids = [tuple(ids) for ids in query.docid_ids[: len(query.docids) - query.num_negatives]]
        expected = loop_sums(docids, query.ranks[: len(docids)], of_prefix)
        for name, sums in found.items():
            for quantity, values in sums._asdict().items():
                filled = [expected.get((name, quantity, t), 0.0) for t in range(values.shape[1])]
                assert values[row].tolist() == pytest.approx(filled, rel=1e-5, abs=1e-9), (name, quantity)


def loop_sums(
    docids: list[Prefix], ranks: list[int], logprob: dict[Prefix, float]
) -> dict[tuple[str, str, int], float]:
    """By name, quantity and length of the prefix, from the definitions."""
    total = sum(rank**-2.0 for rank in ranks)
    tokens = {(*ids[:step], token) for ids in docids for step, token in enumerate(ids)}

    def at(prefix: Prefix) -> dict[int, torch.Tensor]:
        return {key[-1]: torch.tensor(logprob[key]) for key in tokens if key[:-1] == prefix}

    sums: dict[tuple[str, str, int], float] = {}
    own: dict[str, dict[Prefix, float]] = {}
    for prefix in {ids[:step] for ids in docids for step in range(len(ids) + 1)}:
        whole = prefix in docids
        target = trie_target(docids, ranks, prefix, 2.0)
        quantities = {
            "prefixes": 1.0,
            "kl": sum(q * (math.log(q) - float(at(prefix)[v])) for v, q in target.items()),
            "valid": sum(float(value.exp()) for value in at(prefix).values()),
        }
        below = sum(rank**-2.0 for ids, rank in zip(docids, ranks, strict=True) if ids[: len(prefix)] == prefix)
        free = constrained_reach(at, docids, prefix)  # type: ignore[arg-type]
        written = math.exp(sum(logprob[prefix[: step + 1]] for step in range(len(prefix))))
        probs = {"teacher_forced": below / total, "gold": float(docids[0][: len(prefix)] == prefix)}
        probs |= {"free_running": free, "common": free, "unconstrained": written}
        for name, prob in probs.items():
            own.setdefault(name, {})[prefix] = prob
            for quantity, value in quantities.items() if not whole else ():
                key = (name, quantity, len(prefix))
                sums[key] = sums.get(key, 0.0) + prob * value
    for name, probs in own.items():
        for step in range(1, 9):
            written = {ids[:step] for ids in docids}
            gaps = (abs(probs[prefix] - own["teacher_forced"][prefix]) for prefix in written)
            sums[name, "distance", step - 1] = sum(gaps) / 2
    return sums


def test_where_the_target_never_goes_there_is_nothing_in_common() -> None:
    """Next-token prediction has one path; a free run that has left it has no prefix in common with the target's."""
    batch = pack(ragged_queries(), TargetSettings())
    found = diagnose(batch, made_up_logprobs(batch))
    torch.testing.assert_close(found["teacher_forced"].prefixes, found["gold"].prefixes)
    assert (found["common"].prefixes[:, 0] == 1).all(), "at the first token the prefix is the prompt"
    assert (found["common"].prefixes <= found["free_running"].prefixes + 1e-12).all()
    assert found["common"].prefixes[2, 1] < 0.9 * found["free_running"].prefixes[2, 1]


def test_what_leaves_the_trie_is_all_but_the_valid_mass() -> None:
    batch = pack(ragged_queries(negatives=2))
    logprobs = made_up_logprobs(batch)
    unconstrained = diagnose(batch, logprobs)["unconstrained"]
    off = (unconstrained.prefixes - unconstrained.valid).sum(dim=1)
    torch.testing.assert_close(off, 1 - valid_mass(batch, logprobs.double()), rtol=1e-6, atol=1e-9)
