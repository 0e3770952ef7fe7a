"""Greedy and beam search over the docIDs of a trie, the prompt's keys and values kept once for all beams.

Dimension letters: K beams, C children of all beams together, V vocabulary, F finished docIDs, D docIDs.

Every log-probability is one of the full vocabulary (float32, nats): nothing is renormalised over the trie, so that a
docID's score here is its score in `scores.doc_scores`. Nothing is read from the model's `generation_config`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn

from stoical.common.numbers import at_least
from stoical.decoding.choices import Reduction
from stoical.decoding.device_trie import DeviceTrie
from stoical.models.checks import check_model
from stoical.models.modes import eval_mode
from stoical.models.prompt_cache import PromptCache

FEW = 256  # nodes of a trie that is run all at once


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """doc: the docID's place in the list that the trie was built from; score: nats, as `doc_scores` has it."""

    doc: int
    score: float


@dataclass(frozen=True, slots=True)
class _Beams:
    """Nodes of one depth: node [K], parent [K], total [K].

    parent: the place of a node's parent among the beams of the depth before; total: the summed log-probability of the
    tokens down to the node (float32, nats).
    """

    node: Tensor
    parent: Tensor
    total: Tensor

    def pick(self, places: Tensor) -> _Beams:
        return _Beams(*(each.index_select(0, places) for each in (self.node, self.parent, self.total)))


@dataclass(frozen=True, slots=True)
class _Finished:
    """doc [F] and score [F], the best first; of equal scores, the docID that comes first in the list."""

    doc: Tensor
    score: Tensor

    def merge(self, other: _Finished, limit: int) -> _Finished:
        doc, score = torch.cat([self.doc, other.doc]), torch.cat([self.score, other.score])
        order = doc.argsort()
        order = order[_top(score[order], limit)]
        return _Finished(doc[order], score[order])


def beam_search(
    model: nn.Module, prompt_ids: Sequence[int], trie: DeviceTrie, num_beams: int, reduction: Reduction = "mean"
) -> list[Hypothesis]:
    """The `num_beams` best docIDs that the search finds, best first; all D of them where there are no more.

        trie = DeviceTrie.from_trie(build_trie(docid_ids), device=model.device)
        beam_search(model, prompt_ids, trie, num_beams=5)[0].doc  # the best one's place in docid_ids

    Pruning: of the nodes at one depth that have children, the `num_beams` with the highest summed log-probability are
    kept. They are equally long, so the mean would choose the same. A docID that ends takes no beam from them: it is
    set aside with its final score, and only final scores, mean or sum, rank docIDs. Hence the result is the best
    `num_beams` of all docIDs whose proper prefixes were all kept, and it is exact where `num_beams` is at least the
    number of inner nodes at every depth. Ties go to the child of the better beam, then to the smaller token id, and in
    the result to the docID listed first.

    A docID that is a prefix of another (`terminator: none`) both ends and continues. The model runs in eval mode, once
    over the prompt and once a depth, or once over all of a trie of up to FEW nodes. Raises `ValueError` for an empty
    prompt, a trie on another device, a model that `models.checks.check_model` refuses, and for scores that are not
    numbers.
    """
    at_least("num_beams", num_beams, 1)
    return _search(model, prompt_ids, trie, num_beams, reduction, ends_compete=False)


def greedy(model: nn.Module, prompt_ids: Sequence[int], trie: DeviceTrie, reduction: Reduction = "mean") -> Hypothesis:
    """The docID that taking the likeliest valid token at every step writes, terminator included.

    Without terminators several docIDs may end on that walk, which continues down to a leaf; the one with the best score
    is the result. See `beam_search` for ties, scores and errors.
    """
    return _search(model, prompt_ids, trie, 1, reduction, ends_compete=True)[0]


