"""The words by which settings choose how the model decodes and how docIDs are scored."""

from __future__ import annotations

from typing import Literal

Reduction = Literal["mean", "sum"]  # of a docID's token log-probabilities
Mode = Literal["exact", "greedy_path", "free_greedy_path"]  # see `decoding.scores`
Scored = Literal["exact", "greedy_path", "free_greedy_path", "dual_encoder", "cross_encoder"]  # a Mode, or an encoder
Source = Literal["constrained", "free"]  # the model's tokens: within the trie, or of the whole vocabulary
Per = Literal["token", "sequence"]  # what one draw decides
