"""Prompt ids and docID ids, made apart so that a docID's ids never depend on the prompt."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from stoical.common.files import json_object
from stoical.encoding.tokenized import Terminator

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

PROBES_FILE = "tokenizer_check.json"
PROBES = (  # what tokenizers disagree about: words, digits, punctuation, spaces, capitals, accents, other scripts
    *("ruminant", "deer.n.01", "even-toed ungulate", "[25,36,39]", "Query: red shoes; Documents: a | b", "B00ABCDE12"),
    *("  two  spaces", "tab\tand\nnew line", "caf\u00e9 na\u00efve", "\u9e7f", "don't", "3.14159", "</s> [INST]"),
)
CACHED = 2**17  # docIDs, about 60 MB: all nouns of WordNet, and not all of a stream that never ends
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
ANY_FAST = ("TokenizersBackend", "PreTrainedTokenizerFast")
MISTRAL_V3_FILE = "mistral_instruct_tokenizer_240323.model.v3"
MISTRAL_V3_MODELS = ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-v0.3")


@dataclass
class DocIDTokenizer:
    """docID text -> token ids, CACHED of them kept. `terminator` (EOS) ends every docID: "cat" is a leaf beside "cats".

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
            ids = text_ids(self.tokenizer, docid, f"docID {docid!r}")
            if not ids:
                raise ValueError(f"docID {docid!r} tokenizes to nothing")
            if self.terminator == "eos":
                ids.append(self.tokenizer.eos_token_id)
            if len(self._cache) == CACHED:
                self._cache.clear()
            self._cache[docid] = ids
        return ids

    def counted(self, ids: Sequence[int]) -> int:
        """How many of a docID's ids the loss and the score count."""
        return len(ids) - int(self.terminator == "eos" and not self.count_terminator)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The prompt's ids with exactly one BOS, in front, if the tokenizer has one. Raises `ValueError` as `text_ids`."""
    ids = text_ids(tokenizer, text, "the prompt")
    bos = tokenizer.bos_token_id
    return ids if bos is None else [bos, *ids]


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, what: str) -> list[int]:
    """The ids of a text that is only text: `</s>` or `[INST]` in it are characters, never control tokens.

    Raises `ValueError`, naming `what`, for characters that the tokenizer does not know, since different texts would
    become one, and where it makes a control token of them all the same.
    """
    ids = list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
    unknown, control = _special_ids(tokenizer)
    if unknown in ids:
        raise ValueError(
            f"{what} has characters that the tokenizer does not know{_unknown_characters(tokenizer, text)}; leave them "
            "out, or use a tokenizer that falls back to bytes"
        )
    if not control.isdisjoint(ids):
        found = tokenizer.convert_ids_to_tokens([token for token in ids if token in control][:1])
        raise ValueError(f"{what} holds {found[0]!r}, which the tokenizer takes for a control token; leave it out")
    return ids


@lru_cache(maxsize=8)
def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, frozenset[int]]:
    """The id of unknown characters, and those of all other control tokens; bytes, as `<0x7C>`, are text."""
    unknown, added = tokenizer.unk_token_id, tokenizer.added_tokens_decoder
    special = {int(token) for token, kind in added.items() if kind.special and not BYTE.fullmatch(kind.content)}
    return unknown, frozenset({*tokenizer.all_special_ids, *special} - {unknown})


