"""Mitigations as recipes: each trains, without effect it is teacher forcing bit for bit, and conflicts are named."""

from __future__ import annotations

import math

import pytest
import torch

from stoical.config.loading import load_recipe
from stoical.encoding.packing import TrieTargetCollator
from stoical.models.forward import node_logprobs
from stoical.objectives.build import MitigationSettings, build_objectives
from stoical.objectives.mitigations.expected_reward import ExpectedRewardSettings
from stoical.objectives.mitigations.margin import MarginSettings
from stoical.objectives.mitigations.minimum_risk import MinimumRiskSettings
from stoical.objectives.mitigations.mixer import MixerSettings
from stoical.objectives.mitigations.professor_forcing import ProfessorForcingSettings
from stoical.objectives.mitigations.reinforce import ReinforceSettings
from stoical.objectives.mitigations.unlikelihood import UnlikelihoodSettings
from stoical.objectives.objective import StepContext
from stoical.objectives.settings import LossSettings
from stoical.objectives.stoical_loss import SToICaLLoss
from stoical.training.build import build_trainer
from tests.support.random_queries import ragged_queries
from tests.support.tiny_model import tiny_model
from tests.support.tiny_recipe import tiny_recipe

PATH_LOSSES = {"one_hot": LossSettings(), "trie": LossSettings(token="trie", beta=2.0)}
WITHOUT_EFFECT = {
    "reinforce": ReinforceSettings(weight=0.0),
    "expected_reward": ExpectedRewardSettings(weight=0.0),
    "minimum_risk": MinimumRiskSettings(weight=0.0),
    "mixer": MixerSettings(warmup=10),
    "mixer, all tokens taught": MixerSettings(forced=99),
    "professor_forcing": ProfessorForcingSettings(weight=0.0, floor=0.0),
    "professor_forcing, gate closed": ProfessorForcingSettings(),
    "unlikelihood": UnlikelihoodSettings(weight=0.0),
    "unlikelihood, literal": UnlikelihoodSettings(weight=0.0, tokens="literal"),
    "margin": MarginSettings(weight=0.0, margin=1.0, prefix=True),
}
LOGGED = {
    "scheduled_sampling": {"gold_probability", "off_gold_path"},
    "reinforce": {"reward", "baseline", "advantage_sd", "expected_reward"},
    "expected_reward": {"expected_reward"},
    "minimum_risk": {"risk", "candidate_mass"},
    "distillation": {"distillation", "invalid_nats"},
    "mixer": {"forced_steps", "reward"},
    "professor_forcing": {"discriminator_loss", "discriminator_accuracy", "adversarial_loss"},
    "unlikelihood": {"unlikelihood"},
    "margin": {"margin", "outranked"},
    "prefix_margin": {"margin", "outranked"},
}


def loss_and_gradient(objectives, settings, count_terminator):
    model = tiny_model()
    queries = ragged_queries(count_terminator=count_terminator, negatives=2)
    batch = TrieTargetCollator(settings, pad_id=0, prune=False)(queries)["batch"]
    context = StepContext(
        batch, node_logprobs(model, batch, hidden=True, keep="logits"), 0, node_logprobs, node_logprobs
    )
    loss = sum(objective(context).loss_sum for objective in objectives)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("count_terminator", [True, False])
@pytest.mark.parametrize("loss", PATH_LOSSES.values(), ids=PATH_LOSSES)
@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_without_effect_it_is_teacher_forcing_bit_for_bit(name, loss, count_terminator):
    mitigations = MitigationSettings(**{name.split(",")[0]: WITHOUT_EFFECT[name]})
    ours = loss_and_gradient(build_objectives(loss, mitigations).values(), loss, count_terminator)
    forced = loss_and_gradient([SToICaLLoss(loss)], loss, count_terminator)
    assert torch.equal(ours[0], forced[0])
    assert torch.equal(ours[1], forced[1])


