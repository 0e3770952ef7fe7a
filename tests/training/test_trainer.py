"""The trainer: one gradient however the global batch is cut, NaN, and what a run leaves behind."""

from __future__ import annotations

import importlib.metadata
import json
from datetime import UTC, datetime

import pytest
import torch
from transformers import AutoModelForCausalLM

import stoical.training.build
from stoical.common.files import file_sha256
from stoical.docids.table import DocIDTable
from stoical.evaluation.evaluator import Evaluator
from stoical.objectives.build import build_objectives
from stoical.objectives.objective import Objective, ObjectiveOutput
from stoical.runs.resume import resume_from
from stoical.training.build import build_trainer
from stoical.training.trainer import OBJECTIVES_FILE
from tests.support.gradients import first_gradient
from tests.support.packed import leaking
from tests.support.tiny_recipe import tiny_recipe
from tests.support.training import trained_run


@pytest.mark.parametrize("kind", ["queries", "points", "weights"])
@pytest.mark.parametrize("recipe", ["wordnet_alpha2", "wordnet_ntp", "wordnet_beta2"])
def test_accumulation_changes_nothing(tmp_path, kind, recipe):
    """1 x 8 = 2 x 4 = 8 x 1: the queries carry different numbers of docIDs, so a mean of means would show."""
    common = [f"loss.normalizer={kind}", "training.max_steps=1", "training.max_grad_norm=0"]
    whole = first_gradient(tiny_recipe(tmp_path, *common, "training.per_device_train_batch_size=8", recipe=recipe))
    assert whole.norm() > 1e-3
    for size in (4, 1):
        cut = first_gradient(
            tiny_recipe(tmp_path, *common, f"training.per_device_train_batch_size={size}", recipe=recipe)
        )
        assert (cut - whole).norm() < 1e-6 * max(1, whole.norm()), size


class TwoSets(torch.optim.SGD):
    """Trains weights whose doubles are to be used: as schedule-free optimizers, which train others than they give."""

    used = False

    def train(self) -> None:
        self._switch(to_used=False, factor=0.5)

    def eval(self) -> None:
        self._switch(to_used=True, factor=2.0)

    @torch.no_grad()
    def _switch(self, to_used: bool, factor: float) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(factor if self.used != to_used else 1.0)
        self.used = to_used


def test_evaluations_and_checkpoints_have_the_weights_that_are_to_be_used(tmp_path, monkeypatch):
    steps = ["training.max_steps=3", "training.save_steps=2", "training.eval_steps=1", "training.logging_steps=1"]
    evaluate, seen = Evaluator.__call__, []
    monkeypatch.setattr(
        Evaluator, "__call__", lambda self, model: (seen.append(_norm(model)), evaluate(self, model))[1]
    )
    losses, saved = [], []
    for kind, name in ((torch.optim.SGD, "plain"), (TwoSets, "two")):
        trainer = build_trainer(tiny_recipe(tmp_path, *steps, output=name))
        trainer.optimizer = kind(trainer.model.parameters(), lr=0.1)
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
        saved.append(_norm(AutoModelForCausalLM.from_pretrained(tmp_path / name / "checkpoint-2")))
    assert losses[0] == losses[1]
    assert seen[3:] == [2 * norm for norm in seen[:3]]
    assert saved[1] == 2 * saved[0]


def _norm(model: torch.nn.Module) -> float:
    return float(sum(parameter.detach().double().square().sum() for parameter in model.parameters())) ** 0.5


def test_layouts_train_alike(tmp_path):
    gradients = [
        first_gradient(tiny_recipe(tmp_path, f"layout={layout}", "training.max_steps=1"))
        for layout in ("sequence", "cache", "pointwise")
    ]
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() < 1e-5 * gradients[0].norm()


def test_run_directory(tmp_path):
    recipe = tiny_recipe(tmp_path, "training.max_steps=4", "training.eval_steps=2", "training.save_steps=4")
    DocIDTable(["P1"], ["[1,2]"], ["a title"]).save(tmp_path / "data" / "items.parquet")
    trainer = trained_run(recipe)
    run = tmp_path / "run"
    assert DocIDTable.load(run / "items.parquet").docid_of == {"P1": "[1,2]"}
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["data"]["name"] == "tiny"
    assert manifest["global_batch"] == {"queries": 8, "processes": 1, "micro_batch": 8, "accumulation_steps": 1}
    assert manifest["data_sha256"]["train"] == file_sha256(tmp_path / "data" / "train.jsonl")
    assert manifest["recipe_sha256"] == file_sha256(run / "recipe.yaml")
    assert manifest["seeds"]["seed"] == recipe.seed
    assert len(manifest["devices"]) == 1
    assert datetime.fromisoformat(manifest["started"]).tzinfo is UTC
    assert manifest["packages"]["torch"] == importlib.metadata.version("torch")
    logs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [log for log in logs if "eval_ndcg" in log]
    assert [log["step"] for log in evaluations] == [2, 4]
    assert set(evaluations[0]) >= {"eval_cvr", "eval_ndcg", "eval_recall@1", "eval_recall@5", "eval_valid_mass"}
    assert (run / "recipe.yaml").read_text() == (run / "checkpoint-4" / "recipe.yaml").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(run / "checkpoint-4")
    assert torch.equal(loaded.get_input_embeddings().weight, trainer.model.get_input_embeddings().weight)


