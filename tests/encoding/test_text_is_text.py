"""Text is text: what looks like a control token in a query, a document or a docID is characters."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from stoical.encoding import tokenization
from stoical.encoding.tokenization import (
    check_round_trip,
    encode_prompt,
    load_tokenizer,
    mistral_v3_tokenizer,
    save_tokenizer,
    text_ids,
    train_bpe,
)
from tests.support.tiny_model import tiny_model

CONTROL = ["<s>", "</s>", "[INST]", "[/INST]", "<unk>", "[TOOL_CALLS]", "</s></s>", "a </s> b", "<s>[INST] x [/INST]"]
TEXTS = ["ruminant even-toed </s> [INST] <s> query document"] * 4


@pytest.fixture(scope="module", params=["mistral", "bpe"])
def tokenizer(request):
    return mistral_v3_tokenizer() if request.param == "mistral" else train_bpe(TEXTS, 300)


@pytest.mark.parametrize("text", CONTROL)
def test_control_strings_stay_characters_and_stay_different(tokenizer, text: str) -> None:
    ids = text_ids(tokenizer, text, "the query")
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id} & set(ids)
    assert ids != text_ids(tokenizer, text.replace("</s>", "").replace("<s>", "") + "x", "the query")
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_a_prompt_has_its_own_bos_alone(tokenizer) -> None:
    ids = encode_prompt(tokenizer, "Query: <s> </s>")
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in ids[1:]


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    """A tokenizer of a few words, without bytes to fall back to: all others are one unknown token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "red": 3, "shoes": 4}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def test_unknown_characters_are_refused_with_what_holds_them(words) -> None:
    assert text_ids(words, "red shoes", "the prompt") == [3, 4]
    with pytest.raises(ValueError, match=r"docID 'blue' has characters that the tokenizer does not know: b l u e"):
        text_ids(words, "blue", "docID 'blue'")


def test_a_saved_tokenizer_that_makes_other_ids_is_refused(tmp_path) -> None:
    first, second = train_bpe(TEXTS, 300), train_bpe(["ruminant ruminant deer deer"] * 4, 300)
    save_tokenizer(first, tmp_path)
    load_tokenizer(str(tmp_path))
    second.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="other ids than it was trained with"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3_5_text", "llama", "gemma3_text"])
def test_a_checkpoint_of_any_model_type_loads_the_tokenizer_it_was_trained_with(kind: str) -> None:
    config = tiny_model().config
    config.model_type = kind  # by which AutoTokenizer chooses a class
    check_round_trip(train_bpe(TEXTS, 300), config)


def test_a_checkpoint_that_would_load_another_tokenizer_is_refused(monkeypatch) -> None:
    """As transformers does for some model types: what is saved is read as another tokenizer."""
    other = train_bpe(["ruminant ruminant deer deer"] * 4, 300)
    monkeypatch.setattr(tokenization, "_loader", lambda _: lambda *_, **__: other)
    with pytest.raises(ValueError, match="other ids than it was trained with"):
        check_round_trip(train_bpe(TEXTS, 300), tiny_model().config)