def _unknown_characters(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Which characters are unknown by themselves, for a message; empty where only their combination is."""
    each = (char for char in dict.fromkeys(text) if not char.isspace())
    found = [
        char
        for char in each
        if tokenizer.unk_token_id in tokenizer.encode(char, add_special_tokens=False, split_special_tokens=True)
    ]
    return f": {' '.join(found[:5])}" if found else ""


def load_tokenizer(name: str, local: bool = False) -> PreTrainedTokenizerBase:
    """`AutoTokenizer` from a directory or hub id; the Mistral v3 one comes out of `mistral-common` when offline.

    local: ask no network, which takes minutes to give up where there is none. Raises `ValueError` where the tokenizer
    cannot be loaded, or has no EOS to end docIDs with.
    """
    try:
        tokenizer = _loader(name)(name, local_files_only=local)
    except Exception as error:  # damaged files end in errors of any kind, Exception itself among them
        if name not in (*MISTRAL_V3_MODELS, "mistral-common"):
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" :")
            raise ValueError(
                f"tokenizer.name={name} cannot be loaded, as a directory or from the hub: {reason}{inside_of_run(name)}"
            ) from error
        tokenizer = mistral_v3_tokenizer()
    if tokenizer.eos_token_id is None:
        raise ValueError(f"tokenizer {name!r} has no EOS token, which ends every docID")
    _check_probes(tokenizer, Path(name))
    return tokenizer


def inside_of_run(name: str) -> str:
    """What a message says of the directory of a run, which holds no model and no tokenizer itself; else nothing."""
    found = sorted(path.name for path in Path(name).glob("checkpoint-*"))
    return f"; it is the directory of a run: take a checkpoint, such as {name}/{found[0]}" if found else ""


def _loader(name: str) -> Callable[..., Any]:
    """What loads a tokenizer: where its own files say "any fast one", not what `AutoTokenizer` makes of config.json.

    For some model types (qwen2, qwen3_5) that is a class of its own, which splits text in other places. Code that comes
    with a tokenizer is never run, nor is anybody asked whether to.
    """
    from transformers import AutoTokenizer  # which imports torch; a BPE of one's own needs none

    path = Path(name) / "tokenizer_config.json"
    if path.is_file() and json_object(path).get("tokenizer_class") in ANY_FAST:
        return PreTrainedTokenizerFast.from_pretrained
    return partial(AutoTokenizer.from_pretrained, trust_remote_code=False)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the tokenizer and the ids that it makes of a few texts, which `load_tokenizer` compares with its own."""
    tokenizer.save_pretrained(directory)
    keep_probes(tokenizer, directory)


def keep_probes(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the ids that the tokenizer makes of a few texts beside its saved files."""
    (directory / PROBES_FILE).write_text(json.dumps(_probes(tokenizer), indent=1) + "\n", encoding="utf-8")


def _probes(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    encoded = {text: tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in PROBES}
    return {text: list(map(int, ids)) for text, ids in encoded.items()}


def _check_probes(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Raise `ValueError` where the tokenizer in a directory makes other ids than the one that was saved there."""
    path = directory / PROBES_FILE
    if not path.is_file():
        return
    now = _probes(tokenizer)
    for text, ids in json_object(path).items():
        if now.get(text, ids) != ids:
            raise ValueError(
                f"{directory}: {type(tokenizer).__name__} makes {now[text]} of {text!r}, and the tokenizer that was "
                f"saved there made {ids}: the model would read other ids than it was trained with"
            )


def check_round_trip(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Raise `ValueError` where a checkpoint of this model would not load the tokenizer that it was trained with."""
    with tempfile.TemporaryDirectory() as directory:
        config.save_pretrained(directory)
        save_tokenizer(tokenizer, Path(directory))
        load_tokenizer(directory)


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


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many rows of embeddings its ids need: more than it has tokens where ids are left out."""
    return 1 + max(tokenizer.get_vocab().values())


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Raise `ValueError` where the tokenizer makes ids that a model of `vocab_size` tokens has no row for."""
    needed = vocabulary_size(tokenizer)
    if needed > vocab_size:
        raise ValueError(
            f"the tokenizer has ids for {needed} tokens but the model's vocabulary only {vocab_size}; "
            "use the model's own tokenizer (tokenizer.name), or a larger vocabulary (model.config.vocab_size)"
        )


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills the padding: never attended to and never a label, so EOS serves where no pad token exists."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