def test_nan_loss_names_step_queries_and_checkpoint(tmp_path):
    recipe = tiny_recipe(tmp_path, "training.max_steps=6", "training.save_steps=2")
    trainer = build_trainer(recipe)
    loss = trainer.objectives["loss"]

    class Broken(Objective):
        def __call__(self, context):
            output = loss(context)
            return ObjectiveOutput(output.loss_sum * float("nan")) if context.step == 3 else output

    trainer.objectives = {"broken": Broken()}
    with pytest.raises(ValueError, match=r"loss is nan at step 4, queries q\d+, .*checkpoint-2") as error:
        trainer.train()
    assert "training.learning_rate, or look at one of these queries: stoical draw-trie" in str(error.value)
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").is_file()


def test_objectives_are_summed_logged_and_given_what_they_ask_for(tmp_path):
    """A second objective of twice the loss makes three times the gradient; it sees step, hidden states, a forward."""
    unclipped = ["training.max_steps=1", "training.max_grad_norm=0"]
    plain = first_gradient(tiny_recipe(tmp_path, *unclipped))
    trainer = build_trainer(tiny_recipe(tmp_path, *unclipped, "training.logging_steps=1"))
    loss, seen, gradients = trainer.objectives["loss"], [], []

    class Twice(Objective):
        needs_hidden = True

        def __call__(self, context):
            again, sampled = context.forward(context.batch), context.predict(context.batch)
            assert torch.allclose(again.logprobs, context.node_logprobs, atol=1e-6)
            assert again.logprobs.requires_grad
            assert not sampled.logprobs.requires_grad
            seen.append((context.step, context.output.hidden.shape[:2]))
            return ObjectiveOutput(2 * loss(context).loss_sum, {"twice": 7.0})

    trainer.objectives = {"loss": loss, "twice": Twice()}
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([p.grad.flatten().clone() for p in trainer.model.parameters()]))
    )
    trainer.train()
    assert (gradients[0] - 3 * plain).norm() < 1e-5 * plain.norm()
    assert seen[0][0] == 0
    assert [log["twice"] for log in trainer.state.log_history if "twice" in log] == [7.0]


class Counting(Objective):
    """Adds nothing to the loss and counts the optimizer's steps."""

    steps, keeps_state = 0, True

    def __call__(self, context):
        return ObjectiveOutput(0 * context.node_logprobs.sum())

    def after_step(self):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@pytest.fixture
def counting(monkeypatch):
    """The trainer of a recipe, with such an objective for each of the sections that are named."""

    def built(recipe, *sections):
        more = {section: Counting() for section in sections}
        monkeypatch.setattr(stoical.training.build, "build_objectives", lambda *given: build_objectives(*given) | more)
        return build_trainer(recipe)

    return built


def test_what_an_objective_keeps_is_saved_by_its_section_and_resumed(tmp_path, counting):
    every = ["training.save_steps=2", "training.lr_scheduler_type=constant", "training.per_device_train_batch_size=4"]
    first = counting(tiny_recipe(tmp_path, *every, "training.max_steps=2"), "margin", "mixer")
    first.objectives["mixer"].steps = 7
    first.train()
    assert torch.load(tmp_path / "run" / "checkpoint-2" / OBJECTIVES_FILE) == {
        "margin": {"steps": 2},
        "mixer": {"steps": 9},
    }
    recipe = tiny_recipe(tmp_path, *every, "training.max_steps=5", "resume=auto")
    resumed = counting(recipe, "mixer", "margin")
    resumed.train(resume_from_checkpoint=str(resume_from(recipe)))
    assert (resumed.objectives["margin"].steps, resumed.objectives["mixer"].steps) == (5, 12)


@pytest.mark.parametrize(
    ("saved", "wanted", "message"),
    [
        (["margin"], [], r"holds the state of margin \(objectives.pt\), and this recipe wants that of none"),
        ([], ["margin"], "holds the state of no mitigation .* wants that of margin. Give the mitigations that it was"),
        (["margin"], ["mixer"], "holds the state of margin .* wants that of mixer"),
    ],
    ids=["unknown", "missing", "renamed"],
)
def test_state_that_no_objective_takes_or_that_is_missing_is_an_error(tmp_path, counting, saved, wanted, message):
    every = ["training.save_steps=1", "training.eval_strategy=no", "training.lr_scheduler_type=constant"]
    counting(tiny_recipe(tmp_path, *every, "training.max_steps=1"), *saved).train()
    assert (tmp_path / "run" / "checkpoint-1" / OBJECTIVES_FILE).exists() == bool(saved)
    recipe = tiny_recipe(tmp_path, *every, "training.max_steps=2", "resume=auto")
    with pytest.raises(ValueError, match=message):
        counting(recipe, *wanted).train(resume_from_checkpoint=str(resume_from(recipe)))


def test_self_check_refuses_a_model_that_sees_too_much(tmp_path, capsys):
    trainer = build_trainer(tiny_recipe(tmp_path, "training.max_steps=1"))
    collator = trainer.data_collator

    trainer.data_collator = lambda queries: {"batch": leaking(collator(queries)["batch"])}
    with pytest.raises(ValueError, match=r"self-check: sequence and plain log-probabilities differ by"):
        trainer.train()


def test_dropped_documents_are_logged(tmp_path):
    recipe = tiny_recipe(tmp_path, "training.max_steps=1", "prompt.max_length=24", "training.logging_steps=1")
    trainer = build_trainer(recipe)
    trainer.train()
    assert trainer.state.log_history[0]["dropped_docs"] > 0
