"""What people write in Python instead of files: rows, encoders, targets, and a ranker of a model of their own."""

from __future__ import annotations

import pytest
from transformers import MistralConfig, MistralForCausalLM

import stoical
from stoical.data.rows import Doc
from stoical.encoding.tokenization import train_bpe

LIST = ["ruminant", "mammal", "animal"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["deer", *LIST], vocab_size=300)


def model(tokenizer, attention: str = "sdpa", **config: object) -> MistralForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 1, "num_attention_heads": 4}
    built = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), num_key_value_heads=4, **shape | config))
    built.config._attn_implementation = attention
    return built


def test_a_row_is_made_of_docids_or_of_documents() -> None:
    row = stoical.RankingRow.of("deer", ("ruminant", {"docid": "mammal", "text": "has hair"}), ["oak"])
    assert row.query_id == "deer"
    assert row.docs == (Doc("ruminant"), Doc("mammal", "has hair"))
    assert row.negatives == (Doc("oak"),)
    tied = stoical.RankingRow.of("deer", [{"docid": docid, "rank": 1} for docid in LIST], query_id="1")
    assert (tied.query_id, tied.ranks) == ("1", (1, 1, 1))


@pytest.mark.parametrize(
    ("docs", "message"),
    [
        ("ruminant", "query 'deer': the documents must be a list"),
        ({"docid": "ruminant"}, "query 'deer': the documents must be a list"),
        ([], "query 'deer': 'docs' is empty"),
        (["ruminant", "ruminant"], "query 'deer': the docid 'ruminant' occurs twice"),
        ([{"docid": "ruminant", "txt": "x"}], "unknown key 'txt'; did you mean 'text'"),
        ([7], "query 'deer': docs"),
    ],
)
def test_a_row_that_cannot_be_is_refused(docs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stoical.RankingRow.of("deer", docs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"item": "fractoinal", "alpha": 2.0}, "loss.item=fractoinal must be one of indicator, fractional, stepwise"),
        ({"token": "tree", "beta": 2.0}, "loss.token=tree must be one of one_hot, trie, every_node"),
        ({"token": "every_node", "beta": 2.0, "visits": "all"}, "loss.visits=all must be one of mass, uniform, reach"),
        ({"item": "fractional"}, "loss.alpha must be set"),
        ({"item": "fractional", "alpha": -1}, "loss.alpha=-1 must be a finite number"),
    ],
)
def test_targets_are_checked_where_they_are_used(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stoical.TrieTargetCollator(stoical.TargetSettings(**settings))


def test_a_tokenizer_without_eos_cannot_end_docids(tokenizer) -> None:
    other = train_bpe(["deer", *LIST], vocab_size=300)
    other.eos_token = None
    with pytest.raises(ValueError, match="no EOS token"):
        stoical.QueryEncoder.of(other)
    stoical.QueryEncoder.of(other, terminator="none").encode(stoical.RankingRow.of("deer", LIST))


@pytest.mark.parametrize(
    ("attention", "config", "message"),
    [
        ("flash_attention_2", {}, "'flash_attention_2' cannot take the mask"),
        ("sdpa", {"sliding_window": 8}, "sliding window of 8"),
    ],
)
def test_a_model_that_no_trie_runs_through_is_refused(tokenizer, attention: str, config, message: str) -> None:
    encoder = stoical.QueryEncoder.of(tokenizer)
    batch = stoical.TrieTargetCollator()([encoder.encode(stoical.RankingRow.of("deer", LIST))])["batch"]
    refused = model(tokenizer, attention, **config)
    with pytest.raises(ValueError, match=message):
        stoical.SToICaLLoss(stoical.TargetSettings()).mean(refused, batch)
    with pytest.raises(ValueError, match=message):
        stoical.Ranker(refused, encoder)


def test_queries_that_are_not_packed_have_no_loss(tokenizer) -> None:
    query = stoical.QueryEncoder.of(tokenizer).encode(stoical.RankingRow.of("deer", LIST))
    with pytest.raises(ValueError, match="takes a PackedBatch"):
        stoical.SToICaLLoss(stoical.TargetSettings()).mean(model(tokenizer), [query])


def test_docids_that_a_pruned_batch_lacks_have_no_score(tokenizer) -> None:
    """Next-token prediction keeps the first docID's nodes alone: fewer scores than documents would be misread."""
    query = stoical.QueryEncoder.of(tokenizer).encode(stoical.RankingRow.of("deer", LIST))
    batch = stoical.TrieTargetCollator()([query])["batch"]
    nodes = stoical.node_logprobs(model(tokenizer), batch).logprobs
    with pytest.raises(ValueError, match=f"{len(LIST) - 1} docIDs are not whole in this batch"):
        stoical.doc_scores(batch, nodes)


@pytest.mark.parametrize("score", ["mean", "sum"])
def test_a_ranker_of_ones_own_model_ranks_by_doc_scores(tokenizer, score) -> None:
    encoder, own = stoical.QueryEncoder.of(tokenizer), model(tokenizer).eval()
    ranked = stoical.Ranker(own, encoder, score).rank("deer", LIST)
    row = stoical.RankingRow.of("deer", sorted(LIST))
    batch = stoical.TrieTargetCollator(prune=False)([encoder.encode(row)])["batch"]
    scores = stoical.doc_scores(batch, stoical.node_logprobs(own, batch).logprobs, score)
    expected = dict(zip(sorted(LIST), scores.tolist(), strict=True))
    assert {found.docid: found.score for found in ranked} == pytest.approx(expected, abs=1e-6)
    assert [found.docid for found in ranked] == sorted(LIST, key=lambda docid: -expected[docid])
