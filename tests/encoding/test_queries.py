"""stoical/queries.py: what is cut from a query that is too long, what negatives and ties become, and the shuffle.

The tokenizer here makes one token a word, so that every length can be counted by hand: `<s> deer :` are 3 tokens, the
first document one more and each further one two (`| name`); a docID of one word has 2 tokens, EOS included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import permutations

import pytest

from stoical.data.rows import Doc, RankingRow
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.queries import EncodedDataset, with_drawn_ties
from stoical.trie.node_weights import TargetSettings
from tests.support.word_encoder import EOS, NAMES, WORDS, encoder, prompt_docs, row


def test_a_query_that_fits_is_whole() -> None:
    query = encoder(max_length=12).encode(row("d1", "d2", "d3", "d4"))
    assert len(query.prompt_ids) == 10
    assert prompt_docs(query) == {"d1", "d2", "d3", "d4"}
    assert query.query_id == "q7"
    assert query.docids == ["d1", "d2", "d3", "d4"]
    assert query.docid_ids == [[WORDS.index(name), EOS] for name in query.docids]
    assert (query.ranks, query.counted) == ([1, 2, 3, 4], [2, 2, 2, 2])
    assert (query.num_negatives, query.num_dropped) == (0, 0)


def test_the_terminator_may_not_count() -> None:
    query = encoder(count=False).encode(row("d1", "d2 long"))
    assert [len(ids) for ids in query.docid_ids] == [2, 3]
    assert query.counted == [1, 2]


@pytest.mark.parametrize(("max_length", "kept"), [(12, 4), (11, 3), (10, 3), (9, 2), (8, 2), (7, 1), (6, 1)])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_whole_documents_are_dropped_the_lowest_ranked_first(max_length: int, kept: int, epoch: int) -> None:
    query = encoder(max_length).encode(row("d1", "d2", "d3", "d4"), epoch)
    assert prompt_docs(query) == set(query.docids) == set(NAMES[:kept]), "prompt and trie lose the same ones"
    assert query.docids == NAMES[:kept]
    assert query.ranks == list(range(1, kept + 1))
    assert len(query.docid_ids) == len(query.counted) == kept
    assert query.num_dropped == 4 - kept
    assert len(query.prompt_ids) + 2 <= max_length


def test_no_more_documents_are_dropped_than_need_be() -> None:
    """Eight documents make 18 tokens, 20 with a docID; the ninth is long, and goes alone, its long docID with it."""
    last = "d9" + 9 * " long"
    query = encoder(max_length=20).encode(row(*NAMES[:8], last))
    assert query.num_dropped == 1
    assert query.docids == NAMES[:8]


def test_the_longest_docid_counts_too() -> None:
    """The prompt `<s> deer : d1 long long | d2` has 8 tokens and d1's docID 4: 12 in all."""
    long = row("d1 long long", "d2")
    assert encoder(max_length=12).encode(long).num_dropped == 0
    assert encoder(max_length=11).encode(long).num_dropped == 1
    with_negative = row("d1", "d2", negatives=("stone long long",))  # 6 + 4
    assert encoder(max_length=10).encode(with_negative, negatives=True).num_dropped == 0
    assert encoder(max_length=9).encode(with_negative, negatives=True).num_dropped == 1
    assert encoder(max_length=9).encode(with_negative).num_dropped == 0, "training does not see the negative"


def test_a_top_document_that_does_not_fit_is_an_error_naming_the_query() -> None:
    for docids in (["d1"], ["d1", "d2", "d3"]):
        with pytest.raises(
            ValueError, match="query 'q7': the prompt with its top document alone is 4 tokens"
        ) as caught:
            encoder(max_length=5).encode(row(*docids))
        assert "prompt.max_length=5 leaves 3" in str(caught.value)


def test_a_docid_that_makes_no_tokens_names_the_query() -> None:
    with pytest.raises(ValueError, match="query 'q7': docID ' ' tokenizes to nothing"):
        encoder().encode(row("d1", " "))
    with pytest.raises(ValueError, match="query 'q7': docID 'fish' has characters"):
        encoder().encode(row("d1", negatives=("fish",)), negatives=True)


def test_dropped_documents_are_counted_in_the_batch() -> None:
    collate = TrieTargetCollator(TargetSettings(), pad_id=0, prune=False)
    make = encoder(max_length=8)
    batch = collate([make.encode(row("d1", "d2", "d3", "d4")), make.encode(row("d5", "d6", "d7"))])["batch"]
    assert batch.num_dropped == 2 + 1


