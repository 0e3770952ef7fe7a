"""`model.generate` with the trie's processor: never an invalid docID, and the sequences and scores of `decoding`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoical.decoding.beam_search import beam_search, greedy
from stoical.decoding.device_trie import DeviceTrie
from stoical.decoding.logits_processor import TrieLogitsProcessor
from stoical.trie.prefix_tree import build_trie
from tests.support.decoding_reference import Case, plain_greedy
from tests.support.random_queries import random_docids
from tests.support.tiny_model import EOS, VOCAB, tiny_model

MODEL = tiny_model().eval()
PAD = 0
JUNK = -1e8  # `generate` scores rows that are no results with -1e9


def generate(prompts: list[list[int]], docids: Sequence[Sequence[int]] | None, model=MODEL, **options):
    """[rows] (generated tokens, padding and EOS cut off; score or None), with `docids` as the constraint if given."""
    input_ids = torch.tensor(prompts)
    limits = {"max_new_tokens": 6, "pad_token_id": PAD, "eos_token_id": EOS, "do_sample": False}
    limits |= {"return_dict_in_generate": True, "output_scores": True}
    if docids is not None:
        trie = DeviceTrie.from_trie(build_trie(docids))
        limits["logits_processor"] = [TrieLogitsProcessor(trie, input_ids.shape[1], EOS)]
    output = model.generate(input_ids, attention_mask=torch.ones_like(input_ids), **(limits | options))
    rows = [until_eos(row) for row in output.sequences[:, input_ids.shape[1] :].tolist()]
    scores = output.get("sequences_scores")
    return list(zip(rows, [None] * len(rows) if scores is None else scores.tolist(), strict=True))


def until_eos(tokens: list[int]) -> tuple[int, ...]:
    """The tokens before the first EOS; with none, all of them and a mark that nothing valid has."""
    return tuple(tokens[: tokens.index(EOS)]) if EOS in tokens else (*tokens, -1)


def bare(docids: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    return [tuple(token for token in ids if token != EOS) for ids in docids]


def random_prompts(rng: np.random.Generator, rows: int) -> list[list[int]]:
    return rng.integers(3, VOCAB, size=(rows, rng.integers(1, 12))).tolist()


def plainly_allowed(docids: Sequence[Sequence[int]], generated: Sequence[int]) -> set[int]:
    """Tokens that continue a docID after `generated`; EOS where one ends, and after anything that is no prefix."""
    step = len(generated)
    ongoing = [ids for ids in docids if list(ids[:step]) == list(generated)]
    allowed = {ids[step] for ids in ongoing if len(ids) > step}
    return allowed | ({EOS} if any(len(ids) == step for ids in ongoing) or not ongoing else set())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=8, unique_by=tuple),
    st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(0, 2),
)
def test_the_constraint_is_that_of_a_plain_lookup(docids, generated, length, prompt):
    """Any rows: prefixes, whole docIDs, docIDs with padding after them, and tokens that are in no docID."""
    rows = torch.tensor(generated)[:, :length].reshape(len(generated), length)
    input_ids = torch.cat([torch.full((len(rows), prompt), 5), rows], dim=1)
    scores = torch.randn(len(rows), 9, generator=torch.Generator().manual_seed(0))
    found = TrieLogitsProcessor(DeviceTrie.from_trie(build_trie(docids)), prompt, EOS)(input_ids, scores.clone())
    for row, tokens in enumerate(rows.tolist()):
        allowed = plainly_allowed(docids, tokens)
        assert set(found[row].isfinite().nonzero()[:, 0].tolist()) == allowed
        assert all(found[row, token] == scores[row, token] for token in allowed)


def check_greedy_equals_generate(seed: int) -> int:
    """How many of four prompts were compared: not those where two tokens are as good as equally likely."""
    rng = np.random.default_rng(seed)
    docids = random_docids(rng, int(rng.integers(1, 12)))
    trie, compared = DeviceTrie.from_trie(build_trie(docids)), 0
    prompts = random_prompts(rng, 4)
    for prompt, (tokens, _) in zip(prompts, generate(prompts, docids), strict=True):
        _, gap = plain_greedy(MODEL, Case(prompt, [tuple(ids) for ids in docids], [len(ids) for ids in docids], "mean"))
        if gap > 1e-5:
            compared += 1
            assert tokens == bare(docids)[greedy(MODEL, prompt, trie).doc]
    return compared


@pytest.mark.parametrize("seed", range(10))
def test_greedy_is_generates(seed):
    assert check_greedy_equals_generate(seed) == 4


@pytest.mark.parametrize(("reduction", "penalty"), [("sum", 0.0), ("mean", 1.0)])
@pytest.mark.parametrize("seed", range(6))
def test_beams_that_hold_the_frontier_are_generates(reduction, penalty, seed):
    rng = np.random.default_rng(seed)
    docids, prompts, beams = random_docids(rng, 10), random_prompts(rng, 1), 30
    options = {"num_beams": beams, "num_return_sequences": beams, "length_penalty": penalty, "early_stopping": "never"}
    theirs = [row for row in generate(prompts, docids, **options) if row[1] > JUNK]
    ours = beam_search(MODEL, prompts[0], DeviceTrie.from_trie(build_trie(docids)), beams, reduction)
    assert [tokens for tokens, _ in theirs] == [bare(docids)[found.doc] for found in ours]
    assert [score for _, score in theirs] == pytest.approx([found.score for found in ours], abs=1e-5)


@pytest.mark.parametrize("beams", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_narrow_beams_are_generates_where_docids_are_equally_long(beams, seed):
    rng = np.random.default_rng(seed)
    docids = [[*ids, EOS] for ids in np.unique(rng.integers(3, 8, size=(40, 3)), axis=0).tolist()]
    prompts = random_prompts(rng, 1)
    options = {"num_beams": beams, "num_return_sequences": beams, "length_penalty": 0.0}
    theirs = generate(prompts, docids, **options)
    ours = beam_search(MODEL, prompts[0], DeviceTrie.from_trie(build_trie(docids)), beams, "sum")
    assert [tokens for tokens, _ in theirs] == [bare(docids)[found.doc] for found in ours]
    assert [score for _, score in theirs] == pytest.approx([found.score for found in ours], abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_narrow_beams_find_no_worse_than_generates_on_ragged_docids(seed):
    """`generate` drops a docID that ends outside its best beams, `beam_search` keeps it; live beams are the same."""
    rng = np.random.default_rng(seed)
    docids, prompts, beams = random_docids(rng, 30), random_prompts(rng, 1), 3
    options = {"num_beams": beams, "num_return_sequences": beams, "length_penalty": 0.0, "early_stopping": "never"}
    theirs = [score for _, score in generate(prompts, docids, **options) if score > JUNK]
    ours = beam_search(MODEL, prompts[0], DeviceTrie.from_trie(build_trie(docids)), beams, "sum")
    assert len(ours) >= len(theirs)
    for found, score in zip(ours, theirs, strict=False):
        assert found.score >= score - 1e-5


def test_docids_without_terminator_end_where_generate_writes_eos():
    docids = [[3], [3, 4], [3, 4, 5], [6, 3]]
    rng = np.random.default_rng(0)
    options = {"num_beams": 8, "num_return_sequences": 8, "early_stopping": "never"}
    rows = [row for row in generate(random_prompts(rng, 1), docids, **options) if row[1] > JUNK]
    assert sorted(tokens for tokens, _ in rows) == sorted(bare(docids))


def test_a_batch_of_padded_prompts_is_decoded_as_its_rows():
    """Left padding is part of the prompt's length, as `generate` counts it."""
    rng = np.random.default_rng(1)
    docids, short = random_docids(rng, 9), [7, 8]
    long = rng.integers(3, VOCAB, size=6).tolist()
    input_ids = torch.tensor([[PAD] * 4 + short, long])
    trie = DeviceTrie.from_trie(build_trie(docids))
    output = MODEL.generate(
        input_ids,
        attention_mask=(input_ids != PAD).long(),
        logits_processor=[TrieLogitsProcessor(trie, 6, EOS)],
        max_new_tokens=6,
        pad_token_id=PAD,
        do_sample=False,
    )
    for row, prompt in zip(output[:, 6:].tolist(), (short, long), strict=True):
        assert until_eos(row) == bare(docids)[greedy(MODEL, prompt, trie).doc]


