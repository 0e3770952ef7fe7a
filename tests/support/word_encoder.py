"""An encoder with a token a word, so that every length can be counted by hand."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stoical.data.rows import Doc, RankingRow
from stoical.encoding.prompts import PromptTemplate
from stoical.encoding.queries import QueryEncoder
from stoical.encoding.tokenization import DocIDTokenizer
from stoical.encoding.tokenized import TokenizedQuery

NAMES = [f"d{i}" for i in range(1, 10)]
WORDS = ["<unk>", "<s>", "</s>", "deer", ":", "|", "long", "stone", *NAMES]
EOS = WORDS.index("</s>")


def encoder(max_length: int = 100, prompt: str = "{query} : {docs}", seed: int = 0, count: bool = True) -> QueryEncoder:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    docid_tokenizer = DocIDTokenizer(tokenizer, "eos", count)
    return QueryEncoder(PromptTemplate(prompt, "{docid}", " | "), tokenizer, docid_tokenizer, max_length, seed)


def row(*docids: str, negatives: tuple[str, ...] = (), ranks: list[int] | None = None) -> RankingRow:
    given = ranks or [None] * len(docids)
    docs = tuple(Doc(docid, rank=rank) for docid, rank in zip(docids, given, strict=True))
    return RankingRow("q7", "deer", docs, tuple(Doc(docid) for docid in negatives))


def words_of(query: TokenizedQuery) -> list[str]:
    return [WORDS[token] for token in query.prompt_ids]


def prompt_docs(query: TokenizedQuery) -> set[str]:
    """The documents written in the prompt, whose frame is checked on the way."""
    words = words_of(query)
    assert words[:3] == ["<s>", "deer", ":"]
    assert set(words[4::2]) <= {"|"}
    return set(words[3::2])
