"""Training on ranking losses and on weighted data: exact however a batch is cut, and what cannot be trained on."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from stoical.build.encoder import build_tokenizer
from stoical.build.model import build_config, meta_model
from stoical.data.dataset import load_split
from stoical.objectives.objective import normalizer
from stoical.objectives.ranking.term import RankingTerm
from stoical.objectives.settings import LossSettings
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.training.build import build_trainer
from stoical.training.memory import step_memory
from stoical.training.memory_fit import run_memory
from stoical.trie.node_weights import TargetSettings
from tests.support.contexts import Context
from tests.support.gradients import first_gradient
from tests.support.made_up import logprobs_by_prefix, made_up_logprobs
from tests.support.packed import pack, prefix_of
from tests.support.random_queries import random_query
from tests.support.reference import stoical_loss
from tests.support.small_data import write_dataset
from tests.support.tiny_recipe import tiny_lora, tiny_recipe

SETTINGS = [
    TargetSettings("fractional", 2.0),
    TargetSettings(token="trie", beta=1.0),
    TargetSettings("fractional", 2.0, "trie", 2.0),
    TargetSettings("indicator"),
]
ONE = ("training.max_steps=1", "training.max_grad_norm=0")


def rewrite(directory, change, split="train"):
    """The split with every row changed by a function of its place and itself; None leaves it out."""
    if not directory.exists():
        write_dataset(directory)
    path = directory / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [change(place, row) for place, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in changed if row is not None))


def weighted(place, row):
    """Weights of rows and documents, among them 0 and no weight at all."""
    docs = [doc | {"weight": float((place + k) % 3)} if place % 2 else doc for k, doc in enumerate(row["docs"])]
    return row | {"docs": docs} | ({"weight": place % 4 / 2} if place % 3 else {})


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("wordnet_alpha2", ["loss.normalizer=points"]),
        ("wordnet_alpha2_beta2", ["loss.normalizer=queries", "loss.ranking=list_mle", "loss.ranking_weight=0.5"]),
        ("wordnet_ranking", ["loss.ranking=policy_gradient", "loss.ranking_samples=4"]),
        ("wordnet_ranking", ["loss.ranking=softmax_dpo", "data.num_negatives=6"]),
    ],
)
def test_accumulation_changes_nothing(tmp_path, recipe, words, monkeypatch):
    """1 x 8 = 2 x 4 = 8 x 1 on weighted rows; orders that are drawn belong to the query, not to the batch."""
    monkeypatch.setattr("stoical.objectives.ranking.plackett_luce.EXACT", 3)
    rewrite(tmp_path / "data", weighted)
    sizes = {}
    for size in (8, 4, 1):
        own = [f"training.per_device_train_batch_size={size}", *words]
        sizes[size] = first_gradient(tiny_recipe(tmp_path, *ONE, *own, recipe=recipe))
    assert sizes[8].norm() > 1e-3
    for size in (4, 1):
        assert (sizes[size] - sizes[8]).norm() < 1e-6 * max(1, sizes[8].norm())


@pytest.mark.parametrize("kind", ["queries", "points", "weights"])
@pytest.mark.parametrize("settings", [*SETTINGS, TargetSettings(token="every_node", beta=2.0, visits="mass")], ids=str)
def test_a_row_of_weight_2_counts_as_two(settings, kind):
    """The loss over its normalizer: rows of weight 2, 1 and 0 against the first one twice and the second."""
    queries = [random_query(seed, docs=docs) for seed, docs in ((1, 4), (2, 2), (3, 5))]
    weighted = [
        dataclasses.replace(query, weight=weight) for query, weight in zip(queries, (2.0, 1.0, 0.0), strict=True)
    ]
    found = []
    for own in (weighted, [queries[0], queries[0], queries[1]]):
        batch, logprobs = pack(own, settings), logprobs_by_prefix(own)
        loss = SToICaLLoss(settings)(Context(batch, logprobs, 0)).loss_sum
        ranking = RankingTerm(LossSettings(ranking="list_mle"))(Context(batch, logprobs, 0)).loss_sum
        total = normalizer(batch, kind).item()
        found.append([loss.item() / total, ranking.item() / total])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_document_of_weight_2_counts_as_two(settings):
    """The paper's loss by loops over a list that holds each document as often as its weight says."""
    import dataclasses

    from tests.support.random_queries import random_query

    query = dataclasses.replace(random_query(3, docs=5), doc_weights=[2.0, 0.0, 1.0, 3.0, 2.0], weight=0.5)
    batch = pack([query], settings)
    logprobs = made_up_logprobs(batch).requires_grad_()
    table = {prefix_of(batch, node): logprobs[node] for node in range(1, len(logprobs))}

    class Steps(dict):
        """log p of the tokens after a prefix."""

        def __init__(self, prefix):
            super().__init__()
            self.prefix = prefix

        def __missing__(self, token):
            return table[*self.prefix, token]

    copies = [
        (tuple(ids), rank)
        for ids, rank, count in zip(query.docid_ids, query.ranks, query.doc_weights, strict=True)
        for _ in range(int(count))
    ]
    words = {"item": settings.item, "token": settings.token, "alpha": settings.alpha or 0, "beta": settings.beta or 0}
    expected = stoical_loss(Steps, [ids for ids, _ in copies], [rank for _, rank in copies], **words)
    found = SToICaLLoss(settings)(Context(batch, logprobs, 0)).loss_sum
    assert found.item() == pytest.approx(0.5 * expected.item(), rel=1e-6)
    points = 2 if settings.item == "indicator" else 8
    assert normalizer(batch, "points").item() == 0.5 * points
    assert normalizer(batch, "queries").item() == 0.5