def count_invalid(tries: int, rows: int) -> dict[str, tuple[int, int]]:
    """(invalid, decoded) of an untrained model by kind of decode, half of the tries without terminators."""
    counts: dict[str, list[int]] = {}
    rng = np.random.default_rng(0)
    kinds = {
        "unconstrained greedy": (False, {}),
        "greedy": (True, {}),
        "sampling": (True, {"do_sample": True, "top_k": 0}),
        "beams": (True, {"num_beams": 4, "num_return_sequences": 4}),
    }
    torch.manual_seed(0)
    for index in range(tries):
        docids = random_docids(rng, int(rng.integers(1, 12)), terminated=index % 2 == 0)
        prompts, valid = random_prompts(rng, rows), set(bare(docids))
        for kind, (constrained, options) in kinds.items():
            for tokens, score in generate(prompts, docids if constrained else None, **options):
                if score is None or score > JUNK:
                    counted = counts.setdefault(kind, [0, 0])
                    counted[0] += tokens not in valid
                    counted[1] += 1
    return {kind: (invalid, decoded) for kind, (invalid, decoded) in counts.items()}


def check_validity(counts: dict[str, tuple[int, int]], decodes: int) -> None:
    for kind, (invalid, decoded) in counts.items():
        print(f"{kind}: {invalid} of {decoded} decodes invalid ({invalid / decoded:.2%})")
    invalid, decoded = counts.pop("unconstrained greedy")
    assert invalid / decoded > 0.9
    assert all(invalid == 0 for invalid, _ in counts.values())
    assert sum(decoded for _, decoded in counts.values()) >= decodes


def test_no_decode_is_invalid():
    check_validity(count_invalid(tries=30, rows=5), 300)


@pytest.mark.slow
def test_no_decode_of_10000_is_invalid():
    check_validity(count_invalid(tries=200, rows=25), 10_000)


@pytest.mark.slow
def test_greedy_is_generates_on_1000_decodes():
    assert sum(check_greedy_equals_generate(1000 + seed) for seed in range(250)) > 990
