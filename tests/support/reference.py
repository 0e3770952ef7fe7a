"""The paper's loss and targets as slow loops over dictionaries, in float64, written from its text and nothing else.

A docID is a tuple of token ids; a prefix is a tuple; a distribution is a dict from token to probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

Prefix = tuple[int, ...]


def item_weight(kind: str, rank: int, num_docs: int, alpha: float) -> float:
    """lambda(r), section 4.2."""
    if kind == "indicator":
        return 1.0 if rank == 1 else 0.0
    if kind == "fractional":
        return 1.0 / rank**alpha
    return (num_docs - rank + 1) / num_docs


def governed_mass(docids: Sequence[Prefix], ranks: Sequence[int], prefix: Prefix, beta: float, from_rank: int) -> float:
    """Section 4.3: the summed mu of all docIDs that the node `prefix` governs, of ranks >= from_rank (Appendix D)."""
    return math.fsum(
        1.0 / rank**beta
        for ids, rank in zip(docids, ranks, strict=True)
        if rank >= from_rank and ids[: len(prefix)] == prefix
    )


def trie_target(
    docids: Sequence[Prefix], ranks: Sequence[int], prefix: Prefix, beta: float, from_rank: int = 1
) -> dict[int, float]:
    """y(r, t): the masses of the permissible next tokens after `prefix`, normalised."""
    step = len(prefix)
    tokens = {ids[step] for ids in docids if len(ids) > step and ids[:step] == prefix}
    masses = {v: governed_mass(docids, ranks, (*prefix, v), beta, from_rank) for v in tokens}
    total = math.fsum(masses.values())
    return {v: mass / total for v, mass in masses.items() if mass > 0}


def stoical_loss(
    logprob: Callable[[Prefix], torch.Tensor],
    docids: Sequence[Prefix],
    ranks: Sequence[int],
    *,
    item: str,
    token: str,
    alpha: float = 0.0,
    beta: float = 0.0,
) -> torch.Tensor:
    """Eq. 11 summed over the query's points; `logprob(prefix)` is the log-distribution [V] of the next token."""
    loss = torch.zeros((), dtype=torch.float64)
    for ids, rank in zip(docids, ranks, strict=True):
        weight = item_weight(item, rank, len(docids), alpha)
        if weight == 0:
            continue
        for step in range(len(ids)):
            prefix = ids[:step]
            one_hot = {ids[step]: 1.0}
            target = one_hot if token == "one_hot" else trie_target(docids, ranks, prefix, beta, from_rank=rank)
            log_p = logprob(prefix)
            loss = loss - weight * sum(p * log_p[v] for v, p in target.items())
    return loss


def every_node_loss(
    logprob: Callable[[Prefix], torch.Tensor],
    docids: Sequence[Prefix],
    ranks: Sequence[int],
    *,
    beta: float,
    visits: str,
) -> torch.Tensor:
    """A target at every inner node u, counted v(u) times: its mass, once, or the chance of decoding through it."""
    inner = {ids[:step] for ids in docids for step in range(len(ids))}
    loss = torch.zeros((), dtype=torch.float64)
    for prefix in inner:
        target = trie_target(docids, ranks, prefix, beta)
        if visits == "mass":
            step = len(prefix)
            # what passes on to a child: a docID that ends right here has no next token to supervise
            count = math.fsum(governed_mass(docids, ranks, (*prefix, v), beta, 1) for v in target)
            assert step >= 0
        else:
            count = 1.0 if visits == "uniform" else constrained_reach(logprob, docids, prefix)
        loss = loss - count * sum(p * logprob(prefix)[v] for v, p in target.items())
    return loss


def constrained_reach(logprob: Callable[[Prefix], torch.Tensor], docids: Sequence[Prefix], prefix: Prefix) -> float:
    """Probability of arriving at `prefix` when every step is renormalised over the valid next tokens."""
    reach = 1.0
    for step, token in enumerate(prefix):
        valid = {ids[step] for ids in docids if len(ids) > step and ids[:step] == prefix[:step]}
        probs = {v: logprob(prefix[:step])[v].exp().item() for v in valid}
        reach *= probs[token] / math.fsum(probs.values())
    return reach


def forward_each(model: torch.nn.Module, prompt_ids: Sequence[int]) -> Callable[[Prefix], torch.Tensor]:
    """`logprob` by one plain forward of the model over prompt + prefix, in float64 after the logits."""

    def logprob(prefix: Prefix) -> torch.Tensor:
        input_ids = torch.tensor([[*prompt_ids, *prefix]])
        return model(input_ids=input_ids).logits[0, -1].double().log_softmax(-1)

    return logprob


def docid_probs(batch, logprobs):
    """p~(d) of every docID: a product of renormalised steps, by loop. Differentiable."""
    probs = []
    for path in batch.doc_path:
        prob = logprobs.new_ones(())
        for node in path[path >= 0].tolist():
            siblings = (batch.node_parent == batch.node_parent[node]) & (batch.node_token >= 0)
            prob = prob * logprobs[node].exp() / logprobs[siblings].exp().sum()
        probs.append(prob)
    return torch.stack(probs)
