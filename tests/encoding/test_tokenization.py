"""stoical/tokenization.py: Mistral's ids against Mistral's own tokenizer, docIDs, terminators, and the BPE."""

from __future__ import annotations

import importlib.resources
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import stoical.encoding.tokenization as tokenization
from stoical.encoding.tokenization import (
    MISTRAL_V3_FILE,
    DocIDTokenizer,
    check_vocabulary,
    encode_prompt,
    load_tokenizer,
    mistral_v3_tokenizer,
    train_bpe,
)
from tests.support.appendix_b import B1, B2, unwrapped

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mistral_v3_ids.json").read_text(encoding="utf-8"))
BOS, EOS = 1, 2
TEXTS = ["deer.n.01 ruminant.n.01 | mammal.n.01", "cat.n.01 feline.n.01 | mammal.n.01 ; entity.n.01 :"] * 5


@pytest.fixture(scope="module")
def mistral() -> PreTrainedTokenizerBase:
    return mistral_v3_tokenizer()


@pytest.fixture(scope="module")
def mistrals_own() -> Any:
    """Mistral's tokenizer in Mistral's package, on SentencePiece: nothing of transformers is in it."""
    sentencepiece = pytest.importorskip("mistral_common.tokens.tokenizers.sentencepiece")
    path = importlib.resources.files("mistral_common") / "data" / MISTRAL_V3_FILE
    return sentencepiece.SentencePieceTokenizer(str(path))


