"""Free runs read off one forward, against decoding with the model: beam search, and a plain greedy loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stoical.decoding.beam_search import beam_search
from stoical.decoding.beams import beam_on_nodes
from stoical.decoding.device_trie import DeviceTrie
from stoical.decoding.free_run import beam_scores, greedy_is_valid
from stoical.decoding.walks import path_sums
from stoical.encoding.tokenized import TokenizedQuery
from stoical.evaluation.paper import gold_gains, ndcg
from stoical.models.forward import node_logprobs
from stoical.trie.node_weights import TargetSettings
from stoical.trie.prefix_tree import build_trie
from tests.support.made_up import made_up_logprobs
from tests.support.packed import pack
from tests.support.random_queries import ragged_queries
from tests.support.tiny_model import EOS, VOCAB, tiny_model

MODEL = tiny_model().eval()


@pytest.mark.parametrize("score", ["mean", "sum"])
@pytest.mark.parametrize(("terminated", "count"), [(True, True), (True, False), (False, True)])
def test_beam_scores_are_those_of_beam_search(terminated: bool, count: bool, score: str) -> None:
    queries = ragged_queries(terminated=terminated, count_terminator=count, negatives=3)
    batch = pack(queries, TargetSettings())
    with torch.no_grad():
        logprobs = node_logprobs(MODEL, batch).logprobs
    left_out = 0
    for num_beams in (1, 2, 3, 5, 20):
        found = beam_scores(batch, logprobs, num_beams, score)  # type: ignore[arg-type]
        for row, query in enumerate(queries):
            trie = DeviceTrie.from_trie(build_trie(query.docid_ids), query.counted)
            hypotheses = beam_search(MODEL, query.prompt_ids, trie, num_beams, score)  # type: ignore[arg-type]
            expected = [-torch.inf] * len(query.docids)
            for hypothesis in hypotheses:
                expected[hypothesis.doc] = hypothesis.score
            assert found[batch.doc_query == row].tolist() == pytest.approx(expected, abs=1e-5)
            left_out += expected.count(-torch.inf) * (num_beams > 1)
    assert left_out > 10


def test_a_narrow_beam_loses_the_best_docid() -> None:
    """The likelier first token leads to the less likely docID, and one beam follows it."""
    batch = pack([TokenizedQuery("q", [1], ["a", "b"], [[3, 5], [4, 5]], [2, 2], [1, 2])], TargetSettings())
    logprobs = torch.tensor([0.0, -1.0, -0.5, -1.0, -3.0])
    assert batch.node_token.tolist() == [-1, 3, 4, 5, 5]
    assert beam_scores(batch, logprobs, 1).tolist() == [-torch.inf, -1.75]
    assert beam_scores(batch, logprobs, 2).tolist() == [-1.0, -1.75]


def test_equal_beams_go_to_the_better_parent_then_to_the_smaller_token() -> None:
    """As in `beam_search.beam_search`, which does not know ranks."""
    docids = [[4, 7, 9], [3, 6, 9], [3, 5, 9], [4, 8, 9]]
    batch = pack([TokenizedQuery("q", [1], list("abcd"), docids, [3] * 4, [1, 2, 3, 4])], TargetSettings())
    logprobs = torch.where(batch.node_token >= 0, -1.0, 0.0)

    def beams(values: torch.Tensor, width: int) -> set[int]:
        return set(batch.node_token[beam_on_nodes(batch, path_sums(batch, values), width)].tolist()) - {-1}

    assert beams(logprobs, 1) == {3, 5}
    better_beam = torch.where(batch.node_token == 4, -0.5, logprobs)
    better_beam = torch.where(torch.isin(batch.node_token, torch.tensor([7, 8])), -1.5, better_beam)
    assert beams(better_beam, 2) == {3, 4, 7, 8}


@pytest.mark.parametrize("ids", ["ascending", "descending"])
@pytest.mark.parametrize("negatives", [0, 2])
def test_ties_at_the_cut_go_against_the_model(ids: str, negatives: int) -> None:
    """A model whose scores are all equal finds the least relevant docIDs, negatives first, whatever their tokens."""
    tokens = sorted(range(10, 18), reverse=ids == "descending")
    docids = [[token, EOS] for token in tokens]
    ranks = [1, 1, 3, 3, 5, 6, *([7, 7] if negatives else [7, 8])]
    query = TokenizedQuery("q", [1], list("abcdefgh"), docids, [2] * 8, ranks, negatives)
    one_step = replace(query, docid_ids=[[token] for token in tokens], counted=[1] * 8)
    for each in (query, one_step):
        batch = pack([each], TargetSettings())
        flat = torch.where(batch.node_token >= 0, -1.0, 0.0)
        for width in range(1, 9):
            found = beam_scores(batch, flat, width) > -torch.inf
            assert [rank for rank, own in zip(ranks, found, strict=True) if own] == ranks[-width:]


def test_ties_within_the_trie_go_against_the_model() -> None:
    """Of two equal prefixes the one whose best docID is less relevant is kept, and lost docIDs are never found."""
    docids = [[3, 5, EOS], [3, 6, EOS], [4, 7, EOS], [4, 8, EOS]]
    batch = pack([TokenizedQuery("q", [1], list("abcd"), docids, [3] * 4, [1, 2, 3, 4])], TargetSettings())
    flat = torch.where(batch.node_token >= 0, -1.0, 0.0)
    assert (beam_scores(batch, flat, 1) > -torch.inf).tolist() == [False, False, False, True]
    assert (beam_scores(batch, flat, 20) > -torch.inf).all()
    better = torch.where(batch.node_token == 3, -0.9, flat)
    assert (beam_scores(batch, better, 1) > -torch.inf).tolist() == [False, True, False, False]


def test_a_model_of_equal_scores_has_the_worst_free_run() -> None:
    """nDCG of what it finds is that of the worst order of the list, which lists the best document first."""
    ranks = np.arange(1, 13)
    query = TokenizedQuery("q", [1], [str(r) for r in ranks], [[10 + r, EOS] for r in ranks], [2] * 12, ranks.tolist())
    batch = pack([query], TargetSettings())
    flat = torch.where(batch.node_token >= 0, -1.0, 0.0)
    gains = gold_gains(ranks, 0)
    found = ndcg(beam_scores(batch, flat, 5).double().numpy(), gains)
    assert found == pytest.approx(ndcg(ranks.astype(float), gains))
    assert found < min(ndcg(np.random.default_rng(seed).permutation(12) * 1.0, gains) for seed in range(200))


def test_queries_of_a_batch_do_not_meet() -> None:
    queries = ragged_queries(negatives=2)
    whole = pack(queries, TargetSettings())
    logprobs = made_up_logprobs(whole).float()
    found = beam_scores(whole, logprobs, 2)
    for row, query in enumerate(queries):
        alone = beam_scores(pack([query], TargetSettings()), logprobs[whole.node_row == row], 2)
        assert found[whole.doc_query == row].tolist() == alone.tolist()


def written_by_a_loop(prompt: list[int], steps: int) -> list[int]:
    """The likeliest token of the vocabulary, step by step, each by a forward over all of it."""
    tokens = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            tokens.append(int(MODEL(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("layout", ["sequence", "cache", "pointwise"])
@pytest.mark.parametrize("uncounted", [0, 1])
def test_greedy_is_valid_where_a_plain_greedy_decode_writes_a_docid(uncounted: int, layout: str) -> None:
    """Tries around what the model writes: the whole of it is a docID, or only its first tokens are in the trie."""
    generator = torch.Generator().manual_seed(0)
    queries, expected = [], []
    for place in range(12):
        prompt = [1, *torch.randint(3, VOCAB, (4 + place % 3,), generator=generator).tolist()]
        written = written_by_a_loop(prompt, 3)
        kept = place % 4  # tokens of it that the trie has
        own = [*written[:kept], *[(token + 1) % VOCAB for token in written[kept:]]]
        docids = [own, [(token + 2) % VOCAB for token in written], [*written[:1], (written[1] + 3) % VOCAB, 5]]
        counted = [len(ids) - uncounted for ids in docids]
        queries.append(TokenizedQuery(f"q{place}", prompt, list("abc"), docids, counted, [1, 2, 3], place % 2))
        expected.append(written in docids)
    batch = pack(queries, TargetSettings())
    with torch.no_grad():
        output = node_logprobs(MODEL, batch, layout, keep="logits")  # type: ignore[arg-type]
    assert greedy_is_valid(batch, output).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_without_terminators_a_docid_on_the_way_is_enough() -> None:
    prompt = [1, 40, 41]
    written = written_by_a_loop(prompt, 2)
    other = [written[0], (written[1] + 1) % VOCAB]
    found = []
    for docids in ([written[:1], other], [other]):
        query = TokenizedQuery(
            "q", prompt, list("ab")[: len(docids)], docids, list(map(len, docids)), [1, 2][: len(docids)]
        )
        batch = pack([query], TargetSettings())
        with torch.no_grad():
            found += greedy_is_valid(batch, node_logprobs(MODEL, batch, keep="logits")).tolist()
    assert found == [True, False]
