"""The gradient of one step, as one vector."""

from __future__ import annotations

import torch

from stoical.models.forward import node_logprobs
from stoical.objectives.objective import StepContext
from stoical.training.build import build_trainer
from tests.support.packed import pack
from tests.support.tiny_model import tiny_model


def first_gradient(recipe):
    """The gradient that reaches the optimizer at the first step, whole."""
    recipe.training |= {"eval_strategy": "no", "save_strategy": "no"}
    trainer, seen = build_trainer(recipe), []

    def keep(model):
        seen.append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(lambda *_: keep(trainer.model))
    trainer.train()
    return seen[0]


def loss_and_gradient(objective, queries, settings, step=0):
    model = tiny_model()
    batch = pack(queries, settings)
    output = node_logprobs(model, batch, keep="logits")

    def run(other, mixture=None):
        return node_logprobs(model, other, mixture=mixture, keep="logits")

    result = objective(StepContext(batch, output, step, forward=run, predict=torch.no_grad()(run)))
    result.loss_sum.backward()
    return result, torch.cat([p.grad.flatten() for p in model.parameters()])
