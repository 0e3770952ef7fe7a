"""Professor forcing: the states of both walks, gates, who learns from what, and a discriminator that can be resumed."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from stoical.decoding.walks import path_sums, reach
from stoical.models.forward import node_logprobs
from stoical.objectives.mitigations.consistency import free_run
from stoical.objectives.mitigations.discriminator import Opponent
from stoical.objectives.mitigations.professor_forcing import (
    ProfessorForcing,
    ProfessorForcingSettings,
    led_walk,
    walk_states,
)
from stoical.objectives.objective import StepContext
from stoical.runs.resume import resume_from
from stoical.training.build import build_trainer
from tests.support.made_up import made_up_logprobs
from tests.support.packed import BETA, leaf_of, pack
from tests.support.random_queries import ragged_queries, random_query
from tests.support.tiny_model import tiny_model
from tests.support.tiny_recipe import tiny_recipe

OPEN = {"floor": 0.0, "ceiling": 1.0}


def context_of(model, queries, layout="sequence"):
    batch = pack(queries, BETA)
    output = node_logprobs(model, batch, layout, hidden=True, keep="logits")
    return StepContext(batch, output, 0, forward=node_logprobs, predict=node_logprobs)


def states(seed, count=6, steps=4, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, steps, 32, generator=generator) + shift
    return values, torch.randint(1, steps + 1, (count,), generator=generator)


def opponent():
    torch.manual_seed(0)
    return Opponent(32, 16, 1e-2, torch.device("cpu"))


@pytest.mark.parametrize("layout", ["sequence", "cache"])
def test_walk_states_are_what_the_tokens_are_read_from(layout):
    """Against one plain forward over the prompt and the walk's tokens, for every query."""
    torch.manual_seed(3)
    model, queries = tiny_model(), ragged_queries()
    context = context_of(model, queries, layout)
    batch = context.batch
    walk = free_run(batch, context.node_logprobs, "sampled")
    got, lengths = walk_states(context, walk)
    for row, query in enumerate(queries):
        tokens = batch.node_token[walk & (batch.node_row == row)].tolist()[1:]
        ids = torch.tensor([[*query.prompt_ids, *tokens[:-1]]])
        plain = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, len(query.prompt_ids) - 1 :]
        assert lengths[row] == len(tokens) == len(plain)
        assert torch.allclose(got[row, : len(tokens)], plain, atol=1e-5)
        assert (got[row, len(tokens) :] == 0).all()


def test_led_walks_are_drawn_from_the_target_and_free_ones_from_the_model():
    torch.manual_seed(0)
    batch = pack([random_query(7, docs=5)], BETA)
    logprobs, count = made_up_logprobs(batch), 2000
    drawn = {
        "led": (path_sums(batch, batch.node_target.log()).exp(), lambda: led_walk(batch, "target")),
        "free": (reach(batch, logprobs), lambda: free_run(batch, logprobs, "sampled")),
    }
    for expected, walk in drawn.values():
        seen = sum(walk().double() for _ in range(count)) / count
        assert ((seen - expected).abs() < 4 * (expected * (1 - expected) / count).sqrt() + 1e-6).all()
    assert led_walk(batch, "gold")[leaf_of(batch)].tolist() == [True, False, False, False, False]


def test_padding_and_the_rest_of_the_batch_do_not_change_a_logit():
    judge, (values, lengths) = opponent().judge, states(1)
    whole = judge(values, lengths)
    for row in range(len(values)):
        alone = judge(values[row : row + 1, : lengths[row]], lengths[row : row + 1])
        assert alone.item() == pytest.approx(whole[row].item(), abs=1e-6)


def test_neither_learns_in_the_others_place():
    """`judge` sends gradients to the states and none to the discriminator; `learn` the other way round."""
    rival, (values, lengths) = opponent(), states(1)
    values.requires_grad_()
    rival.judge(values, lengths).sum().backward()
    assert values.grad.norm() > 0
    assert all(weight.grad is None and weight.requires_grad for weight in rival.module.parameters())
    values.grad = None
    rival.learn(values, lengths, values, lengths)
    assert values.grad is None
    assert all(weight.grad.norm() > 0 for weight in rival.module.rnn.parameters())
    rival.step(ceiling=1.0)
    assert all(weight.grad is None for weight in rival.module.parameters()), "a step starts from nothing"


def test_identical_branches_cannot_be_told_apart():
    rival, (values, lengths) = opponent(), states(1, count=32)
    for _ in range(20):
        rival.learn(values, lengths, values, lengths)
        rival.step(ceiling=1.0)
        assert rival.accuracy == 0.5


def test_different_branches_are_told_apart_until_the_ceiling():
    rival = opponent()
    for seed in range(60):
        rival.learn(*states(seed, 32), *states(1000 + seed, 32, shift=1.0))
        before = [weight.clone() for weight in rival.module.parameters()]
        rival.step(ceiling=0.9)
        moved = any(not torch.equal(a, b) for a, b in zip(before, rival.module.parameters(), strict=True))
        assert moved == (rival.accuracy < 0.9)
    assert rival.accuracy > 0.9


