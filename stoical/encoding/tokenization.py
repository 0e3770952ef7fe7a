"""Prompt ids and docID ids, made apart so that a docID's ids never depend on the prompt."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stoical.encoding.tokenized import Terminator

MISTRAL_V3_FILE = "mistral_instruct_tokenizer_240323.model.v3"
MISTRAL_V3_MODELS = ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-v0.3")


@dataclass
class DocIDTokenizer:
    """docID text -> token ids, cached. `terminator` ends every docID (EOS), so that "cat" stays a leaf beside "cats".

    With `count_terminator` false the terminator is decoded but counts neither in the loss nor in the score.
    """

    tokenizer: PreTrainedTokenizerBase
    terminator: Terminator
    count_terminator: bool
    _cache: dict[str, list[int]] = field(default_factory=dict)

    def __call__(self, docid: str) -> list[int]:
        """The docID's ids, terminator included. Raises `ValueError` for a docID that tokenizes to nothing."""
        ids = self._cache.get(docid)
        if ids is None:
            ids = list(self.tokenizer.encode(docid, add_special_tokens=False, split_special_tokens=True))
            if not ids:
                raise ValueError(f"docID {docid!r} tokenizes to nothing")
            if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in ids:
                raise ValueError(f"docID {docid!r} has characters that the tokenizer does not know: {ids}")
            if self.terminator == "eos":
                ids.append(self.tokenizer.eos_token_id)
            self._cache[docid] = ids
        return ids

    def counted(self, ids: Sequence[int]) -> int:
        """How many of a docID's ids the loss and the score count."""
        return len(ids) - int(self.terminator == "eos" and not self.count_terminator)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The prompt's ids with exactly one BOS, in front, if the tokenizer has one; the text's own are dropped."""
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    bos = tokenizer.bos_token_id
    return ids if bos is None else [bos, *(token for token in ids if token != bos)]


def load_tokenizer(name: str, local: bool = False) -> PreTrainedTokenizerBase:
    """`AutoTokenizer` from a directory or hub id; the Mistral v3 one comes out of `mistral-common` when offline.

    local: ask no network, which takes minutes to give up where there is none. Raises `ValueError` where the tokenizer
    cannot be loaded, or has no EOS to end docIDs with.
    """
    from transformers import AutoTokenizer  # which imports torch; a BPE of one's own needs none

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
    except (OSError, ValueError) as error:
        if name not in (*MISTRAL_V3_MODELS, "mistral-common"):
            reason = str(error).splitlines()[0].rstrip(" :")
            raise ValueError(
                f"tokenizer.name={name} cannot be loaded, as a directory or from the hub: {reason}"
            ) from error
        tokenizer = mistral_v3_tokenizer()
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {name!r} has no EOS token, which ends every docID")
    return tokenizer


def mistral_v3_tokenizer() -> PreTrainedTokenizerBase:
    """The 32,768-token tokenizer of Mistral-7B-v0.3, read from the files of the `mistral-common` package.

    Its merges are put in the order of SentencePiece's scores: transformers orders them by id, which cuts runs of spaces
    in other places. Raises `ValueError` where the package is not installed.
    """
    try:
        from sentencepiece import SentencePieceProcessor

        source = importlib.resources.files("mistral_common") / "data" / MISTRAL_V3_FILE
    except ModuleNotFoundError as error:
        raise ValueError(f"no hub, and {error.name} is not installed: pip install 'stoical[mistral]'") from error
    with tempfile.TemporaryDirectory() as directory, importlib.resources.as_file(source) as model:
        pieces = SentencePieceProcessor(model_file=str(model))
        shutil.copy(model, Path(directory) / "tokenizer.model")
        tokenizer = LlamaTokenizer.from_pretrained(directory)
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(len(pieces))}
    merges = sorted(map(tuple, state["merges"]), key=lambda pair: -scores["".join(pair)])
    tokenizer.backend_tokenizer.model = models.BPE(state["vocab"], merges, fuse_unk=True, byte_fallback=True)
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A small BPE in Llama's style (word-initial `▁`, byte fallback) trained on `texts`, for models from scratch.

    Raises `ValueError` where `vocab_size` is too small for the special tokens, the bytes and the texts' characters.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    ends_word = pre_tokenizers.Split(",", "merged_with_previous")  # [25,36,39]: a token a component, not across two
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), ends_word])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    specials = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    fixed = specials + byte_tokens
    trainer = trainers.BpeTrainer(vocab_size=max(vocab_size, len(fixed)), special_tokens=fixed, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() > vocab_size:
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size} is too small: the special tokens, bytes and characters of the dataset "
            f"alone make {tokenizer.get_vocab_size()}"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raise `ValueError` where the tokenizer makes ids that a model of `vocab_size` tokens has no row for."""
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens but the model's vocabulary only {vocab_size}; "
            "use the model's own tokenizer (tokenizer.name), or a larger vocabulary (model.config.vocab_size)"
        )


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills the padding: never attended to and never a label, so EOS serves where no pad token exists."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
