"""stoical/ranker.py against one plain forward a docID, and against the evaluator."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stoical.build.evaluator import build_evaluator
from stoical.data.rows import Doc, RankingRow
from stoical.ranker import Ranker
from stoical.runs.find import load_checkpoint
from tests.support.tiny_run import DOCS, one_forward_each, plain_model


def test_scores_are_those_of_one_forward_a_docid(trained: Path, loaded: Ranker) -> None:
    results = loaded.rank("query ba", DOCS)
    expected = one_forward_each(plain_model(trained), loaded.encoder, "query ba", DOCS)
    assert [result.docid for result in results] == sorted(DOCS, key=lambda name: -expected[name])
    assert [result.rank for result in results] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([r.score for r in results], [expected[r.docid] for r in results], atol=5e-6)
    assert all(result.text is None for result in results)


def test_the_order_of_the_documents_does_not_matter(loaded: Ranker) -> None:
    results = loaded.rank("query ba", DOCS)
    for order in (DOCS[::-1], sorted(DOCS), DOCS[3:] + DOCS[:3]):
        assert loaded.rank("query ba", order) == results
    assert loaded.rank("query do", DOCS) != results, "the query does"


def test_scores_are_the_evaluators_for_the_same_shuffle(trained: Path, loaded: Ranker) -> None:
    """The evaluator shuffles by query_id from rank order, so: query_id = query, and documents in order of docID."""
    recipe, _ = load_checkpoint(trained / "checkpoint-3", {})
    queries = {"query ba": DOCS, "query do": DOCS[:3], "query no": DOCS[2:]}
    rows = [RankingRow(query, query, tuple(map(Doc, sorted(docs)))) for query, docs in queries.items()]
    evaluated = build_evaluator(recipe, rows, loaded.encoder, None)(loaded.model).rows  # type: ignore[arg-type]
    ranked = loaded.rank_batch(list(queries.items()))
    for row, results in zip(evaluated, ranked, strict=True):
        scores = dict(zip(row.docids, row.scores, strict=True))
        assert {result.docid: result.score for result in results} == scores


def test_a_batch_is_its_queries_one_by_one(loaded: Ranker) -> None:
    queries = [("query ba", DOCS), ("query do", ["ba"]), ("a longer query no ra su", DOCS[1:4])]
    together = loaded.rank_batch(queries)
    for (query, docs), results in zip(queries, together, strict=True):
        alone = loaded.rank(query, docs)
        assert [result.docid for result in results] == [result.docid for result in alone]
        np.testing.assert_allclose([r.score for r in results], [r.score for r in alone], atol=5e-6)
    assert loaded.rank_batch([]) == []


def test_top_k_is_the_head_of_the_ranking(loaded: Ranker) -> None:
    results = loaded.rank("query ba", DOCS)
    assert loaded.rank("query ba", DOCS, top_k=2) == results[:2]
    assert loaded.rank("query ba", DOCS, top_k=99) == results
    with pytest.raises(ValueError, match="top_k=0 must be at least 1"):
        loaded.rank("query ba", DOCS, top_k=0)


def test_probabilities_are_a_softmax_of_the_docids_log_probabilities(loaded: Ranker) -> None:
    """Of the sums, though the ranking goes by their means."""
    sums = {row.docid: row.score for row in replace(loaded, score="sum").rank("query ba", DOCS)}
    total = sum(math.exp(value) for value in sums.values())
    results = loaded.rank("query ba", DOCS)
    assert {row.docid: row.probability for row in results} == pytest.approx(
        {docid: math.exp(value) / total for docid, value in sums.items()}, rel=1e-5
    )
    assert sum(row.probability for row in results) == pytest.approx(1)
    assert loaded.rank("query ba", ["ba"])[0].probability == 1
    scaled = replace(loaded, temperature=2.5)
    total = sum(math.exp(value / 2.5) for value in sums.values())
    expected = [math.exp(sums[row.docid] / 2.5) / total for row in results]
    assert [row.probability for row in scaled.rank("query ba", DOCS)] == pytest.approx(expected, rel=1e-5)
    assert [row.docid for row in scaled.rank("query ba", DOCS)] == [row.docid for row in results]
    with pytest.raises(ValueError, match=r"temperature=0 must be a finite number above 0"):
        replace(loaded, temperature=0)


def test_a_ranker_abstains_below_a_probability(loaded: Ranker) -> None:
    """By the probability of the document that it would put first."""
    results = loaded.rank("query ba", DOCS)
    first = results[0].probability
    assert loaded.rank("query ba", DOCS, min_probability=first - 1e-6) == results
    assert loaded.rank("query ba", DOCS, top_k=2, min_probability=first - 1e-6) == results[:2]
    assert loaded.rank("query ba", DOCS, min_probability=first + 1e-6) == []
    both = loaded.rank_batch([("query ba", DOCS), ("query ba", ["ba"])], min_probability=first + 1e-6)
    assert [len(each) for each in both] == [0, 1]
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"min_probability=.* must lie between 0 and 1"):
            loaded.rank("query ba", DOCS, min_probability=value)


def test_texts_come_back_and_enter_the_prompt_that_wants_them(loaded: Ranker) -> None:
    docs = [{"docid": "ba", "text": "one"}, {"docid": "do", "text": None}, "ki"]
    results = {result.docid: result for result in loaded.rank("query", docs)}
    assert {docid: result.text for docid, result in results.items()} == {"ba": "one", "do": None, "ki": None}
    assert loaded.rank("query", ["ba", "do", "ki"]) == [replace(r, text=None) for r in loaded.rank("query", docs)]
    template = replace(loaded.encoder.template, doc="{docid}: {text}")
    wants_text = replace(loaded, encoder=replace(loaded.encoder, template=template))
    one, other = ([{"docid": "ba", "text": text}, {"docid": "do", "text": "x"}] for text in ("one", "other"))
    assert wants_text.rank("query", one)[0].score != wants_text.rank("query", other)[0].score
    with pytest.raises(ValueError, match="docID 'ki' has no text, which the prompt template writes"):
        wants_text.rank("query", docs[::2])


def test_equal_scores_are_ranked_by_docid(loaded: Ranker) -> None:
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.tensor([[1]])).logits

    def flat(position_ids: torch.Tensor, **kwargs: Any) -> Any:
        return SimpleNamespace(logits=torch.zeros(*kwargs["logits_to_keep"].shape, logits.shape[-1]))

    module = torch.nn.Module()
    module.forward, module.config = flat, loaded.model.config  # type: ignore[assignment]
    module._is_stateful = False  # type: ignore[assignment]  # a ranker asks whether a trie can run through its model
    module.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
    results = replace(loaded, model=module).rank("query ba", DOCS)
    assert [result.docid for result in results] == sorted(DOCS)
    assert len({round(result.score, 6) for result in results}) == 1


def test_settings_are_the_recipes_unless_given(trained: Path, loaded: Ranker) -> None:
    summed = Ranker.from_pretrained(trained / "checkpoint-3", {"eval.score": "sum"}, device="cpu")
    assert (loaded.score, summed.score) == ("mean", "sum")
    by_docid = {result.docid: result.score for result in loaded.rank("query ba", DOCS)}
    for result in summed.rank("query ba", DOCS):
        assert result.score == pytest.approx(by_docid[result.docid] * len(loaded.encoder.docid_tokenizer(result.docid)))
    with pytest.raises(ValueError, match=r"model.dtype: Invalid value 'float16', expected one of"):
        Ranker.from_pretrained(trained, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"setting 'evl\.score' does not exist\. Did you mean 'eval\.score'"):
        Ranker.from_pretrained(trained, {"evl.score": "sum"})
    for key, value in {"eval.mode": "greedy_path", "eval.batch_size": "2", "data.path": "/nowhere"}.items():
        with pytest.raises(ValueError, match=rf"{key} has no effect on ranking"):
            Ranker.from_pretrained(trained, {key: value})
    with pytest.raises(ValueError, match="checkpoint=/nowhere: no such directory"):
        Ranker.from_pretrained("/nowhere")


MISTAKES = {
    "no documents": (("query", []), "query 'query': 'docs' is empty"),
    "one string": (("query", "ba"), "query 'query': the documents must be a list of docIDs"),
    "one mapping": (("query", {"docid": "ba"}), "the documents must be a list of docIDs"),
    "nothing": (("query", None), "the documents must be a list of docIDs"),
    "blank query": ((" ", ["ba"]), "query ' ': 'query' is empty"),
    "no query": ((None, ["ba"]), "query None: 'query' must be a string"),
    "blank docID": (("query", ["ba", ""]), "query 'query': docs[1]: 'docid' is empty"),
    "a number": (("query", ["ba", 3]), "query 'query': docs[1]: expected an object like {\"docid\": ...}"),
    "unknown key": (("query", [{"docid": "ba", "rank": 1}]), "docs[0]: unknown key 'rank' (known keys: docid, text)"),
    "repeated docID": (("query", ["ba", "do", "ba"]), "the docid 'ba' occurs twice"),
    "repeated tokens": (("query", ["ba", " ba"]), "query 'query': docIDs ' ba' and 'ba' have the same token ids"),
    "too many": (
        ("query", [f"no{a}" for a in DOCS]),
        "query 'query': only 4 of its 6 documents fit into prompt.max_length=30",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_told_with_the_query(case: str, loaded: Ranker) -> None:
    arguments, message = MISTAKES[case]
    short = replace(loaded, encoder=replace(loaded.encoder, max_length=30))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        short.rank(*arguments)
    assert message in str(error.value)


def test_broken_weights_are_told(trained: Path) -> None:
    broken = Ranker.from_pretrained(trained, device="cpu")
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="query 'q': the model's scores are not finite; its weights are broken"):
        broken.rank("q", DOCS)


@pytest.mark.parametrize("device", ["gpu", "cuda:4711"])
def test_a_device_that_is_not_there_is_refused_by_name(trained: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"device={device}: "):
        Ranker.from_pretrained(trained, device=device)
