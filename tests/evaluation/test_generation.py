"""stoical/generation_metrics.py and `generation=true`: free runs against a loop with one whole forward a token."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MistralForCausalLM

from stoical.data.rows import Doc, RankingRow
from stoical.evaluation.generation_metrics import compare_texts, edit_distance, summarise_texts
from stoical.evaluation.result import Evaluation
from stoical.models.forward import node_logprobs
from stoical.reporting.generation import generation_table
from tests.support.small_evaluation import WORDS, encoded, evaluator, make_rows, token_logprobs
from tests.support.tiny_model import tiny_model

END = WORDS.index("</s>")
TOKENS = st.lists(st.integers(0, 3), max_size=7)


def text_rows(count: int = 9) -> tuple[RankingRow, ...]:
    """Prompts with one target each, of 1 to 40 tokens."""
    rows = []
    for index, row in enumerate(make_rows(count, negatives=0)):
        target = " ".join("abcdefg"[(index * k + k) % 7] for k in range(1 + 5 * (count - 1 - index)))
        rows.append(RankingRow(row.query_id, row.query, (Doc(target),)))
    return tuple(rows)


def loop(model: MistralForCausalLM, prompt: list[int], steps: int) -> list[int]:
    """Greedy decoding, a whole forward a token."""
    written: list[int] = []
    while len(written) < steps and END not in written:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *written]])).logits[0, -1]
        written.append(int(logits.argmax()))
    return written


def forced_hits(model: MistralForCausalLM, prompt: list[int], target: list[int]) -> list[bool]:
    with torch.no_grad():
        likeliest = model(input_ids=torch.tensor([[*prompt, *target]])).logits[0].argmax(-1).tolist()
    return [likeliest[len(prompt) - 1 + place] == token for place, token in enumerate(target)]


def run(model: MistralForCausalLM, rows: tuple[RankingRow, ...], **settings: Any) -> Evaluation:
    return evaluator(encoded(list(rows)), generation=True, **settings)(model)


@cache
def taught(rows: tuple[RankingRow, ...]) -> MistralForCausalLM:
    """A model that has been shown all rows but the last three."""
    model, dataset = tiny_model(), encoded(list(rows))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batch = evaluator(dataset).collator([dataset[i] for i in range(len(rows) - 3)])["batch"]
    for _ in range(45):
        optimizer.zero_grad()
        (-node_logprobs(model, batch).logprobs.sum() / len(batch.node_token)).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("layout", ["sequence", "cache", "pointwise"])
@pytest.mark.parametrize("rows", [text_rows(), tuple(make_rows(9))], ids=["targets", "lists"])
def test_free_runs_are_those_of_the_loop(rows: tuple[RankingRow, ...], layout: str) -> None:
    """Of a list, too, where the first docID shares its trie with others. The loop has transformers' own attention."""
    dataset, model = encoded(list(rows)), taught(rows)
    plain = tiny_model("eager").eval()
    plain.load_state_dict(model.state_dict())
    found = run(model, rows, layout=layout).rows
    longest = max(len(dataset[i].docid_ids[0]) for i in range(9))
    for index, row in enumerate(found):
        query, seen = dataset[index], row.generation
        prompt, target = list(query.prompt_ids), list(query.docid_ids[0])
        written = loop(plain, prompt, longest)
        expected = compare_texts(target, written)
        assert {key: seen[key] for key in expected} == expected
        assert seen["text"] == dataset.encoder.tokenizer.decode([token for token in written if token != END])
        assert seen["target"] == query.docids[0]
        assert seen["forced_hits"] == forced_hits(plain, prompt, target)
        assert seen["nll"] == pytest.approx(-math.fsum(token_logprobs(plain, prompt, target)), abs=1e-4)
    assert len({len(row.generation["free_hits"]) for row in found}) > 2
    right = [hit for row in found for hit in row.generation["free_hits"]]
    assert 0 < sum(right) < len(right), "some of it must be right to see anything"