@torch.no_grad()
def _search(
    model: nn.Module,
    prompt_ids: Sequence[int],
    trie: DeviceTrie,
    num_beams: int,
    reduction: Reduction,
    ends_compete: bool,
) -> list[Hypothesis]:
    _check(model, prompt_ids, trie)
    with eval_mode(model):
        cache, beams = _prompt_cache(model, prompt_ids), _root(trie)
        logits, after = cache.logits, _after_all(trie, cache)
        finished = _Finished(beams.node[:0], beams.total[:0])
        for depth in count(1):
            children = _expand(trie, beams, logits)
            if ends_compete:
                children = children.pick(_top(children.total, num_beams))
            finished = finished.merge(_ended(trie, beams, children, depth, reduction), num_beams)
            beams = _live(trie, children, num_beams)
            if not len(beams.node):
                break
            if after is None:
                logits = cache.feed(trie.token[beams.node].long()[None], beams.parent[None])[0]
            else:
                logits = after.index_select(0, beams.node)
    return [Hypothesis(*pair) for pair in zip(finished.doc.tolist(), finished.score.tolist(), strict=True)]


def _prompt_cache(model: nn.Module, prompt_ids: Sequence[int]) -> PromptCache:
    input_ids = torch.tensor([list(prompt_ids)], device=next(model.parameters()).device)
    return PromptCache(model, input_ids, input_ids.new_tensor([len(prompt_ids)]))


def _after_all(trie: DeviceTrie, cache: PromptCache) -> Tensor | None:
    """[N, V] the logits after every inner node, out of one pass; None where there are none, or more than FEW nodes.

    A pass over some dozen tokens takes about as long as one over a few, and a search makes one a depth.
    """
    if len(trie.token) > FEW:
        return None
    nodes, up = trie.inner()
    if not len(nodes):
        return None
    logits = cache.feed_tree(trie.token[nodes].long()[None], up[None], int(trie.counted.max()))[0]
    return logits.new_zeros(len(trie.token), logits.shape[1]).index_copy(0, nodes, logits)


def _check(model: nn.Module, prompt_ids: Sequence[int], trie: DeviceTrie) -> None:
    if not len(prompt_ids):
        raise ValueError("the prompt is empty: decoding needs at least one token to start from, such as BOS")
    device = next(model.parameters()).device
    if trie.token.device != device:
        raise ValueError(f"the trie is on {trie.token.device} and the model on {device}; use from_trie(..., device)")
    check_model(model, len(prompt_ids) + int(trie.counted.max()))


def _root(trie: DeviceTrie) -> _Beams:
    zero = torch.zeros(1, dtype=torch.int64, device=trie.token.device)
    return _Beams(zero, zero, zero.float())


def _expand(trie: DeviceTrie, beams: _Beams, logits: Tensor) -> _Beams:
    """[C] every child of every beam, scored out of `logits` [K, V], each row normalised over the whole vocabulary."""
    parent, node = trie.children(beams.node)
    step = trie.look_up(logits.float().log_softmax(dim=-1), parent, node)
    total = beams.total.index_select(0, parent) + step
    if total.isnan().any():
        raise ValueError("the model's scores are not numbers (NaN); its weights are broken")
    return _Beams(node, parent, total)


def _ended(trie: DeviceTrie, beams: _Beams, children: _Beams, depth: int, reduction: Reduction) -> _Finished:
    """The docIDs that end at `children`, all `depth` tokens long; a last token that does not count is left out."""
    doc = trie.doc.index_select(0, children.node)
    place = (doc >= 0).nonzero()[:, 0]
    doc, ended = doc[place].long(), children.pick(place)
    counted = trie.counted[doc]
    total = torch.where(counted == depth, ended.total, beams.total[ended.parent])
    return _Finished(doc, total / counted if reduction == "mean" else total)


def _live(trie: DeviceTrie, children: _Beams, num_beams: int) -> _Beams:
    """The best `num_beams` children that have children themselves, best first."""
    inner = trie.has_children(children.node).nonzero()[:, 0]
    return children.pick(inner[_top(children.total.index_select(0, inner), num_beams)])


def _top(values: Tensor, limit: int) -> Tensor:
    """[min(limit, len)] places of the greatest values, greatest first, ties by place: `topk` leaves ties open."""
    if len(values) <= limit:
        return values.sort(descending=True, stable=True).indices
    least = values.topk(limit).values[-1]
    places = (values >= least).nonzero()[:, 0]
    return places[values.index_select(0, places).sort(descending=True, stable=True).indices[:limit]]
