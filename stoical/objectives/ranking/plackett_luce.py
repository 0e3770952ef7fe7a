"""The Plackett-Luce model of orders: documents are taken one after the other, each with a softmax over those left.

Dimension letters: B queries, N docIDs of the longest list, K drawn orders, S = 2^N sets of documents.

What is taken next depends on the set that was taken before, not on its order. So an expectation over all N! orders is
a sum over 2^N sets, exact and differentiable for short lists; long ones are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.decoding.draws import uniform_draws
from stoical.objectives.ranking.lists import Lists

if TYPE_CHECKING:
    from torch import Tensor

EXACT = 10  # documents of the longest list whose orders are summed: 1,024 sets
LEAST = -1e30  # a score that is never taken, and whose gradient is 0 and not NaN


def choice_nll(scores: Tensor, lists: Lists) -> Tensor:
    """[B, N] -log p of taking each listed document among itself and all of its rank or a worse one; 0 for others.

    Summed over a list without ties, that is -log of its Plackett-Luce probability. Documents that tie are compared
    with one another, whatever their order (Breslow's form).
    """
    left = lists.real[:, None, :] & (lists.rank[:, None, :] >= lists.rank[:, :, None])
    total = scores[:, None, :].masked_fill(~left, LEAST).logsumexp(dim=2)
    return torch.where(lists.listed, total - scores, 0.0)


def by_length(lists: Lists, exactly: Callable[[Lists], Tensor], by_drawing: Callable[[Lists], Tensor]) -> Tensor:
    """[B] of lists of up to EXACT documents the one function's value, of longer ones the other's."""
    values, short = lists.scores.new_zeros(len(lists.real)), lists.real.sum(dim=1) <= EXACT
    for chosen, value in ((short, exactly), (~short, by_drawing)):
        if chosen.any():
            values = values.index_put((chosen.nonzero()[:, 0],), value(lists.take(chosen)))
    return values


def set_choices(scores: Tensor, real: Tensor) -> Tensor:
    """[B, S, N] log p of taking each document next once a set was taken; 0 for those in the set and for padding.

    Bit i of a set's number says whether document i is in it.
    """
    free = _left(scores.shape[1], real.device)[None] & real[:, None, :]
    logps = scores[:, None, :].masked_fill(~free, LEAST).log_softmax(dim=2)
    return torch.where(free, logps, 0.0)


def set_probs(choices: Tensor, real: Tensor) -> Tensor:
    """[B, S, N] the probability that the first documents taken are the set, in any order, and the next one is that.

    choices: as `set_choices` gives them. 0 for documents in the set and for padding.
    """
    size = choices.shape[2]
    left = _left(size, real.device)
    steps = torch.where(left[None] & real[:, None, :], choices.exp(), 0.0)
    sizes = size - left.sum(dim=1)
    bits = 2 ** torch.arange(size, device=real.device)
    reached = choices.new_zeros(choices.shape[:2])
    reached[:, 0] = 1
    for count in range(size):
        sets = (sizes == count).nonzero()[:, 0]
        place, document = left[sets].nonzero(as_tuple=True)
        moved = reached[:, sets][:, place] * steps[:, sets[place], document]
        reached = reached.index_add(1, sets[place] + bits[document], moved)
    return reached[:, :, None] * steps


def _left(size: int, device: torch.device) -> Tensor:
    """[S, N] True where the document is not in the set."""
    sets, bits = torch.arange(2**size, device=device), torch.arange(size, device=device)
    return (sets[:, None] >> bits) & 1 == 0


def drawn_orders(lists: Lists, scores: Tensor) -> Tensor:
    """[B, K, N] the places of documents in K orders drawn from `scores` [B, N], padding last.

    By Gumbel noise (Yellott 1977) from each query's own seed, so that no batch, process or resume changes them.
    """
    real, samples = lists.real, lists.samples
    size = real.shape[1]
    uniform = uniform_draws(lists.seeds, samples * size).to(scores.device).view(-1, samples, size)
    noise = -(-uniform.clamp(min=1e-300).log()).log()
    noisy = scores.detach().double()[:, None, :] + noise
    return noisy.masked_fill(~real[:, None, :], -torch.inf).argsort(dim=2, descending=True)


def order_choices(scores: Tensor, real: Tensor, orders: Tensor) -> Tensor:
    """[B, K, N] log p of every choice of the `orders` [B, K, N]; 0 for padding."""
    ordered = in_order(scores.masked_fill(~real, LEAST), orders)
    left = ordered.flip(2).logcumsumexp(dim=2).flip(2)
    return torch.where(in_order(real, orders), ordered - left, 0.0)


def in_order(values: Tensor, orders: Tensor) -> Tensor:
    """[B, K, N] `values` [B, N] in the orders' order."""
    return values[:, None, :].expand_as(orders).gather(2, orders)
