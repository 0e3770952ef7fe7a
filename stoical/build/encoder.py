"""A recipe to its tokenizer and its encoder of rows. Imports no torch for a BPE."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from transformers import PreTrainedTokenizerBase

from stoical.config.encoders import NO_LANGUAGE_MODEL
from stoical.config.recipe import Recipe
from stoical.data.dataset import RankingDataset, load_split
from stoical.data.rows import RankingRow
from stoical.encoding.queries import QueryEncoder
from stoical.encoding.tokenization import load_tokenizer, train_bpe

BPE_SAMPLE = 20_000  # queries that a BPE is trained on: more change its merges little


def build_tokenizer(
    recipe: Recipe, train: RankingDataset | None = None, local: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer that the recipe names, or a BPE trained on a sample of the training split (loaded if not given).

    local: no network is asked. Raises `ValueError` for the recipe of a lookup encoder.
    """
    if recipe.encoder is not None:
        raise ValueError(f"the recipe's {recipe.encoder.kind} {NO_LANGUAGE_MODEL}")
    if recipe.tokenizer.name != "bpe":
        return load_tokenizer(recipe.tokenizer.name, local)
    train = train or load_split(recipe.data.path, "train")
    assert recipe.tokenizer.vocab_size is not None
    picked = sorted(random.Random(0).sample(range(len(train)), min(len(train), BPE_SAMPLE)))
    return train_bpe(_texts(train[index] for index in picked), recipe.tokenizer.vocab_size)


def _texts(rows: Iterable[RankingRow]) -> Iterator[str]:
    for row in rows:
        yield row.query
        for doc in row.docs:
            yield doc.docid
            if doc.text:
                yield doc.text


def build_encoder(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> QueryEncoder:
    """Rows to token ids, as the recipe's prompt and tokenizer sections say."""
    prompt, docids = recipe.prompt, recipe.tokenizer
    own = prompt.template, prompt.max_length, recipe.seed, docids.terminator, docids.count_terminator
    return QueryEncoder.of(tokenizer, *own)