@pytest.mark.parametrize("name", LOGGED)
def test_an_overlay_trains(tmp_path, name):
    """Three steps over two micro-batches each; the settings that would wait for later steps act at once."""
    at_once = {"mixer": ["warmup=0", "stage=1", "forced=0"], "professor_forcing": ["floor=0", "both_ways=true"]}
    words = [f"mitigations.{name}.{word}" for word in at_once.get(name, [])]
    layout = "layout=cache" if name == "professor_forcing" else "layout=sequence"
    words += ["training.per_device_train_batch_size=4", "training.logging_steps=1", layout]
    trainer = build_trainer(tiny_recipe(tmp_path, f"recipe=wordnet_beta2,small,{name}", *words))
    before = trainer.model.get_input_embeddings().weight.detach().clone()
    trainer.train()
    assert trainer.state.global_step == 3
    assert not torch.equal(trainer.model.get_input_embeddings().weight, before)
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 3
    for log in logs:
        assert log.keys() >= LOGGED[name]
        assert all(math.isfinite(log[key]) for key in LOGGED[name])


@pytest.mark.parametrize(
    ("overlays", "message"),
    [
        ("mixer,scheduled_sampling", "scheduled_sampling conflicts with mitigations.mixer: both take the place of"),
        ("mixer,reinforce", "mixer conflicts with mitigations.reinforce: both follow the gradient of the expected"),
        ("reinforce,expected_reward", "reinforce conflicts with mitigations.expected_reward"),
        ("expected_reward,minimum_risk", "expected_reward conflicts with mitigations.minimum_risk"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(overlays, message):
    with pytest.raises(ValueError, match=f"mitigations.{message}"):
        load_recipe(f"recipe=wordnet_ntp,small,{overlays}")


def test_what_goes_together_is_summed():
    overlays = "scheduled_sampling,expected_reward,professor_forcing,unlikelihood,margin"
    recipe = load_recipe(f"recipe=wordnet_ntp,small,{overlays}")
    objectives = build_objectives(recipe.loss, recipe.mitigations, recipe.eval.score)
    assert list(objectives) == overlays.split(",")
    names = [type(objective).__name__ for objective in objectives.values()]
    assert names == ["ScheduledSampling", "ExpectedReward", "ProfessorForcing", "Unlikelihood", "Margin"]


@pytest.mark.parametrize("name", ["mixer", "scheduled_sampling"])
def test_methods_of_the_gold_path_refuse_other_losses(name):
    with pytest.raises(ValueError, match=f"mitigations.{name} trains on the top docID's path alone"):
        load_recipe(f"recipe=wordnet_alpha2,small,{name}")


def test_professor_forcing_needs_a_layout_with_states():
    with pytest.raises(ValueError, match=r"layout=pointwise.*mitigations.professor_forcing.*use layout=sequence"):
        load_recipe("recipe=wordnet_ntp,small,professor_forcing", "layout=pointwise")


@pytest.mark.parametrize("name", list(LOGGED))
def test_walks_need_terminators(name):
    section = name.removeprefix("prefix_")
    with pytest.raises(ValueError, match=f"mitigations.{section} conflicts with tokenizer.terminator=none"):
        load_recipe(f"recipe=wordnet_ntp,small,{name}", "tokenizer.terminator=none")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ReinforceSettings(weight=-1.0), "reinforce.weight=-1.0 must be a finite number"),
        (ReinforceSettings(samples=1), "reinforce.samples=1 must be at least 2"),
        (ReinforceSettings(samples=0, baseline="greedy"), "reinforce.samples=0 must be at least 1"),
        (ExpectedRewardSettings(weight=math.inf), "expected_reward.weight=inf must be a finite number"),
        (MixerSettings(samples=1), "mixer.samples=1 must be at least 2"),
        (MixerSettings(stage=0), "mixer.stage=0 must be a whole number of optimizer steps, at least 1"),
        (MixerSettings(warmup=-1), "mixer.warmup=-1 must be a whole number of optimizer steps, at least 1"),
        (MinimumRiskSettings(beams=0), "minimum_risk.beams=0 must be at least 1"),
        (MinimumRiskSettings(alpha=0.0), "minimum_risk.alpha=0.0 must be a finite number above 0"),
        (ProfessorForcingSettings(floor=0.9, ceiling=0.5), "professor_forcing.floor=0.9 is above ceiling=0.5"),
        (ProfessorForcingSettings(floor=1.5), "professor_forcing.floor=1.5 must lie between 0 and 1"),
        (ProfessorForcingSettings(width=1), "professor_forcing.width=1 must be at least 2"),
        (ProfessorForcingSettings(learning_rate=0.0), "professor_forcing.learning_rate=0.0 must be"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=f"mitigations.{message}"):
        settings.check()
