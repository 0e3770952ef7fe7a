"""Prompts that run once: their keys and values, kept for all trie nodes that are fed after them."""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache

from stoical.encoding.packed_batch import ancestors
from stoical.models.attention import additive, attention_of
from stoical.models.unwrapped import unwrapped


def model_inputs(input_ids: Tensor, embeddings: Tensor | None) -> dict[str, Tensor]:
    """Tokens [B, T] as arguments of a model, or the embeddings [B, T, H] that take their place."""
    return {"input_ids": input_ids} if embeddings is None else {"inputs_embeds": embeddings}


def prompt_pass(
    model: nn.Module, input_ids: Tensor, last: Tensor, hidden: bool = False
) -> tuple[DynamicCache, Tensor, Tensor | None]:
    """Run the prompts [B, P] alone: keys and values, and logits [B, 1, V] and states at the columns `last` [B, 1].

    The cache knows of no sliding window: it must keep every column, since a node's column is not its position.
    """
    cache, virtual = DynamicCache(), virtual_tokens(model)
    output = model(
        input_ids=input_ids,
        past_key_values=cache,
        logits_to_keep=last + virtual,
        use_cache=True,
        output_hidden_states=hidden,
    )
    if cache.get_seq_length() != virtual + input_ids.shape[1]:
        raise ValueError(
            "layout=cache found no cache after the prompt: activation checkpointing drops it; "
            "set layout=sequence or training.activation_checkpointing=false"
        )
    states = output.hidden_states[-1].take_along_dim(last[..., None] + virtual, dim=1) if hidden else None
    return cache, output.logits, states


def virtual_tokens(model: nn.Module) -> int:
    """How many tokens of a soft prompt peft puts before every prompt."""
    inner = unwrapped(model)
    if isinstance(inner, PeftModel) and inner.active_peft_config.is_prompt_learning:
        return int(inner.active_peft_config.num_virtual_tokens)
    return 0


def nodes_pass(
    model: nn.Module,
    cache: DynamicCache,
    input_ids: Tensor,
    position_ids: Tensor,
    mask: Tensor,
    hidden: bool = False,
    embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run node columns [B, I], or the embeddings [B, I, H] in their place, over the cache: logits [B, I, V] and states.

    `mask` [B, I, T] says which columns they see, of the cache and their own. Cached columns before those T are a soft
    prompt: seen by all, and not to be put there again, so the model below peft's wrapper runs.
    """
    virtual = cache.get_seq_length() + input_ids.shape[1] - mask.shape[2]
    mask = nn.functional.pad(mask, (virtual, 0), value=True)[:, None]
    if attention_of(model) == "eager":
        mask = additive(mask, cache.layers[0].keys.dtype)
    output = (unwrapped(model).base_model if virtual else model)(
        **model_inputs(input_ids, embeddings),
        position_ids=position_ids + virtual,
        past_key_values=cache,
        attention_mask=mask,
        use_cache=True,
        output_hidden_states=hidden,
    )
    return output.logits, output.hidden_states[-1] if hidden else None


class PromptCache:
    """The keys and values of prompts, kept once, and of the trie nodes that were fed after them, level by level.

    Dimension letters: F nodes fed so far to a prompt, K nodes of one level. Nodes are columns of their prompt's row,
    over one cache of P + F columns: however many there are, the prompt's columns are there once, and none are
    reordered. `logits` [B, V] are those after the prompts. Gradients flow if they are on.
    """

    def __init__(self, model: nn.Module, input_ids: Tensor, lengths: Tensor) -> None:
        """Run the prompts `input_ids` [B, P], right-padded from their `lengths` [B] on."""
        self._model, self._next_position = model, lengths[:, None]
        self._cache, logits, _ = prompt_pass(model, input_ids, lengths[:, None] - 1)
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        self._sees = (columns < lengths[:, None])[:, None]  # [B, K, P + F] of the last level
        self.logits = logits[:, 0]

    def feed(self, token: Tensor, parent: Tensor) -> Tensor:
        """[B, K, V] logits after K nodes of the next level, each a child of place `parent` [B, K] of the last level.

        The first level's parent is the prompt: place 0.
        """
        itself = torch.eye(token.shape[1], dtype=torch.bool, device=token.device).expand(len(token), -1, -1)
        self._sees = torch.cat([self._sees.take_along_dim(parent[..., None], dim=1), itself], dim=2)
        position = self._next_position.expand_as(token)
        logits, _ = nodes_pass(self._model, self._cache, token, position, self._sees)
        self._next_position = self._next_position + 1
        return logits

    def feed_tree(self, token: Tensor, up: Tensor, levels: int) -> Tensor:
        """[B, K, V] logits after K nodes of whole tries in one pass; `up` and `levels` as in `PackedBatch`.

        Nothing was fed before, and nothing is fed after them.
        """
        own = ancestors(up, levels)
        sees = torch.cat([self._sees.expand(-1, token.shape[1], -1), own], dim=2)
        position = self._next_position + own.sum(dim=2) - 1
        return nodes_pass(self._model, self._cache, token, position, sees)[0]