@pytest.fixture(scope="module")
def bpe() -> PreTrainedTokenizerFast:
    return train_bpe(TEXTS, 320)


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Whole words only, `#` is dropped, and no word but three is known."""
    words = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "deer", "cat", "mammal"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace("#", "")
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


@pytest.mark.parametrize(("name", "printed"), [("wordnet_prompt", B1), ("esci_prompt", B2)])
def test_the_papers_prompts_have_their_golden_ids(
    name: str, printed: str, mistral: PreTrainedTokenizerBase, mistrals_own: Any
) -> None:
    text = unwrapped(printed)
    assert encode_prompt(mistral, text) == GOLDEN[name] == mistrals_own.encode(text, bos=True, eos=False)


@pytest.mark.parametrize("docid", GOLDEN["docids"])
def test_docids_have_their_golden_ids(docid: str, mistral: PreTrainedTokenizerBase, mistrals_own: Any) -> None:
    golden = GOLDEN["docids"][docid]
    assert mistrals_own.encode(docid, bos=False, eos=False) == golden
    assert DocIDTokenizer(mistral, "eos", True)(docid) == [*golden, EOS]
    assert DocIDTokenizer(mistral, "none", True)(docid) == golden


PIECES = st.sampled_from(
    ["USB", "C", "[3", "Pack]", "10ft", "é", "漢字", "||", "\n", "\t", '1/2"', "_", "...", "<", "n.01"]
)
SPACES = st.sampled_from(["", " ", "  ", "   ", "     "])


@settings(deadline=None)
@given(pieces=st.lists(st.tuples(SPACES, PIECES), max_size=12))
def test_any_prompt_has_mistrals_own_ids(
    pieces: list[tuple[str, str]], mistral: PreTrainedTokenizerBase, mistrals_own: Any
) -> None:
    """Runs of spaces above all: product titles have them, and the order of the merges decides how they are cut."""
    text = "Query" + "".join(spaces + piece for spaces, piece in pieces)
    assert encode_prompt(mistral, text) == mistrals_own.encode(text, bos=True, eos=False)


def test_a_prompt_has_exactly_one_bos(mistral: PreTrainedTokenizerBase, bpe: PreTrainedTokenizerBase) -> None:
    for tokenizer in (mistral, bpe):
        for text in ("deer", "", "<s>[INST] deer [/INST]", "deer <s> cat"):
            ids = encode_prompt(tokenizer, text)
            assert ids[0] == BOS
            assert ids.count(BOS) == 1
            assert EOS not in ids
    assert mistral.convert_tokens_to_ids("[INST]") not in encode_prompt(mistral, "[INST] deer")


def test_what_a_tokenizer_adds_of_itself_is_left_out() -> None:
    """Many add BOS, and some EOS: a prompt that ended in EOS would end before its answer."""
    tokenizer = word_tokenizer(bos_token="<s>", eos_token="</s>")
    special = [("<s>", BOS), ("</s>", EOS)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=special)
    assert tokenizer.encode("deer") == [BOS, 3, EOS]
    assert encode_prompt(tokenizer, "deer cat") == [BOS, 3, 4]
    assert DocIDTokenizer(tokenizer, "eos", True)("deer cat") == [3, 4, EOS]
    assert DocIDTokenizer(tokenizer, "none", True)("deer cat") == [3, 4]


def test_a_tokenizer_without_bos_gets_none() -> None:
    tokenizer = word_tokenizer(eos_token="</s>")
    assert encode_prompt(tokenizer, "deer cat") == [3, 4]


def test_a_docid_has_the_same_ids_whatever_was_tokenized_before(mistral: PreTrainedTokenizerBase) -> None:
    docids = ["deer", "deer.n.01", "entity.n.01"]
    together = DocIDTokenizer(mistral, "eos", True)
    first = [list(together(docid)) for docid in docids]
    encode_prompt(mistral, "Most specific hypernym: deer")
    assert [together(docid) for docid in reversed(docids)] == first[::-1]
    assert [DocIDTokenizer(mistral, "eos", True)(docid) for docid in docids] == first
    assert all(BOS not in ids for ids in first)


def test_few_docids_are_kept_of_many(monkeypatch: pytest.MonkeyPatch, bpe: PreTrainedTokenizerBase) -> None:
    monkeypatch.setattr(tokenization, "CACHED", 3)
    tokenize = DocIDTokenizer(bpe, "eos", count_terminator=True)
    names = [f"n{place}" for place in (*range(8), *range(8))]
    found = [tokenize(name) for name in names]
    assert found[:8] == found[8:] == [DocIDTokenizer(bpe, "eos", True)(name) for name in names[:8]]
    assert len(tokenize._cache) <= 3


@pytest.mark.parametrize(
    ("terminator", "count", "tail", "uncounted"),
    [("eos", True, [EOS], 0), ("eos", False, [EOS], 1), ("none", True, [], 0)],
)
def test_terminator_policies(terminator: Any, count: bool, tail: list[int], uncounted: int) -> None:
    docid_tokenizer = DocIDTokenizer(word_tokenizer(eos_token="</s>"), terminator, count)
    ids = docid_tokenizer("deer cat")
    assert ids == [3, 4, *tail]
    assert docid_tokenizer.counted(ids) == len(ids) - uncounted


def test_a_prefix_docid_is_a_leaf_with_a_terminator_only(bpe: PreTrainedTokenizerBase) -> None:
    def begins(longer: list[int], shorter: list[int]) -> bool:
        return longer[: len(shorter)] == shorter

    bare, ended = DocIDTokenizer(bpe, "none", True), DocIDTokenizer(bpe, "eos", True)
    assert begins(bare("cat.n.01 feline.n.01"), bare("cat.n.01"))
    assert not begins(ended("cat.n.01 feline.n.01"), ended("cat.n.01"))


def test_special_tokens_in_a_docid_are_only_text(mistral: PreTrainedTokenizerBase, mistrals_own: Any) -> None:
    """Else "</s>" would end the docID in its middle."""
    docid_tokenizer = DocIDTokenizer(mistral, "none", True)
    for docid in ("a</s>b", "</s>", "<s>", "[INST]"):
        assert docid_tokenizer(docid) == mistrals_own.encode(docid, bos=False, eos=False)


def test_a_docid_that_tokenizes_to_nothing_is_an_error() -> None:
    docid_tokenizer = DocIDTokenizer(word_tokenizer(eos_token="</s>"), "eos", True)
    with pytest.raises(ValueError, match="docID '##' tokenizes to nothing"):
        docid_tokenizer("##")


def test_a_docid_with_unknown_characters_is_an_error() -> None:
    docid_tokenizer = DocIDTokenizer(word_tokenizer(eos_token="</s>"), "eos", True)
    with pytest.raises(ValueError, match="docID 'deer dog' has characters that the tokenizer does not know"):
        docid_tokenizer("deer dog")


def test_the_bpe_cuts_docids_of_numbers_between_their_components() -> None:
    """Else a token such as `5,36` would hide that docIDs share a component."""
    docids = [f"[{a},{b},{c}]" for a in range(10, 20) for b in range(10, 20) for c in range(10, 20)]
    bpe = train_bpe(docids, 330)
    ids = [bpe.encode(docid, add_special_tokens=False) for docid in docids]
    assert {len(tokens) for tokens in ids} == {3}
    assert len({tokens[0] for tokens in ids}) == len({tokens[1] for tokens in ids}) == 10
    assert bpe.decode(ids[123]) == docids[123]


def test_byte_fallback_leaves_nothing_unknown(mistral: PreTrainedTokenizerBase, bpe: PreTrainedTokenizerBase) -> None:
    for tokenizer in (mistral, bpe):
        ids = DocIDTokenizer(tokenizer, "none", True)("鹿\x01")
        assert tokenizer.decode(ids) == "鹿\x01"


def test_the_bpe_has_the_size_asked_for_and_is_the_same_every_time(bpe: PreTrainedTokenizerFast) -> None:
    assert len(bpe) == 320
    assert (bpe.unk_token_id, bpe.bos_token_id, bpe.eos_token_id) == (0, BOS, EOS)
    assert train_bpe(TEXTS, 320).get_vocab() == bpe.get_vocab()
    often, rare = bpe.encode("mammal.n.01"), bpe.encode("zebra")
    assert len(often) < len("mammal.n.01") / 2, "merges were learned"
    assert len(rare) >= len("zebra")


@pytest.mark.parametrize("size", [-1, 0, 100, 259])
def test_a_vocabulary_too_small_for_the_texts_is_an_error(size: int) -> None:
    """3 special tokens, 256 bytes and the characters `▁abc`: 263 at the least."""
    with pytest.raises(ValueError, match=f"tokenizer.vocab_size={size} is too small.* alone make 263"):
        train_bpe(["abc cab"], size)
    assert len(train_bpe(["abc cab"], 263)) == 263


def test_the_bpe_survives_saving_and_loading(bpe: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    bpe.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.get_vocab() == bpe.get_vocab()
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id) == (BOS, EOS, 0)
    for text in (*TEXTS, "  two  spaces ", "鹿 é\n\ttab", "mammal.n.01 |"):
        assert encode_prompt(loaded, text) == encode_prompt(bpe, text)
    for docid in ("deer.n.01", "[25,36,39]", "鹿"):
        ids = DocIDTokenizer(loaded, "eos", True)(docid)
        assert ids == DocIDTokenizer(bpe, "eos", True)(docid)
        assert loaded.decode(ids[:-1]) == docid


def test_mistrals_tokenizer_survives_saving_and_loading(mistral: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """A checkpoint holds it; the order of its merges must come back with it."""
    mistral.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == 32768
    for text in (unwrapped(B1), "USB  C   Cable,     2Pack"):
        assert encode_prompt(loaded, text) == encode_prompt(mistral, text)


@pytest.mark.parametrize("name", ["mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-v0.3", "mistral-common"])
def test_without_a_network_mistrals_tokenizer_comes_from_mistral_common(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_hub(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", no_hub)
    tokenizer = load_tokenizer(name)
    assert encode_prompt(tokenizer, unwrapped(B1)) == GOLDEN["wordnet_prompt"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (BOS, EOS, 32768)


def test_without_mistral_common_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mistral_common", None)
    with pytest.raises(ValueError, match=r"mistral_common is not installed: pip install 'stoical\[mistral\]'"):
        mistral_v3_tokenizer()


def test_another_tokenizer_that_cannot_be_loaded_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"tokenizer\.name=nobody/nothing cannot be loaded") as caught:
        load_tokenizer("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"tokenizer\.name=.* cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_eos_is_an_error(tmp_path: Path) -> None:
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no EOS token, which ends every docID"):
        load_tokenizer(str(tmp_path))


def test_the_model_must_have_a_row_for_every_token(bpe: PreTrainedTokenizerFast) -> None:
    check_vocabulary(bpe, 320)
    check_vocabulary(bpe, 512)
    with pytest.raises(ValueError, match="the tokenizer has ids for 320 tokens but the model's vocabulary only 319"):
        check_vocabulary(bpe, 319)


def test_ids_that_leave_numbers_out_need_rows_up_to_the_last(tmp_path: Path) -> None:
    """Three tokens, and an id of 9: a model of three rows would fail in the middle of a run."""
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 9, "</s>": 3}, unk_token="</s>"))
    sparse = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    check_vocabulary(sparse, 10)
    with pytest.raises(ValueError, match="the tokenizer has ids for 10 tokens but the model's vocabulary only 9"):
        check_vocabulary(sparse, 9)
