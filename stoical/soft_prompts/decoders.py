"""How a model writes behind soft prompts: transformers' `generate`, with what the paper's section 5 suggests.

Dimension letters: R rows, n vectors of a prompt, H hidden size, L tokens written.

`generate` gets embeddings alone, so whatever counts repeats counts generated tokens alone. Its constrained beam search
(`force_words_ids`) has left transformers 5 for a repository of code that it downloads and runs; `lexical` is a small
constraint of our own in its place, within greedy decoding.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from stoical.decoding.device_trie import DeviceTrie
from stoical.decoding.logits_processor import TrieLogitsProcessor
from stoical.decoding.sampling import up_to
from stoical.soft_prompts.frozen import Frozen
from stoical.trie.prefix_tree import build_trie

BEAMS = 5
NGRAM = 3  # no three tokens twice
PENALTY = 1.2  # Keskar et al. 2019


def generation_config(frozen: Frozen, steps: int, **settings: Any) -> GenerationConfig:
    """Greedy decoding of at most `steps` tokens, up to EOS, unless `settings` differ."""
    plain = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    fixed = {"eos_token_id": frozen.eos, "pad_token_id": frozen.eos, "max_new_tokens": steps, "use_cache": True}
    return GenerationConfig(**{**plain, **fixed, **settings})


@torch.no_grad()
def generate(frozen: Frozen, prompts: Tensor, steps: int, **settings: Any) -> Any:
    """What `model.generate` returns for prompts [R, n, H] and at most `steps` tokens: greedy unless `settings` differ.

    The model's own generation config decides nothing: it may sample, or punish repeats.
    """
    processors = settings.pop("logits_processor", None)
    config = generation_config(frozen, steps, **settings)
    embedded = frozen.prefix(prompts)
    mask = torch.ones(embedded.shape[:2], dtype=torch.int64, device=embedded.device)
    own, frozen.model.generation_config = frozen.model.generation_config, GenerationConfig()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Passing `(no_repeat_ngram_size|repetition_penalty)`")  # as meant
            return frozen.model.generate(
                inputs_embeds=embedded, attention_mask=mask, generation_config=config, logits_processor=processors
            )
    finally:
        frozen.model.generation_config = own


def written(frozen: Frozen, prompts: Tensor, steps: int, **settings: Any) -> list[list[int]]:
    """The tokens of each row, up to its first EOS and with it."""
    rows: list[list[int]] = generate(frozen, prompts, steps, **settings).tolist()
    return [up_to(row, frozen.eos) for row in rows]


class Lexical(LogitsProcessor):
    """Leaves each row the tokens of its own text, each as often as the text has it, and EOS after all of them.

    The order is the model's. Row i of the batch has text i.
    """

    def __init__(self, texts: Sequence[Sequence[int]], eos: int) -> None:
        self._wanted, self._eos = [Counter(text[:-1]) for text in texts], eos

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [R, V] where a token is left after the `input_ids` [R, L] so far; else -inf."""
        kept = torch.full_like(scores, -torch.inf)
        for row, (wanted, so_far) in enumerate(zip(self._wanted, input_ids.tolist(), strict=True)):
            left = list((wanted - Counter(so_far)).keys()) or [self._eos]
            kept[row, left] = scores[row, left]
        return kept


def decode(frozen: Frozen, name: str, prompts: Tensor, texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The tokens that the decoder `name` writes behind prompts [R, n, H], one a text; EOS last where it comes.

    texts: the targets' ids, EOS last; `lexical` takes its words from them and `trie` its choices.
    """
    steps = max(map(len, texts))
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "greedy": dict,
        "beam": lambda: {"num_beams": BEAMS, "length_penalty": 0.0},  # 0: by log p of the whole text
        "ngram_blocking": lambda: {"no_repeat_ngram_size": NGRAM},
        "repetition_penalty": lambda: {"repetition_penalty": PENALTY},
        "lexical": lambda: {"logits_processor": [Lexical(texts, frozen.eos)]},
        "trie": lambda: {"logits_processor": [_trie(frozen, texts)]},
    }
    return written(frozen, prompts, steps, **ways[name]())


def _trie(frozen: Frozen, texts: Sequence[Sequence[int]]) -> TrieLogitsProcessor:
    different = [list(text) for text in dict.fromkeys(map(tuple, texts))]
    trie = DeviceTrie.from_trie(build_trie(different), device=frozen.model.device)
    return TrieLogitsProcessor(trie, prompt_length=0, eos_token_id=frozen.eos)


@torch.no_grad()
def numeric_difference(frozen: Frozen, prompts: Tensor, steps: int) -> float:
    """The largest difference of a logit between the training forward and `generate`, over `steps` tokens a prompt.

    Both see what `generate` writes greedily. A logit that leads by more than twice this leads in both.
    """
    output = generate(frozen, prompts, steps, return_dict_in_generate=True, output_logits=True)
    ours, _ = frozen.teacher_forced(prompts, output.sequences)
    theirs = torch.stack([logits.float() for logits in output.logits], dim=1)
    ended = (output.sequences == frozen.eos).long().cumsum(dim=1) - (output.sequences == frozen.eos).long()
    return float(((ours - theirs).abs().amax(dim=-1) * (ended == 0)).max())
