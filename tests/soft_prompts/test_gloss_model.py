"""The small model for machines without a hub: its texts, its training, and that it is there whole or not at all."""

from __future__ import annotations

import os

import pytest
import torch
from transformers import AutoModelForCausalLM

from data_prep.wordnet import glosses
from stoical.soft_prompts import gloss_model
from stoical.soft_prompts.gloss_model import GlossModel, fit, random_model, token_stream, train_gloss_model
from stoical.soft_prompts.settings import ModelOptions
from tests.support.tiny_frozen import TEXTS, small_tokenizer

TINY = GlossModel(vocab_size=300, hidden_size=16, layers=1, steps=6, rows=2, row_tokens=12, learning_rate=1e-2)
LINES = [
    "  1 a licence, which is not a synset",
    "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 002 @ 02083346 n 0000 ~ 01322604 n 0000 | a member of "
    'the genus Canis; "the dog barked all night"  ',
    "00014490 00 s 01 ample(a) 0 001 & 00013887 a 0000 | more than enough  ",
]


def test_a_text_by_hand():
    assert list(glosses._texts(LINES)) == [
        'dog, domestic dog, Canis familiaris: a member of the genus Canis; "the dog barked all night"',
        "ample: more than enough",
    ]


@pytest.mark.skipif("NLTK_DATA" not in os.environ, reason="needs NLTK's WordNet: set NLTK_DATA")
def test_every_synset_has_a_text():
    texts = glosses.gloss_texts(False, "a test", "nothing")
    assert len(texts) == 117_659
    assert texts[0].startswith("entity: that which is perceived")


def test_the_stream_holds_texts_between_bos_and_eos():
    tokenizer = small_tokenizer()
    stream = token_stream(tokenizer, TEXTS[:2]).tolist()
    own = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS[:2]]
    assert stream == [1, *own[0], 2, 1, *own[1], 2]


def test_it_learns_and_is_the_same_again():
    tokenizer = small_tokenizer()
    stream = token_stream(tokenizer, TEXTS * 20)
    models = [random_model(tokenizer, TINY) for _ in range(2)]
    losses = [fit(model, stream, GlossModel(**{**vars_of(TINY), "steps": 60})) for model in models]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 1
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))


def vars_of(shape):
    return {name: getattr(shape, name) for name in shape.__dataclass_fields__}


def test_it_is_saved_with_a_page_that_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.wordnet.glosses.gloss_texts", lambda download, setting, way_out: [*TEXTS] * 30)
    train_gloss_model(tmp_path / "glosses", False, "model.name=glosses", TINY)
    page = (tmp_path / "glosses" / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "glosses")
    assert f"{sum(weight.numel() for weight in model.parameters()):,} parameters" in page
    assert "WordNet" in page
    frozen = gloss_model_frozen(tmp_path / "glosses")
    assert frozen.start != frozen.eos
    assert frozen.room(8) == 1024 - 9


def gloss_model_frozen(directory):
    from stoical.soft_prompts.frozen import load_frozen

    return load_frozen(ModelOptions(str(directory)), "cpu")


def test_what_was_killed_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.wordnet.glosses.gloss_texts", lambda download, setting, way_out: [*TEXTS] * 30)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gloss_model, "save_tokenizer", fail)
    with pytest.raises(KeyboardInterrupt):
        train_gloss_model(tmp_path / "glosses", False, "model.name=glosses", TINY)
    assert not (tmp_path / "glosses").exists()