@pytest.mark.parametrize("epoch", range(4))
def test_negatives_are_scored_but_never_in_the_prompt(epoch: int) -> None:
    with_negatives = row("d1", "d2", negatives=("stone", "d9"))
    query = encoder().encode(with_negatives, epoch, negatives=True)
    assert prompt_docs(query) == {"d1", "d2"}
    assert query.docids == ["d1", "d2", "stone", "d9"]
    assert query.docid_ids[2:] == [[WORDS.index("stone"), EOS], [WORDS.index("d9"), EOS]]
    assert (query.ranks, query.num_negatives) == ([1, 2, 3, 3], 2)
    trained = encoder().encode(with_negatives, epoch)
    assert (trained.docids, trained.num_negatives) == (["d1", "d2"], 0)
    assert trained.prompt_ids == query.prompt_ids


def test_negatives_stay_where_documents_are_dropped() -> None:
    query = encoder(max_length=8).encode(row("d1", "d2", "d3", "d4", negatives=("stone",)), negatives=True)
    assert (query.docids, query.ranks, query.num_dropped) == (["d1", "d2", "stone"], [1, 2, 3], 2)


def test_ranks_come_from_the_data_where_it_has_them() -> None:
    tied = row("d1", "d2", "d3", "d4", ranks=[1, 1, 3, 3], negatives=("stone",))
    assert encoder().encode(tied).ranks == [1, 1, 3, 3]
    assert encoder().encode(tied, negatives=True).ranks == [1, 1, 3, 3, 5]
    assert encoder(max_length=10).encode(tied).ranks == [1, 1, 3]


TIED = {"d1": 1, "d2": 2, "d3": 2, "d4": 2, "d5": 5, "d6": 5}


def listed(names: Iterable[str], query_id: str = "q7") -> RankingRow:
    docs = tuple(Doc(name, rank=TIED[name]) for name in sorted(names, key=TIED.__getitem__))
    return RankingRow(query_id, "deer", docs)


@pytest.mark.parametrize("max_length", [100, 10])
def test_the_files_order_of_tied_documents_reaches_nothing(max_length: int) -> None:
    """Prompt, docIDs and what truncation drops (10 tokens hold three documents) are the same for all 12 listings."""
    make = encoder(max_length)
    for epoch in range(5):
        found = [make.encode(listed(order), epoch) for order in permutations(TIED)]
        assert all(query == found[0] for query in found)
        assert found[0].ranks == [1, 2, 2, 2, 5, 5][: len(found[0].docids)]


def test_which_of_tied_documents_truncation_drops_is_drawn_evenly() -> None:
    """Three of d1 and the three tied ones fit: each of the latter is dropped in a third of the queries and epochs."""
    make, rows = encoder(max_length=10), [listed(TIED, f"q{i}") for i in range(30)]
    kept = Counter(name for each in rows for epoch in range(20) for name in make.encode(each, epoch).docids)
    assert kept["d1"] == 600
    assert set(kept) == {"d1", "d2", "d3", "d4"}
    assert all(abs(kept[name] - 400) < 50 for name in ("d2", "d3", "d4"))  # 4 standard deviations of 11.5


def test_documents_of_different_ranks_stay_as_they_are_listed() -> None:
    untied = row("d3", "d1", "d2")
    assert with_drawn_ties(untied, 0, 0) is untied


def test_docid_ids_do_not_depend_on_the_prompt() -> None:
    docs = row("d1 long", "d2")
    one, other = encoder(prompt="{docs} {query} :"), encoder(prompt="long {query} : {docs} |")
    assert one.encode(docs).prompt_ids != other.encode(docs).prompt_ids
    assert one.encode(docs).docid_ids == other.encode(docs).docid_ids


def test_every_epoch_shuffles_anew_and_the_same_epoch_alike() -> None:
    rows = [RankingRow(f"q{i}", "deer", tuple(Doc(name) for name in NAMES)) for i in range(3)]
    dataset, again = EncodedDataset(rows, encoder()), EncodedDataset(rows, encoder())
    assert len(dataset) == 3
    epochs = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        epochs.append([dataset[i] for i in range(3)])
    again.set_epoch(1)
    assert [again[i].prompt_ids for i in range(3)] == [query.prompt_ids for query in epochs[1]]
    orders = {tuple(query.prompt_ids) for queries in epochs for query in queries}
    assert len(orders) == 9, "each query in each epoch has its own of the 9! orders"
    for queries in epochs:
        assert all(query.docids == NAMES and query.ranks == list(range(1, 10)) for query in queries)
        assert all(prompt_docs(query) == set(NAMES) for query in queries)
    other_seed = EncodedDataset(rows, encoder(seed=1))
    assert other_seed[0].prompt_ids != epochs[0][0].prompt_ids


def test_an_encoded_split_has_negatives_only_where_asked() -> None:
    rows = [row("d1", "d2", negatives=("stone",))]
    assert EncodedDataset(rows, encoder())[0].num_negatives == 0
    assert EncodedDataset(rows, encoder(), negatives=True)[0].num_negatives == 1