def test_micro_batches_add_up():
    """Two of three sequences make the step of one of six; ragged lengths."""
    led, free = states(1), states(2, shift=0.3)
    whole, cut = opponent(), opponent()
    for _ in range(3):
        whole.learn(*led, *free)
        for part in (slice(0, 3), slice(3, 6)):
            cut.learn(*(values[part] for values in (*led, *free)))
        whole.step(1.0)
        cut.step(1.0)
    assert cut.accuracy == pytest.approx(whole.accuracy, abs=1e-12)
    for ours, theirs in zip(cut.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_loss_is_that_of_lamb_et_al():
    """C_f = -log D(free), and with both ways -log(1 - D(led)); gradients reach the model through hidden states."""
    for both_ways in (False, True):
        context = context_of(tiny_model(), ragged_queries())
        forcing = ProfessorForcing(ProfessorForcingSettings(weight=0.5, both_ways=both_ways, **OPEN))
        torch.manual_seed(5)
        output = forcing(context)
        torch.manual_seed(5)
        led = walk_states(context, led_walk(context.batch, "target"))
        free = walk_states(context, free_run(context.batch, context.node_logprobs, "sampled"))
        said = forcing._opponent.module
        expected = -said(*free).sigmoid().log().sum() - both_ways * (1 - said(*led).sigmoid()).log().sum()
        assert output.loss_sum.item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
        assert torch.autograd.grad(output.loss_sum, context.output.hidden)[0].norm() > 1e-4


def test_a_weak_discriminator_is_not_learnt_from():
    context = context_of(tiny_model(), ragged_queries())
    forcing = ProfessorForcing(ProfessorForcingSettings())
    output = forcing(context)
    assert output.loss_sum == 0
    assert not output.loss_sum.requires_grad
    forcing._opponent.accuracy = 0.76
    assert forcing(context).loss_sum > 0


def test_the_discriminator_starts_from_the_seed_and_leaves_the_generators_alone(monkeypatch):
    torch.manual_seed(11)
    seeded = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded.append)
    torch.rand(3)
    state = torch.get_rng_state()
    first = Opponent(32, 16, 1e-3, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert not seeded, "a GPU's generator, which checkpoints keep, would begin anew with the discriminator"
    torch.rand(1)
    again = Opponent(32, 16, 1e-3, torch.device("cpu"))
    torch.manual_seed(12)
    other = Opponent(32, 16, 1e-3, torch.device("cpu"))
    weights = [rival.module.project.weight for rival in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_float32_under_autocast():
    model = tiny_model()
    forcing = ProfessorForcing(ProfessorForcingSettings(both_ways=True, **OPEN))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        context = context_of(model, ragged_queries())
        output = forcing(context)
    output.loss_sum.backward()
    forcing.after_step()
    assert output.loss_sum.dtype == torch.float32
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert all(weight.dtype == torch.float32 for weight in forcing._opponent.module.parameters())


def test_a_loaded_discriminator_goes_on_as_the_saved_one():
    """Also where the state comes before the first batch, and is saved again before it."""
    context = context_of(tiny_model(), ragged_queries())
    first, second = (ProfessorForcing(ProfessorForcingSettings(**OPEN)) for _ in range(2))
    first(context)
    first._opponent.accuracy = 0.8
    first.after_step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.state_dict()["accuracy"] == first._opponent.accuracy
    outputs = []
    for forcing in (first, second):
        torch.manual_seed(4)
        outputs.append(forcing(context))
        forcing.after_step()
    assert outputs[0].logs == outputs[1].logs
    assert torch.equal(outputs[0].loss_sum, outputs[1].loss_sum)
    assert first._opponent.accuracy == second._opponent.accuracy != 0.5


def test_resume_equals_going_through_discriminator_and_all(tmp_path):
    """Stop after 3 of 6 steps, mid-epoch and with open gates: the same weights, optimizer and accuracy, bit for bit."""
    every = ["training.max_steps=6", "training.save_steps=3", "training.lr_scheduler_type=constant"]
    every += ["mitigations.professor_forcing.floor=0", "training.per_device_train_batch_size=4"]
    every += ["training.eval_strategy=no", "mitigations.professor_forcing.learning_rate=0.1"]
    names = "recipe=wordnet_beta2,small,professor_forcing"
    through = build_trainer(tiny_recipe(tmp_path, names, *every, output="through"))
    through.train()
    shutil.copytree(tmp_path / "through" / "checkpoint-3", tmp_path / "stopped" / "checkpoint-3")
    recipe = tiny_recipe(tmp_path, names, *every, "resume=auto", output="stopped")
    resumed = build_trainer(recipe)
    resumed.train(resume_from_checkpoint=str(resume_from(recipe)))
    for name, weight in through.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    ours, theirs = (trainer.objectives["professor_forcing"].state_dict() for trainer in (resumed, through))
    assert ours["accuracy"] == theirs["accuracy"] != 0.5
    for name, weight in theirs["module"].items():
        assert torch.equal(weight, ours["module"][name]), name
    for place, moments in theirs["optimizer"]["state"].items():
        assert all(torch.equal(value, ours["optimizer"]["state"][place][name]) for name, value in moments.items())
    assert theirs["optimizer"]["state"][0]["step"] == 6
