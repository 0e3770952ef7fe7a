"""baselines/encoders.py: Eq. 13 and 14 against loops in float64, values and gradients; the sphere; the start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stoical.baselines.encoders import CrossEncoder, DualEncoder, new_encoder
from stoical.config.encoders import CrossEncoderSettings, DualEncoderSettings

ITEMS, SIZE = 9, 12


def batch(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, documents (several of them twice and more, some a query of the batch), lambda with zeros, an order."""
    draw = torch.Generator().manual_seed(seed)
    query, doc = (torch.randint(ITEMS, (SIZE,), generator=draw) for _ in range(2))
    rank = torch.randint(1, 7, (SIZE,), generator=draw)
    weight = torch.where(rank > 5, 0.0, rank.double() ** -2)
    return query, doc, weight, torch.randperm(SIZE, generator=draw)


def dual(dim: int = 3, seed: int = 0, **settings: float) -> DualEncoder:
    encoder = new_encoder(ITEMS, DualEncoderSettings(dim=dim, **settings), seed).double()
    assert isinstance(encoder, DualEncoder)
    return encoder


def cross(dim: int = 3, seed: int = 0) -> CrossEncoder:
    encoder = new_encoder(ITEMS, CrossEncoderSettings(dim=dim), seed).double()
    assert isinstance(encoder, CrossEncoder)
    return encoder


def eq13(table: Tensor, query: Tensor, doc: Tensor, weight: Tensor, tau: float) -> Tensor:
    """Equation 13, term by term: the denominator has one term a pair of the batch."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(query)):
        scores = [
            sum(a * b for a, b in zip(table[query[i]], table[doc[j]], strict=True)) / tau for j in range(len(doc))
        ]
        top = max(score.item() for score in scores)
        denominator = sum(torch.exp(score - top) for score in scores)
        total = total + weight[i] * (scores[i] - top - torch.log(denominator))
    return -total / len(query)


def mlp(encoder: CrossEncoder, query: int, doc: int) -> Tensor:
    """f_MLP(concat(E(q), E(d))), unit by unit."""
    hidden = [*encoder.table[query], *encoder.table[doc]]
    for number, layer in enumerate(encoder.layers):
        sums = [(row * torch.stack(hidden)).sum() + bias for row, bias in zip(layer.weight, layer.bias, strict=True)]
        hidden = sums if number == len(encoder.layers) - 1 else [s if s.item() > 0 else 0 * s for s in sums]
    (score,) = hidden
    return score


def eq14(encoder: CrossEncoder, query: Tensor, doc: Tensor, weight: Tensor, order: Tensor) -> Tensor:
    """Equation 14, term by term."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(query)):
        positive = mlp(encoder, int(query[i]), int(doc[i]))
        negative = mlp(encoder, int(query[i]), int(doc[order[i]]))
        total = total - weight[i] / sum(weight.tolist()) * torch.log(1 / (1 + torch.exp(-positive)))
        total = total - torch.log(1 / (1 + torch.exp(negative))) / len(query)
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_equation_13_by_loops(seed: int, tau: float) -> None:
    query, doc, weight, order = batch(seed)
    encoder = dual(seed=seed, temperature=tau)
    found, wanted = encoder.loss(query, doc, weight, order), eq13(encoder.table, query, doc, weight, tau)
    assert len(doc.unique()) < len(doc), "documents that are there twice are the point"
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(value, encoder.table)[0] for value in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_with_lambda_1_equation_13_is_the_batch_softmax() -> None:
    query, doc, _, order = batch(0)
    encoder = dual()
    logits = encoder.table[query] @ encoder.table[doc].T / 0.05
    own = encoder.loss(query, doc, torch.ones(SIZE, dtype=torch.float64), order)
    torch.testing.assert_close(own, F.cross_entropy(logits, torch.arange(SIZE)), rtol=1e-12, atol=1e-12)


def test_large_scores_stay_finite() -> None:
    query, doc, weight, order = batch(0)
    encoder = dual(temperature=1e-3)  # logits of +-1000
    loss = encoder.loss(query, doc, weight, order)
    (gradient,) = torch.autograd.grad(loss, encoder.table)
    assert loss.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("seed", range(3))
def test_equation_14_by_loops(seed: int) -> None:
    query, doc, weight, order = batch(seed)
    encoder = cross(seed=seed)
    for layer in encoder.layers:
        torch.nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(seed))
    found, wanted = encoder.loss(query, doc, weight, order), eq14(encoder, query, doc, weight, order)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    parameters = list(encoder.parameters())
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (found, wanted))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_batch_whose_weights_are_all_0_counts_its_negatives_alone() -> None:
    query, doc, weight, order = batch(0)
    encoder = cross()
    wanted = -F.logsigmoid(-encoder(query, doc[order])).mean()
    torch.testing.assert_close(encoder.loss(query, doc, 0 * weight, order), wanted)


