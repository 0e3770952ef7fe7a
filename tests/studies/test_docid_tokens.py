"""studies/capacity/docid_tokens.py and `stoical capacity` on a model: ranks, nodes, and dead tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from peft import AutoPeftModelForCausalLM, LoraConfig
from safetensors.torch import load_file, save_file
from scipy.optimize import linprog

from stoical.commands.capacity import docid_lists, layer_of
from stoical.runs.find import find_checkpoint, load_checkpoint
from stoical.studies.capacity.docid_tokens import (
    Families,
    OutputLayer,
    can_win,
    dead_tokens,
    families_of,
    model_capacity,
    trie_capacity,
    wins_by_itself,
)
from stoical.trie.prefix_tree import build_trie
from tests.support.tiny_run import save_adapter

Cli = Callable[..., tuple[int, str, str]]


def by_linear_program(weights: np.ndarray, bias: np.ndarray, token: int) -> bool:
    """True where some hidden vector makes the token's logit the greatest: the widest lead is positive.

    The hidden vector, its scale and the lead are bounded; a lead at any scale is one at this.
    """
    n = weights.shape[1]
    rows = np.delete(weights[token] - weights, token, axis=0)
    gaps = np.delete(bias[token] - bias, token)
    constraints = -np.hstack([rows, gaps[:, None], -np.ones((len(rows), 1))])
    goal = np.eye(n + 2)[-1]
    bounds = [(-1, 1)] * n + [(1e-6, 1), (None, 1)]
    found = linprog(-goal, A_ub=constraints, b_ub=np.zeros(len(rows)), bounds=bounds)
    return bool(-found.fun > 1e-9)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_dead_tokens_are_those_of_a_linear_program(n: int, biased: bool) -> None:
    random = np.random.default_rng(n)
    weights = random.normal(size=(25, n))
    bias = random.normal(size=25) * biased
    expected = [i for i in range(25) if not by_linear_program(weights, bias, i)]
    assert dead_tokens(weights, bias if biased else None, np.arange(25)) == expected
    assert 0 < len(expected) < 25
    sure = wins_by_itself(weights, np.arange(25))
    assert not set(np.flatnonzero(sure)) & set(expected)


def test_many_rivals_are_taken_in_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoical.studies.capacity.docid_tokens.RIVALS", 2)
    weights = np.random.default_rng(0).normal(size=(60, 3))
    for token in range(60):
        assert can_win(weights, None, token) == by_linear_program(weights, np.zeros(60), token)


def test_in_the_hull_of_others_or_equal_to_another_a_token_is_dead() -> None:
    weights = np.random.default_rng(1).normal(size=(12, 16))
    assert dead_tokens(weights, None, np.arange(12)) == []
    weights[3] = weights[[0, 1, 5]].mean(axis=0)
    weights[7] = weights[8]
    assert dead_tokens(weights, None, np.arange(12)) == [3, 7, 8]
    assert dead_tokens(weights, None, np.array([3, 4])) == [3]
    assert dead_tokens(weights, np.eye(12)[3], np.arange(12)) == [7, 8], "a bias of its own lifts it"


def test_nodes_by_hand() -> None:
    weights = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1], [2, 0], [5, 3]])
    lists = [[(0, 1), (0, 2), (1, 5)], [(0, 1), (1, 5), (2, 5), (3, 5)], [(0, 5), (1, 5), (4, 5)], [(1, 5)]]
    found = model_capacity(OutputLayer(2, weights), lists)
    assert (found.docids, found.tokens, found.rank, found.hidden) == (7, 6, 3, 2)
    # all docIDs: the root has 5 children, 0 has (1, 2, 5), 1, 2, 3 and 4 have 5
    assert (found.corpus.tries, found.corpus.nodes, found.corpus.largest) == (1, 6, 5)
    assert (found.corpus.above_rank, found.corpus.bound, found.corpus.tries_bound) == (1, 1, 1)
    # lists: roots (0, 1), (0, 1, 2, 3), (0, 1, 4), (1); 0, 1 and 4 lie on a line, so that 1 cannot be first
    assert (found.lists.nodes, found.lists.largest, found.lists.median_largest) == (3 + 5 + 4 + 2, 4, 2.5)
    assert (found.lists.above_rank, found.lists.bound, found.lists.tries_bound) == (1, 2, 2)
    assert found.dead_among_docids == [1, 3], "halfway from 0 to 4; within 2, 4 and 5"
    assert [not by_linear_program(weights, np.zeros(6), i) for i in range(6)] == [
        False,
        True,
        False,
        True,
        False,
        False,
    ]


def test_without_weights_the_shape_bounds_the_rank() -> None:
    lists = [[(0, 9), (1, 9), (2, 9), (3, 9)], [(0, 9), (1, 9)]]
    found = model_capacity(OutputLayer(2), lists)
    assert (found.rank, found.tokens, found.corpus.bound, found.lists.tries_bound) == (3, 5, 1, 1)
    assert found.dead_among_docids is found.dead_in_vocabulary is None
    assert model_capacity(OutputLayer(10), lists).rank == 5


def test_families_are_the_children_of_inner_nodes() -> None:
    trie = build_trie([(1,), (1, 2), (1, 3), (4, 2)])
    assert [tokens.tolist() for tokens in families_of(trie)] == [[1, 4], [2, 3], [2]]
    layer = OutputLayer(2, np.array([[0.0, 0], [1, 1], [2, 2], [2, 2], [3, 3]]))
    assert [Families(layer, 2).are_free(tokens) for tokens in families_of(trie)] == [True, False, True]
    assert trie_capacity([[(1,), (1, 2), (1, 3), (4, 2)]], Families(layer, 2)).bound == 1


@pytest.fixture
def planted(trained: Path, tmp_path: Path) -> tuple[Path, int]:
    """A copy of the trained run, and a docID token of it whose row is now the mean of all other docID tokens'."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (checkpoint,) = run.glob("checkpoint-*")
    (checkpoint / "resume.json").unlink()  # it has the sums of the files
    recipe, _ = load_checkpoint(find_checkpoint(str(run)), {})
    token, *others = {token for docids in docid_lists(recipe) for ids in docids for token in ids}
    weights = load_file(checkpoint / "model.safetensors")
    head = weights["model.embed_tokens.weight"]
    head[token] = head[others].mean(dim=0)
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    return run, token


