"""Fifty texts of three kinds, and longer ones cut to lengths in tokens for the horizon."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PHRASES = (
    *("hunting dog", "a cup of tea", "the red car", "summer rain", "open the door", "black and white", "a long way"),
    *("the old bridge", "bread and butter", "a sharp knife", "the third floor", "green apples", "a broken clock"),
    *("under the table", "the last train", "cold water", "a small boat"),
)
SENTENCES = (
    "London is the capital of England",
    "the cat sat on the mat and slept",
    "water boils at a lower temperature in the mountains",
    "she wrote a letter to her sister in the city",
    "the train to the north leaves at nine",
    "he has not read the book that he bought",
    "a large part of the forest burned down in summer",
    "the children played in the garden until dark",
    "most birds build their nests in spring",
    "the old man told us a story about the sea",
    "nobody knew where the money had gone",
    "the river rises in the hills and runs to the coast",
    "we had bread and cheese for lunch",
    "the judge did not believe the witness",
    "it was too cold to swim in the lake",
    "the music stopped and everyone went home",
    "iron is heavier than wood",
)
LETTERS = "ATSC"
RANDOM = 16  # strings of letters
LONG = (
    "the engineer who built the bridge over the river lived in a small house near the station and every morning he "
    "walked to the market to buy bread, fruit and a newspaper before the first train left for the capital",
    "when the storm had passed the fishermen went down to the harbour to see what was left of their boats, and they "
    "found that only two of them could still sail, so the village shared them through the winter",
)
LENGTHS = (4, 8, 16, 32)  # tokens, EOS included


def kinds() -> dict[str, list[str]]:
    """The texts by kind: 17 phrases, 17 sentences, 16 strings of 6 to 8 letters without any order."""
    draw = random.Random(0)
    strings = ["".join(draw.choice(LETTERS) for _ in range(draw.randint(6, 8))) for _ in range(RANDOM)]
    return {"phrase": [*PHRASES], "sentence": [*SENTENCES], "random": strings}


def cut_to_lengths(tokenizer: PreTrainedTokenizerBase, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    """The beginnings of the long texts as ids: of each text one a length, with EOS as the last token."""
    whole = [tokenizer.encode(text, add_special_tokens=False) for text in LONG]
    return [[*ids[: length - 1], tokenizer.eos_token_id] for ids in whole for length in lengths]
