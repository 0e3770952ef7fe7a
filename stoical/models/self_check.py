"""Run a packed batch against plain forward passes, a row at a time: a model that cannot branch, or mixes rows, shows.

A docID's row runs alone and without padding; in the packed batch it stands beside others, of other lengths. So what
depends on the batch (rotary frequencies that follow the longest row, routing with a capacity) shows as well as what
depends on a token's place in the row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stoical.encoding.packed_batch import PackedBatch
from stoical.encoding.packing import TrieTargetCollator
from stoical.encoding.tokenized import TokenizedQuery
from stoical.models.forward import node_logprobs, path_to
from stoical.models.layouts import Layout
from stoical.models.modes import eval_mode
from stoical.models.unwrapped import unwrapped
from stoical.trie.node_weights import TargetSettings

ROWS = 4  # docIDs that run alone, of queries from the shortest to the longest: as many on every process
LIMIT = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}  # nats, by the logits' precision
FAILURES = (RuntimeError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError, AssertionError)


def self_check(model: nn.Module, batch: PackedBatch, layout: Layout, precision: torch.dtype) -> float:
    """The largest difference, in nats, of the batch's log-probabilities from plain forward passes.

    precision: of the computation. Raises `ValueError` where it is more than rounding explains, and for a model that
    fails on such a batch.
    """
    name = f"model {type(model).__name__}"
    try:
        with eval_mode(model), torch.no_grad():
            difference = _difference(model, batch, layout)
    except FAILURES as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{name} fails on a trie ({type(error).__name__}: {reason}); model.attn_implementation=eager may help, or "
            "layout=pointwise, a row a docID"
        ) from error
    limit = max(LIMIT[precision], LIMIT.get(next(model.parameters()).dtype, 0.0))
    if not math.isfinite(difference):
        raise ValueError(f"{name} gives log-probabilities that are not finite; its weights are broken")
    if not difference < limit:
        raise ValueError(
            f"self-check: {layout} and plain log-probabilities differ by {difference:.1e} nats, over the {limit:g} "
            f"that {precision} allows: {name} cannot branch, or its rows depend on each other{_hint(model)}"
        )
    return difference


def _hint(model: nn.Module) -> str:
    config = getattr(unwrapped(model), "config", None)
    encoder = getattr(config, "is_decoder", True) is False
    return "; if it is an encoder, set model.config.is_decoder=true" * encoder


def _difference(model: nn.Module, batch: PackedBatch, layout: Layout) -> float:
    packed = node_logprobs(model, batch, layout).logprobs
    return max(float((packed[path] - alone).abs().max()) for path, alone in rows_alone(model, batch))


def rows_alone(model: nn.Module, batch: PackedBatch) -> Iterator[tuple[list[int], Tensor]]:
    """For a few docIDs, of queries from the shortest to the longest: the nodes on its path and their log-probabilities.

    The latter are [nodes], float32, in nats, out of a row of its own.
    """
    parent = batch.node_parent.tolist()
    for leaf in _leaves(batch, parent):
        path = path_to(leaf, parent)
        yield path, _alone(model, batch, path)


def _alone(model: nn.Module, batch: PackedBatch, path: list[int]) -> Tensor:
    """[len(path)] log-probabilities of a path's tokens in a row of their own: its prompt, then what the path feeds."""
    row = int(batch.node_row[path[0]])
    prompt = batch.input_ids[row, : int(batch.prompt_lengths[row])]
    fed = batch.input_ids[row, batch.node_col[path[1:]]]  # by column: a mixed prefix feeds other tokens than the nodes'
    logits = model(input_ids=torch.cat([prompt, fed])[None], use_cache=False).logits[0, -len(path) :]
    return logits.float().log_softmax(dim=-1).gather(1, batch.node_token[path][:, None])[:, 0]


def _leaves(batch: PackedBatch, parent: list[int]) -> list[int]:
    """ROWS leaves, one a query where there are as many, of queries from the shortest prompt to the longest."""
    parents = set(parent)
    of_query: dict[int, list[int]] = {}
    for node, row in enumerate(batch.node_row.tolist()):
        if node not in parents:
            of_query.setdefault(row, []).append(node)
    by_length = sorted(of_query, key=lambda row: int(batch.prompt_lengths[row]))
    count = len(by_length)
    rows = [by_length[round(step * (count - 1) / (ROWS - 1))] for step in range(ROWS)]
    return [of_query[row][step % len(of_query[row])] for step, row in enumerate(rows)]


def probe_batch(vocabulary: int, max_length: int, device: torch.device | str = "cpu") -> PackedBatch:
    """Two queries of random tokens, a short one and one as long as up to `max_length` (256 at most), to check with."""
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        drawn: Tensor = torch.randint(min(3, vocabulary - 1), vocabulary, (count,), generator=generator)
        return drawn.tolist()

    longest = max(2, min(max_length, 256) - 4)
    stem = tokens(2)
    docids = [[*stem, *tokens(1)], [*stem[:1], *tokens(2)], tokens(3)]
    queries = [
        TokenizedQuery(f"probe of {length} tokens", tokens(length), list(map(str, docids)), docids, [3] * 3, [1, 2, 3])
        for length in (min(5, longest), longest)
    ]
    return TrieTargetCollator(TargetSettings(), prune=False)(queries)["batch"].to(device)


def check_loaded(model: nn.Module, vocabulary: int, max_length: int, layout: Layout, bf16: bool) -> None:
    """`self_check` of a model that has just been loaded, on made-up queries. Raises `ValueError` where it fails."""
    if layout == "pointwise":
        return
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        precision = torch.bfloat16 if bf16 else torch.float32
        self_check(model, probe_batch(vocabulary, max_length, device), layout, precision)