def test_scores_are_inner_products_and_outputs_of_the_mlp() -> None:
    query, doc, _, _ = batch(1)
    one, other = dual(), cross()
    for place in range(SIZE):
        q, d = int(query[place]), int(doc[place])
        assert one(query, doc)[place].item() == pytest.approx((one.table[q] @ one.table[d]).item())
        assert other(query, doc)[place].item() == pytest.approx(mlp(other, q, d).item())


def test_the_start_is_that_of_the_paper() -> None:
    """The dual encoder begins on the sphere; the MLP has three hidden layers of 2n, variance 1 / (2n), biases 0."""
    torch.testing.assert_close(dual(5).table.norm(dim=1), torch.ones(ITEMS, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    encoder = cross(64)
    assert [tuple(layer.weight.shape) for layer in encoder.layers] == [(128, 128)] * 3 + [(1, 128)]
    for layer in encoder.layers:
        spread = 4 * math.sqrt(2 / layer.weight.numel())  # four standard errors of a variance
        assert float(layer.weight.var()) * 128 == pytest.approx(1, abs=spread) and not layer.bias.any()
    one, same, other = (new_encoder(ITEMS, CrossEncoderSettings(), seed).table for seed in (3, 3, 4))
    assert one.equal(same) and not one.equal(other)


def steps(encoder: DualEncoder, count: int, rate: float) -> list[Tensor]:
    """The table after each of `count` steps on small batches, of which most rows are in none."""
    optimizer, tables = encoder.optimizer(rate, 0.0), []
    for number in range(count):
        query, doc, weight, order = (tensor[:3] for tensor in batch(number))
        optimizer.zero_grad()
        torch.autograd.backward(encoder.loss(query, doc, weight, order))
        optimizer.step()
        encoder.after_step()
        tables.append(encoder.table.detach().clone())
    return tables


def test_a_step_is_sgd_with_momentum_and_then_the_sphere() -> None:
    """A.2 by hand: m = 0.9 m + g, w = w - m, w / |w|, every row."""
    encoder, by_hand = dual(), dual()
    table, momentum = by_hand.table.detach().clone(), torch.zeros(ITEMS, 3, dtype=torch.float64)
    for number, found in enumerate(steps(encoder, 5, 1.0)):
        query, doc, weight, _ = (tensor[:3] for tensor in batch(number))
        table.requires_grad_()
        (gradient,) = torch.autograd.grad(eq13(table, query, doc, weight, 0.05), table)
        momentum = 0.9 * momentum + gradient
        moved = table.detach() - momentum
        table = torch.stack([row / row.norm() for row in moved])
        torch.testing.assert_close(found, table, rtol=1e-9, atol=1e-12)


def caught_up(row: Tensor, momentum: Tensor, rate: float, missed: int) -> Tensor:
    """A row after `missed` steps that did not hold it: the projection of w - c m (`DualEncoder.after_step`)."""
    c = 0.0
    for number in range(1, missed + 1):
        c += rate * 0.9**number * float((row - c * momentum).norm())
    return F.normalize(row - c * momentum, dim=0)


def test_rows_that_no_batch_holds_move_by_momentum_and_can_be_caught_up_with() -> None:
    """So an update of the touched rows alone is another optimizer, and the loop over missed steps is the same one."""
    encoder, rate = dual(), 0.3
    optimizer = encoder.optimizer(rate, 0.0)
    for number in range(8):
        optimizer.zero_grad()
        if number == 0:
            query, doc, weight, order = batch(0)
            torch.autograd.backward(encoder.loss(query, doc, weight, order))
        else:
            encoder.table.grad = torch.zeros_like(encoder.table)
        optimizer.step()
        encoder.after_step()
        if number == 0:
            first = encoder.table.detach().clone()
            momentum = optimizer.state[encoder.table]["momentum_buffer"].clone()
    assert (encoder.table - first).abs().max() > 0.1, "leaving these rows alone would be far from it"
    wanted = torch.stack([caught_up(row, m, rate, 7) for row, m in zip(first, momentum, strict=True)])
    torch.testing.assert_close(encoder.table.detach(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("decay", "kind"), [("coupled", torch.optim.Adam), ("decoupled", torch.optim.AdamW)])
def test_weight_decay_is_in_the_gradient_or_beside_it(decay: str, kind: type) -> None:
    optimizer = new_encoder(ITEMS, CrossEncoderSettings(decay=decay), 0).optimizer(1e-3, 1e-2)  # type: ignore[arg-type]
    assert type(optimizer) is kind and optimizer.defaults["weight_decay"] == 1e-2