def test_a_batch_that_weighs_nothing_trains_nothing(tmp_path):
    rewrite(tmp_path / "data", lambda place, row: row | {"weight": 0})
    gradient = first_gradient(tiny_recipe(tmp_path, *ONE))
    assert gradient.norm() == 0


@pytest.mark.parametrize("name", ["list_dpo", "lambda_loss", "info_nce", "margin_mse", "rank_distil"])
def test_a_loss_trains(tmp_path, name):
    rewrite(tmp_path / "data", scored)
    words = [f"loss.ranking={name}", "training.logging_steps=1"]
    words += ["data.num_negatives=3"] * (name == "info_nce")
    trainer = build_trainer(tiny_recipe(tmp_path, *words, recipe="wordnet_ranking"))
    before = trainer.model.get_input_embeddings().weight.detach().clone()
    trainer.train()
    assert not torch.equal(trainer.model.get_input_embeddings().weight, before)
    logs = [row["ranking_loss"] for row in trainer.state.log_history if "ranking_loss" in row]
    assert len(logs) == 3
    assert all(map(torch.isfinite, torch.tensor(logs)))


def scored(place, row):
    """With a teacher's scores of all documents."""
    return row | {"docs": [doc | {"teacher_score": -1.5 * k} for k, doc in enumerate(row["docs"])]}


@pytest.mark.parametrize("make", [tiny_recipe, tiny_lora], ids=["copy", "adapters off"])
def test_the_reference_is_the_model_before_training(tmp_path, make):
    """After steps that moved the model, the reference gives what it gave at first, and the model trains on."""
    words = ["loss.ranking=list_dpo", "loss.normalizer=queries", "loss.item=indicator", "loss.alpha=null"]
    trainer = build_trainer(make(tmp_path, *words, "training.learning_rate=0.01"))
    batch = next(iter(trainer.get_train_dataloader()))["batch"]
    model = trainer.model

    def both():
        with torch.no_grad():
            ours = trainer._predict(model, batch).logprobs
        return ours, trainer._refer(model, batch).logprobs

    ours, reference = both()
    assert torch.equal(ours, reference)
    trainer.train()
    moved, same = both()
    assert torch.equal(same, reference)
    assert not torch.allclose(moved, reference, atol=1e-3)
    assert model.training
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_a_resumed_run_has_the_reference_of_its_start(tmp_path):
    words = ["loss.ranking=list_dpo", "training.learning_rate=0.01", "training.save_steps=2", "training.max_steps=2"]
    recipe = tiny_recipe(tmp_path, *words, recipe="wordnet_ranking")
    first = build_trainer(recipe)
    batch = next(iter(first.get_train_dataloader()))["batch"]
    reference = first._refer(first.model, batch).logprobs
    first.train()
    resumed = build_trainer(recipe)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert not torch.allclose(resumed._predict(resumed.model, batch).logprobs, reference, atol=1e-3)
    assert torch.equal(resumed._refer(resumed.model, batch).logprobs, reference)


def test_the_memory_estimate_counts_the_copy(tmp_path):
    """A frozen copy is as large as the weights; adapters need none."""
    for make, copies in ((tiny_recipe, 1), (tiny_lora, 0)):
        recipe = make(tmp_path, "loss.ranking=list_dpo", "loss.ranking_weight=1")
        tokenizer = build_tokenizer(recipe, load_split(recipe.data.path, "train"))
        config = build_config(recipe, tokenizer)
        batch = pack([random_query(1)])
        run = run_memory(recipe, meta_model(recipe, config), config, batch)
        parts = step_memory(run.shape, run.batch, run.setup)
        assert parts.get("reference", 0) == copies * parts["weights"]


def test_a_missing_teachers_score_is_named_with_its_line(tmp_path):
    rewrite(tmp_path / "data", lambda place, row: scored(place, row) if place != 4 else row)
    recipe = tiny_recipe(tmp_path, "loss.ranking=margin_mse", recipe="wordnet_ranking")
    with pytest.raises(ValueError, match=r"train\.jsonl:5: docs\[0\] .* has no 'teacher_score', and the loss learns"):
        build_trainer(recipe)


def test_mitigations_refuse_weights(tmp_path):
    rewrite(tmp_path / "data", weighted)
    with pytest.raises(ValueError, match=r"mitigations\.expected_reward does not read the weights"):
        build_trainer(tiny_recipe(tmp_path, overlays="small,expected_reward"))


def test_single_documents_leave_nothing_to_rank(tmp_path):
    rewrite(tmp_path / "data", lambda place, row: row | {"docs": row["docs"][:1]})
    recipe = tiny_recipe(tmp_path, recipe="wordnet_ranking")
    with pytest.raises(ValueError, match=r"loss\.ranking=list_mle compares the documents of a list, and every"):
        build_trainer(recipe)


def test_the_card_says_that_data_have_weights(tmp_path):
    rewrite(tmp_path / "data", weighted)
    trainer = build_trainer(tiny_recipe(tmp_path, recipe="wordnet_ranking"))
    card = trainer.card.render(3, [])
    assert "Queries and documents have weights in the training data" in card
    assert "the ranking loss list_mle" in card
