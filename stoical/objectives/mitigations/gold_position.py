"""Scheduled sampling to the letter: mixed prefixes, and the gold docID's target of the position, whatever they are.

Dimension letters: B queries, N inputs of the gold paths (all their tokens but the last), M trie nodes, V vocabulary.

A mixed prefix is seldom a prefix of a docID, so it is packed by itself: a chain of the mixed tokens, which carry no
weight, with the gold targets as children. Asking for a token that the prefix does not lead to is inconsistent: what is
learnt at best is a mixture over the prefixes (Huszar 2015). The consistent version is `scheduled_sampling.py`'s
`recompute`. Where several docIDs share the first rank, each has a mixed prefix, in a row of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.decoding.walks import gold_child, gumbel, has_children, listed, spelled, visited
from stoical.encoding.packed_batch import PackedBatch
from stoical.objectives.mitigations.mixed_walks import Confidence
from stoical.objectives.mitigations.top_docids import context_apart, take_apart
from stoical.objectives.objective import StepContext, weighted_nll

if TYPE_CHECKING:
    from torch import Tensor


def gold_inputs(batch: PackedBatch) -> Tensor:
    """[N] the nodes of the gold paths that something follows, query by query and in order."""
    on_gold = visited(batch, gold_child(batch))[0]
    return (on_gold & has_children(batch) & (batch.node_token >= 0)).nonzero()[:, 0]


def mixed_batch(batch: PackedBatch, chain: Tensor, tokens: Tensor) -> PackedBatch:
    """A batch of one chain a query: `tokens` [N] in the places of the gold path's inputs `chain` [N].

    Its nodes are the B roots, the N tokens, which carry no weight, and the gold targets of every position, which do.
    """
    row, depth = batch.node_row[chain], batch.node_depth[chain]
    rows, prompt, width = len(batch.query_ids), batch.prompt_width, int(depth.max())
    on_gold = visited(batch, gold_child(batch))[0]
    targets = (on_gold[batch.node_parent] & (batch.node_weights > 0)).nonzero()[:, 0]
    root = torch.arange(rows, device=tokens.device)
    place = root[:, None].repeat(1, width + 1)
    place[row, depth] = rows + torch.arange(len(chain), device=tokens.device)
    node_row = torch.cat([root, row, batch.node_row[targets]])
    node_depth = torch.cat([torch.zeros_like(root), depth, batch.node_depth[targets]])
    columns, counts = torch.arange(width, device=tokens.device), torch.bincount(row, minlength=rows)
    positions = torch.where(columns < counts[:, None], batch.prompt_lengths[:, None] + columns, 0)
    input_ids = torch.cat([batch.input_ids[:, :prompt], batch.input_ids.new_zeros(rows, width)], dim=1)
    input_ids[row, prompt + depth - 1] = tokens
    no_docs = {name: getattr(batch, name)[:0] for name in ("doc_path", "doc_query", "doc_rank", "doc_negative")}
    nothing = batch.node_weights.new_zeros(rows + len(chain))
    return replace(
        batch,
        num_tokens=int(batch.prompt_lengths.sum()) + len(chain),
        input_ids=input_ids,
        position_ids=torch.cat([batch.position_ids[:, :prompt], positions], dim=1),
        node_counts=counts,
        node_up=(columns - 1).clamp(min=0).expand(rows, -1),
        levels=width,
        node_row=node_row,
        node_col=torch.where(node_depth > 1, prompt + node_depth - 2, batch.prompt_lengths[node_row] - 1),
        node_token=torch.cat([torch.full_like(root, -1), tokens, batch.node_token[targets]]),
        node_parent=place[node_row, (node_depth - 1).clamp(min=0)],
        node_depth=node_depth,
        node_rank=batch.node_rank[torch.cat([targets.new_zeros(rows), chain, targets])],
        node_weights=torch.cat([nothing, batch.node_weights[targets]]),
        node_target=torch.cat([nothing, batch.node_target[targets]]),
        **no_docs,
    )


def replacements(
    batch: PackedBatch, chain: Tensor, sure: Tensor, gold: float, confidence: Confidence | None
) -> tuple[Tensor, Tensor]:
    """[N] which tokens the model's take the place of, and [N] what stands at the others.

    That is the gold token with probability `gold`; then, by the model's probability `sure` [N] of it, the gold token,
    the model's or, above the upper threshold, a random one of the gold path.
    """
    own = batch.node_token[chain]
    ours = torch.rand(len(chain), device=chain.device) >= gold
    if confidence is None:
        return ours, own
    row = batch.node_row[chain].contiguous()
    first, end = torch.searchsorted(row, row), torch.searchsorted(row, row, right=True)
    anywhere = first + (torch.rand(len(chain), device=chain.device) * (end - first)).long()
    predicted, scrambled = confidence.choice(ours, sure)
    return predicted, torch.where(scrambled, own[anywhere], own)


def mixed_prefixes(
    context: StepContext, gold: float, passes: int, confidence: Confidence | None = None
) -> tuple[PackedBatch, Tensor]:
    """The packed mixed prefixes, and [N] their tokens.

    The first pass draws every token after its gold prefix, from the forward pass that the context holds; each further
    one draws them again after the last one's mixed prefix, with the same random numbers. So with as many passes as
    inputs, every token was drawn after the prefix it stands after.
    """
    batch, output = context.batch, context.output
    with torch.no_grad():
        chain = gold_inputs(batch)
        replaced, fixed = replacements(batch, chain, output.logprobs[chain].exp(), gold, confidence)
        logits = output.logits_at(chain).float()
        noise = gumbel(torch.zeros_like(logits), walks=1)[0]
        for left in reversed(range(passes)):
            tokens = torch.where(replaced, (logits + noise).argmax(dim=-1), fixed)
            mixed = mixed_batch(batch, chain, tokens)
            if left:
                after_roots = len(batch.query_ids) + torch.arange(len(chain), device=chain.device)
                logits = context.predict(mixed).logits_at(after_roots).float()
    return mixed, tokens


def off_trie_rate(batch: PackedBatch, tokens: Tensor) -> float:
    """The share of queries whose mixed prefix, `tokens` [N], leaves the trie somewhere."""
    chain, queries = gold_inputs(batch), len(batch.query_ids)
    row, depth = batch.node_row[chain], batch.node_depth[chain]
    by_position = tokens.new_full((queries, int(depth.max())), -2)
    by_position[row, depth - 1] = tokens
    on_trie = spelled(batch, by_position) & listed(batch) & (batch.node_token >= 0)
    left = torch.bincount(batch.node_row[on_trie], minlength=queries) < torch.bincount(row, minlength=queries)
    return float(left.float().mean())


def gold_position_loss(
    context: StepContext, gold: float, passes: int, confidence: Confidence | None
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """(loss summed over the micro-batch in nats, its weights' sum, logs). At `gold` = 1 no second pass is needed."""
    if gold >= 1:
        weights = context.batch.node_weights
        return weighted_nll(context.node_logprobs, weights), weights.sum(), {}
    context = context_apart(context, take_apart(context.batch))
    batch = context.batch
    mixed, tokens = mixed_prefixes(context, gold, passes, confidence)
    logs = {
        "replaced_tokens": float((tokens != batch.node_token[gold_inputs(batch)]).float().mean()),
        "off_trie_rate": off_trie_rate(batch, tokens),
    }
    return weighted_nll(context.forward(mixed).logprobs, mixed.node_weights), mixed.node_weights.sum(), logs
