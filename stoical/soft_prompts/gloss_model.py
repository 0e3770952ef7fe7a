"""A frozen model for machines without a hub: a small Mistral that learns WordNet's glosses in minutes on one core.

Dimension letters: N rows of a step, L tokens a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from stoical.common.files import staged, writing
from stoical.common.places import data_prep
from stoical.common.progress import progress
from stoical.encoding.tokenization import save_tokenizer, train_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CARD = """# A small model of WordNet's glosses

A Mistral architecture of {parameters:,} parameters, trained from scratch by `stoical soft-prompt` on the words,
definitions and examples of WordNet's {texts:,} synsets ({tokens:,} tokens seen, loss {loss:.2f} nats a token over the
last {tail} steps, seed {seed}), with a BPE of {vocab_size:,} tokens. It writes text of a dictionary's look and knows
nothing: it is there to be frozen, where no model can be downloaded. Some rows of its training repeat their text.
WordNet is Princeton University's, under its own licence.
"""
TAIL = 20  # steps that the loss on the card is a mean of


@dataclass(frozen=True, slots=True)
class GlossModel:
    """Shape and training: AdamW, learning rates that rise for a tenth of the steps and fall to 0 along a cosine."""

    vocab_size: int = 2048
    hidden_size: int = 128
    layers: int = 4
    steps: int = 600
    rows: int = 32
    row_tokens: int = 128
    learning_rate: float = 3e-3
    seed: int = 0


def train_gloss_model(
    directory: Path,
    download: bool,
    setting: str,
    shape: GlossModel = GlossModel(),
    way_out: str = "model.download=true",
) -> None:
    """Train the model and save it with its tokenizer, whole or not at all; the directory's README says what it is.

    Raises `ValueError`, naming `setting` and the `way_out` that sets `download`, where there is no WordNet.
    """
    texts = data_prep("wordnet.glosses").gloss_texts(download, setting, way_out)
    tokenizer = train_bpe(texts, shape.vocab_size)
    stream = token_stream(tokenizer, texts)
    model = random_model(tokenizer, shape)
    losses = fit(model, stream, shape)
    facts = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "texts": len(texts),
        "tokens": shape.steps * shape.rows * shape.row_tokens,
        "loss": float(np.mean(losses[-TAIL:])),
        "tail": TAIL,
    }
    with writing(directory), staged(directory) as draft:
        model.save_pretrained(draft)
        save_tokenizer(tokenizer, draft)
        (draft / "README.md").write_text(CARD.format(**{**asdict(shape), **facts}), encoding="utf-8")


def token_stream(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Tensor:
    """All texts, one after the other, as ids: BOS, the text, EOS."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    return torch.tensor([token for ids in encoded for token in (ends[0], *ids, ends[1])])


def random_model(tokenizer: PreTrainedTokenizerBase, shape: GlossModel) -> PreTrainedModel:
    """The model before training, from its seed."""
    config = AutoConfig.for_model(
        "mistral",
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=8 * math.ceil(shape.hidden_size / 3),
        num_hidden_layers=shape.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=shape.hidden_size**-0.5,  # from 0.02, the default, it learns words that no prompt can change
        sliding_window=None,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(shape.seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def fit(model: PreTrainedModel, stream: Tensor, shape: GlossModel) -> list[float]:
    """Train on rows that begin anywhere in the stream; each step's loss in nats a token.

    A row repeats after a number of tokens that is drawn from a quarter of its length up to twice it, so that some do,
    as passages of larger corpora do.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=shape.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    warmup = max(1, shape.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / shape.steps))
    )
    random = np.random.default_rng(shape.seed)
    columns, losses = torch.arange(shape.row_tokens), []
    model.train()
    for _ in progress(range(shape.steps), "training a model of WordNet's glosses, steps"):
        starts = torch.from_numpy(random.integers(0, len(stream) - shape.row_tokens, shape.rows))
        period = torch.from_numpy(random.integers(shape.row_tokens // 4, 2 * shape.row_tokens, shape.rows))
        rows = stream[starts[:, None] + columns % period[:, None]]
        loss = model(input_ids=rows, labels=rows, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses
