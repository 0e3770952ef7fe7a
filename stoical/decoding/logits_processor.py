"""The trie's constraint for people who call `model.generate`: greedy, sampling and beams stay on the docIDs.

Dimension letters: R rows (queries x beams), G tokens generated so far, V vocabulary, N trie nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from stoical.decoding.device_trie import DeviceTrie


class TrieLogitsProcessor(LogitsProcessor):
    """Leaves finite scores only at tokens that continue a docID, and at EOS where a docID ends.

    trie: one for all rows; prompt_length: columns of the `input_ids` that `generate` gets, padding included;
    eos_token_id: what `generate` stops at. Holds 8 bytes a trie node beside the trie. `generate` reorders beams unseen
    between the calls, so each call walks all G tokens from the root, for all rows at once: nothing to reset.

    Allowed scores pass unchanged: with beams they stay log-probabilities of the full vocabulary. To rank as
    `beam_search.beam_search` does, call `generate` with `length_penalty=0.0` for sums or 1.0 for means; where there are
    fewer docIDs than beams, rows with `sequences_scores` of -1e9 are not results. `generate` also reads the model's
    `generation_config`; `beam_search` does not.
    """

    def __init__(self, trie: DeviceTrie, prompt_length: int, eos_token_id: int) -> None:
        count = trie.child_start[1:] - trie.child_start[:-1]
        self._keys = _key(torch.repeat_interleave(count), trie.token[1:])  # [N - 1] ascending, as nodes are numbered
        self._trie, self._prompt_length, self._eos = trie, prompt_length, eos_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [R, V] where a docID continues or ends after what `input_ids` [R, P + G] generated; else -inf."""
        nodes = self._walk(input_ids[:, self._prompt_length :])
        row, child = self._trie.children(nodes)
        ends = (self._trie.doc[nodes] >= 0).nonzero()[:, 0]
        row, token = torch.cat([row, ends]), torch.cat([self._trie.token[child], torch.full_like(ends, self._eos)])
        constrained = torch.full_like(scores, -torch.inf)
        constrained[row, token] = scores[row, token]
        return constrained

    def _walk(self, generated: Tensor) -> Tensor:
        """[R] the nodes that the rows of `generated` [R, G] lead to; the last leaf for those that left the trie.

        Rows leave it after the end of a docID, when `generate` pads them: from a leaf, only EOS follows.
        """
        nodes = torch.zeros(len(generated), dtype=torch.int64, device=generated.device)
        for tokens in generated.unbind(dim=1):
            wanted = _key(nodes, tokens)
            place = torch.searchsorted(self._keys, wanted).clamp(max=len(self._keys) - 1)
            nodes = torch.where(self._keys[place] == wanted, place + 1, len(self._keys))
        return nodes


def _key(parent: Tensor, token: Tensor) -> Tensor:
    """One int64 for a node's parent and token: token ids are below 2^31."""
    return (parent.long() << 31) + token