def test_a_checkpoint_with_a_planted_dead_token(planted: tuple[Path, int], trained: Path, cli: Cli) -> None:
    run, token = planted
    code, out, err = cli("capacity", f"checkpoint={run}", f"output={run / 'measured'}")
    assert code == 0, err
    found = json.loads((run / "measured" / "capacity.json").read_text())
    assert token in found["dead_among_docids"] and token in found["dead_in_vocabulary"]
    assert f"most probable docID token: {len(found['dead_among_docids']):,}: " in out
    assert (found["hidden"], found["lists"]["tries"]) == (16, 30)
    assert found["rank"] == min(found["tokens"], 17)

    (checkpoint,) = run.glob("checkpoint-*")
    head = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"].double().numpy()
    recipe, _ = load_checkpoint(find_checkpoint(str(run)), {})
    tokens = sorted({token for docids in docid_lists(recipe) for ids in docids for token in ids})
    among = [
        each for place, each in enumerate(tokens) if not by_linear_program(head[tokens], np.zeros(len(tokens)), place)
    ]
    assert found["dead_among_docids"] == among

    assert cli("capacity", f"checkpoint={trained}", f"output={run / 'before'}")[0] == 0
    before = json.loads((run / "before" / "capacity.json").read_text())
    assert token not in before["dead_among_docids"]


def test_a_recipe_is_measured_by_its_shape(trained: Path, tmp_path: Path, cli: Cli) -> None:
    data = f"data.path={trained.parent / 'data'}"
    words = ["recipe=wordnet_ntp,small", data, "tokenizer.vocab_size=300", f"output={tmp_path / 'shape'}"]
    code, out, err = cli("capacity", *words, "model.config.hidden_size=16", "model.config.head_dim=8")
    assert code == 0, err
    found = json.loads((tmp_path / "shape" / "capacity.json").read_text())
    assert (found["hidden"], found["dead_among_docids"]) == (16, None)
    assert "at most (the weights were not read)" in out


@pytest.mark.slow
def test_wordnet_s_docids_in_mistral_s_tokens(tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("mistral_common")
    assert cli("prepare", "wordnet", f"out={tmp_path / 'wordnet'}")[0] == 0
    words = ["recipe=wordnet_ntp", f"data.path={tmp_path / 'wordnet'}", f"output={tmp_path / 'out'}"]
    assert cli("capacity", *words)[0] == 0
    found = json.loads((tmp_path / "out" / "capacity.json").read_text())
    assert (found["docids"], found["tokens"], found["hidden"], found["rank"]) == (16_899, 7_800, 4_096, 4_097)
    assert (found["corpus"]["largest"], found["corpus"]["above_rank"]) == (4_682, 1)
    assert (found["lists"]["tries"], found["lists"]["largest"], found["lists"]["tries_bound"]) == (82_114, 19, 0)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of peft: the layer is tied to the embeddings
def test_an_adapter_on_the_output_layer_is_in_it(trained: Path, tmp_path: Path) -> None:
    run = save_adapter(trained, tmp_path / "run", LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
    checkpoint = find_checkpoint(str(run))
    layer = layer_of(*load_checkpoint(checkpoint, {}))
    merged = AutoPeftModelForCausalLM.from_pretrained(checkpoint).merge_and_unload().lm_head.weight.detach().double()
    assert layer.weights is not None
    assert layer.bias is None
    np.testing.assert_allclose(layer.weights, merged.numpy(), rtol=1e-5, atol=1e-6)
    base = load_file(trained / "checkpoint-3" / "model.safetensors")["model.embed_tokens.weight"].double().numpy()
    assert np.abs(layer.weights - base).max() > 1e-3
