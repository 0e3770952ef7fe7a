"""Valid mass, as the evaluator reports it, against one plain forward a prefix."""

from __future__ import annotations

import math

import pytest
from transformers import MistralForCausalLM

from stoical.data.rows import Doc, RankingRow
from stoical.encoding.tokenized import TokenizedQuery
from tests.support.small_evaluation import encoded, evaluator, make_rows, token_logprobs
from tests.support.tiny_model import tiny_model


@pytest.fixture(scope="module")
def model() -> MistralForCausalLM:
    return tiny_model().eval()


@pytest.fixture(scope="module")
def plain() -> MistralForCausalLM:
    """The same weights with transformers' own attention."""
    return tiny_model("eager").eval()


def test_valid_mass_is_the_probability_of_the_listed_docids(
    model: MistralForCausalLM, plain: MistralForCausalLM
) -> None:
    dataset = encoded(make_rows(4))
    result = evaluator(dataset)(model)
    masses = []
    for i in range(4):
        query = dataset[i]
        listed = query.docid_ids[: len(query.docid_ids) - query.num_negatives]
        logprobs = [token_logprobs(plain, list(query.prompt_ids), list(ids)) for ids in listed]
        masses.append(sum(math.exp(math.fsum(each)) for each in logprobs))
    assert [row.metrics["valid_mass"] for row in result.rows] == pytest.approx(masses, rel=1e-4)
    assert result.metrics["valid_mass"] == pytest.approx(sum(masses) / 4, rel=1e-4)


def step_masses(model: MistralForCausalLM, query: TokenizedQuery) -> list[float]:
    """At each counted token of the top docID: the probabilities of all tokens that a listed docID has there, added."""
    listed = [list(ids) for ids in query.docid_ids[: len(query.docid_ids) - query.num_negatives]]
    top, masses = listed[0], []
    for step in range(query.counted[0]):
        valid = {ids[step] for ids in listed if ids[:step] == top[:step] and len(ids) > step}
        each = [token_logprobs(model, list(query.prompt_ids), [*top[:step], token])[-1] for token in valid]
        masses.append(sum(map(math.exp, each)))
    return masses


@pytest.mark.parametrize(("terminator", "count"), [("eos", True), ("eos", False), ("none", True)])
def test_valid_mass_by_step_is_that_of_the_listed_docids(
    terminator: str, count: bool, model: MistralForCausalLM, plain: MistralForCausalLM
) -> None:
    dataset = encoded(make_rows(8, negatives=2), terminator, count)
    rows = evaluator(dataset)(model).rows
    for row, query in zip(rows, [dataset[i] for i in range(8)], strict=True):
        assert row.valid_mass_by_step == pytest.approx(step_masses(plain, query), rel=1e-4)
        assert len(row.valid_mass_by_step) == row.docid_tokens[0]
    alike = [sum(docid == name or docid.startswith(name + " ") for docid in r.docids) for r in rows for name in "abc"]
    assert max(alike) > 1, "prefixes that listed docIDs and negatives share"


def test_a_negative_that_goes_on_after_the_top_docid_is_not_valid(
    model: MistralForCausalLM, plain: MistralForCausalLM
) -> None:
    """Nor is the end of a negative that a listed docID goes on after."""
    for docs, negatives in (("a", "b"), ("a b", "c")), (("a b", "c"), ("a",)):
        row = RankingRow("q", "d", tuple(map(Doc, docs)), tuple(map(Doc, negatives)))
        for count in (True, False):
            dataset = encoded([row], count=count)
            found = evaluator(dataset)(model).rows[0].valid_mass_by_step
            assert found == pytest.approx(step_masses(plain, dataset[0]), rel=1e-4)
