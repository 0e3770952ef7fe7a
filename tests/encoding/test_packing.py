"""The packed batch, field by field, against the queries it was made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoical.encoding.tokenized import TokenizedQuery
from stoical.trie.node_weights import UNLISTED, TargetSettings
from tests.support.packed import pack, prefix_of
from tests.support.random_queries import ragged_queries, random_query, without_negatives
from tests.support.tiny_model import EOS

FRACTIONAL = TargetSettings(item="fractional", alpha=1.0)
PAD = 96


def by_place(batch, values):
    """(query, tokens from the root) and value of every node."""
    return [((int(batch.node_row[node]), prefix_of(batch, node)), value) for node, value in enumerate(values)]


def deep_query(length: int) -> TokenizedQuery:
    """Two docIDs of so many tokens and EOS, which part after the first half."""
    stem, rest = list(range(10, 10 + length // 2)), length - length // 2
    docids = [[*stem, *range(start, start + rest), EOS] for start in (40, 70)]
    return TokenizedQuery(f"deep{length}", [1, 5, 6], ["a", "b"], docids, [length + 1] * 2, [1, 2])


@pytest.mark.parametrize("lengths", [None, [1], [2], [3], [4, 9], [8], [25, 1]])
def test_every_node_column_reads_its_own_path(lengths):
    """What a node column attends to is the prompt and the path to it, at consecutive positions, and nothing else."""
    queries = ragged_queries() if lengths is None else list(map(deep_query, lengths))
    batch = pack(queries, FRACTIONAL, pad_id=PAD)
    for node in range(len(batch.node_token)):
        if batch.node_token[node] < 0:
            continue
        row, column = int(batch.node_row[node]), int(batch.node_col[node])
        prompt, before = list(queries[row].prompt_ids), list(prefix_of(batch, node)[:-1])
        if not before:
            assert column == len(prompt) - 1
            continue
        seen = batch.node_mask[row, column - batch.prompt_width].nonzero()[:, 0]
        assert batch.input_ids[row, seen].tolist() == prompt + before
        assert batch.position_ids[row, seen].tolist() == list(range(len(prompt) + len(before)))
        assert seen[-1] == column


def test_padding_is_inert():
    batch = pack(ragged_queries(), FRACTIONAL, pad_id=PAD)
    width = batch.prompt_width
    for row, length in enumerate(batch.prompt_lengths.tolist()):
        assert (batch.input_ids[row, length:width] == PAD).all()
        assert not batch.node_mask[row, :, length:width].any()
    assert batch.node_mask.any(dim=-1).all()  # no row of the mask is empty: softmax over nothing is NaN


def test_padding_asks_a_model_for_no_position_that_its_sequences_do_not_have():
    """Learned positions end somewhere, and a trie has more nodes side by side than a docID has tokens."""
    deep = TokenizedQuery("deep", [1] * 20, ["a"], [[5, EOS]], [2], [1])
    batch = pack([*ragged_queries(), deep], FRACTIONAL, pad_id=PAD)
    longest = max(len(q.prompt_ids) + max(map(len, q.docid_ids)) for q in [*ragged_queries(), deep])
    assert batch.input_ids.shape[1] > longest
    assert int(batch.position_ids.max()) < longest


def test_doc_paths_spell_the_docids_in_order():
    queries = ragged_queries(negatives=1)
    batch = pack(queries, FRACTIONAL, pad_id=PAD)
    spelled = [prefix_of(batch, int(path[path >= 0][-1])) for path in batch.doc_path]
    assert spelled == [tuple(ids) for query in queries for ids in query.docid_ids]
    assert batch.doc_query.tolist() == [row for row, query in enumerate(queries) for _ in query.docid_ids]
    assert batch.doc_rank.tolist() == [rank for query in queries for rank in query.ranks]
    assert batch.doc_negative.tolist() == [i == len(q.docids) - 1 for q in queries for i in range(len(q.docids))]


LOSSES = [
    TargetSettings(),
    TargetSettings(item="stepwise"),
    FRACTIONAL,
    TargetSettings(token="trie", beta=0.0),
    TargetSettings("fractional", 2.0, "trie", 1.0),
    *(TargetSettings(token="every_node", beta=2.0, visits=visits) for visits in ("mass", "uniform", "reach")),
]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=3),
    loss=st.sampled_from(LOSSES),
    count_terminator=st.booleans(),
    ties=st.booleans(),
)
def test_negatives_change_nothing_that_the_loss_sees(seed, sizes, loss, count_terminator, ties):
    """Node by node, to the bit: weights, targets and ranks of the trie without them, and 0 beyond it."""
    queries = [
        random_query(seed + place, docs=docs, negatives=negatives, count_terminator=count_terminator)
        for place, (docs, negatives) in enumerate(sizes)
    ]
    if ties:
        queries = [replace(query, ranks=[max(1, rank - rank % 3) for rank in query.ranks]) for query in queries]
    whole, listed = (
        pack(queries, loss, pad_id=PAD),
        pack([without_negatives(query) for query in queries], loss, pad_id=PAD),
    )
    assert whole.num_points == listed.num_points
    for name, rest in (("node_weights", 0.0), ("node_target", 0.0), ("node_rank", UNLISTED)):
        expected = {place: value.item() for place, value in by_place(listed, getattr(listed, name))}
        for place, value in by_place(whole, getattr(whole, name)):
            assert value.item() == expected.pop(place, rest), (name, place)
        assert not expected
    pruned, alone = (pack(part, loss, prune=True, pad_id=PAD) for part in (queries, map(without_negatives, queries)))
    assert torch.equal(pruned.node_weights, alone.node_weights)
    assert torch.equal(pruned.input_ids, alone.input_ids), "negatives cost nothing where no objective looks at them"


def test_pruning_drops_exactly_what_has_no_weight():
    queries = ragged_queries()
    for loss in (TargetSettings(), TargetSettings(token="trie", beta=1.0), FRACTIONAL):
        whole, pruned = pack(queries, loss, pad_id=PAD), pack(queries, loss, prune=True, pad_id=PAD)
        weights = [
            {(int(b.node_row[n]), prefix_of(b, n)): float(b.node_weights[n]) for n in range(len(b.node_token))}
            for b in (whole, pruned)
        ]
        kept = {key: value for key, value in weights[0].items() if value > 0 or key[1] == ()}
        assert weights[1] == kept
    top = pack(queries, TargetSettings(), prune=True, pad_id=PAD)
    assert top.doc_rank.tolist() == [1, 1, 1]
    assert top.node_mask.shape[1] == max(len(query.docid_ids[0]) for query in queries) - 1


def test_equal_ids_name_both_docids_and_the_query():
    query = TokenizedQuery("q7", [1, 5], ["ab", "a b", "c"], [[3, EOS], [3, EOS], [4, EOS]], [2, 2, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"query 'q7'.*'ab' and 'a b'.*same token ids"):
        pack([query], FRACTIONAL, pad_id=PAD)


def test_moving_a_batch_moves_every_tensor():
    batch = pack(ragged_queries(), FRACTIONAL, pad_id=PAD).to("meta")
    tensors = [
        value for value in (getattr(batch, name) for name in batch.__dataclass_fields__) if torch.is_tensor(value)
    ]
    assert len(tensors) >= 12
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch.query_ids == ("q1", "q2", "q3")
