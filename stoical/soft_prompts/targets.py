"""The texts that prompts are to make a model write, as token ids.

Dimension letters: B targets, T tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stoical.common.lazy import torch
from stoical.encoding.tokenization import text_ids
from stoical.soft_prompts.texts import Placed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def encode(texts: Sequence[Placed], tokenizer: PreTrainedTokenizerBase, longest: int | None) -> list[list[int]]:
    """Each text's token ids, with EOS last: when to stop is part of what is learnt.

    longest: how many tokens the model has positions for, behind the prompt (None: any number). Raises `ValueError`,
    with the text's place, for a longer one, and for text that the tokenizer does not know.
    """
    encoded = []
    for where, text in texts:
        ids = [*text_ids(tokenizer, text, where), int(tokenizer.eos_token_id)]
        if len(ids) == 1:
            raise ValueError(f"{where} tokenizes to nothing")
        if longest is not None and len(ids) > longest:
            raise ValueError(
                f"{where}: {len(ids)} tokens with EOS, and behind the prompt the model has positions for {longest}; "
                "shorten the target, or take fewer vectors"
            )
        encoded.append(ids)
    return encoded


@dataclass(frozen=True, slots=True)
class Targets:
    """Right-padded targets: tokens [B, T] int64 and lengths [B], EOS included. What fills the padding is not read."""

    tokens: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """[B, T] True at the targets' tokens."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device) < self.lengths[:, None]

    def rows(self, kept: Tensor) -> Targets:
        """The targets at the places `kept`, no wider than the longest of them."""
        lengths = self.lengths[kept]
        return Targets(self.tokens[kept, : int(lengths.max())], lengths)


def pad(encoded: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Targets:
    """Targets out of lists of ids."""
    lengths = torch.tensor([len(ids) for ids in encoded])
    rows = [[*ids, *[ids[-1]] * (int(lengths.max()) - len(ids))] for ids in encoded]
    return Targets(torch.tensor(rows, device=device), lengths.to(device))