def test_a_greedy_run_errs_first_where_teacher_forcing_does() -> None:
    """Until its first error the run's prefix is the target's: exact match is a claim about teacher-forced argmaxes."""
    rows = text_rows()
    result = run(taught(rows), rows)
    seen = [row.generation for row in result.rows]
    for row, generation in zip(result.rows, seen, strict=True):
        hits = generation["forced_hits"]
        assert generation["first_error"] == (None if all(hits) else hits.index(False) + 1)
        assert (
            generation["exact_match"] == 1 - row.metrics["invalid_rate"] == (generation["text"] == generation["target"])
        )
        assert row.metrics["valid_mass"] == pytest.approx(math.exp(-generation["nll"]), rel=1e-4)
    assert 0 < sum(each["exact_match"] for each in seen) < len(seen)
    found = summarise_texts(seen)
    assert found["free_accuracy"] < found["forced_accuracy"] < 1, "errors lead to errors"


def test_neither_batches_nor_layouts_change_a_run() -> None:
    rows = text_rows()
    model = taught(rows)
    cases = ((1, "sequence"), (4, "cache"), (9, "sequence"))
    one, *others = [run(model, rows, batch_size=size, layout=layout) for size, layout in cases]
    for other in others:
        for row, expected in zip(other.rows, one.rows, strict=True):
            assert row.generation["nll"] == pytest.approx(expected.generation["nll"], rel=1e-4)
            assert row.generation | {"nll": 0} == expected.generation | {"nll": 0}
    sample = run(model, rows, num_queries=4).rows
    assert len(sample) == 4
    assert "generation" not in evaluator(encoded(list(rows)))(model).rows[0].to_json(), "only where it is asked for"


@cache
def distance(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Levenshtein's recursion."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        distance(first[1:], second) + 1,
        distance(first, second[1:]) + 1,
        distance(first[1:], second[1:]) + (first[0] != second[0]),
    )


@given(TOKENS, TOKENS)
def test_the_edit_distance_is_levenshteins(first: list[int], second: list[int]) -> None:
    assert edit_distance(first, second) == distance(tuple(first), tuple(second))


def test_a_run_beside_its_target_by_hand() -> None:
    assert compare_texts([5, 6, 7, 2], [5, 6, 7, 2]) == {
        "exact_match": 1.0, "edit_similarity": 1.0, "first_error": None, "free_hits": [True] * 4
    }  # fmt: skip
    skipped = compare_texts([5, 6, 7, 2], [5, 7, 2])
    assert skipped["free_hits"] == [True, False, False, False]
    assert (skipped["first_error"], skipped["edit_similarity"]) == (2, 0.75)
    unended = compare_texts([5, 2], [5, 6, 6, 6])
    assert (unended["exact_match"], unended["first_error"], unended["edit_similarity"]) == (0.0, 2, 0.25)


def test_the_summary_by_hand() -> None:
    rows = [
        {**compare_texts([5, 6, 2], [5, 6, 2]), "forced_hits": [True, True, True], "nll": 0.3},
        {**compare_texts([7, 2], [5, 6, 2]), "forced_hits": [False, True], "nll": 2.7},
    ]
    found = summarise_texts(rows)
    assert found == {
        "num_queries": 2,
        "exact_match": 0.5,
        "edit_similarity": pytest.approx((1 + 1 / 3) / 2),
        "forced_accuracy": 0.8,
        "free_accuracy": 0.6,
        "nll": pytest.approx(0.6),
        "first_error": 1.0,
        "by_position": {"targets": [2, 2, 1], "forced": [0.5, 1.0, 1.0], "free": [0.5, 0.5, 1.0]},
    }
    table = generation_table([("mine", found), ("perfect", found | {"first_error": None})])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[2] == ["mine", "50.00", "66.67", "60.00", "80.00", "1.0", "0.6000", "2"]
    assert cells[3][5] == "–"
