"""The noun graph of WordNet: every synset with the synsets its hypernym pointers name.

A copy for WordNet 3.0 ships beside this file, so that the dataset needs no download. It was made by

    python -m tools.wordnet_graph

from NLTK's corpus. One line is one synset, in the order of WordNet's `data.noun`: name, hypernyms (pointer
`@`) and instance hypernyms (`@i`), tab-separated, each in WordNet's own order. Names are NLTK's: first lemma,
`n`, sense number, as in `deer.n.01`. The pointers are read from WordNet's file and not from NLTK's
`Synset.hypernyms()`, which sorts them and so loses which hypernym comes first.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stoical.common.fields import alike

HERE = Path(__file__).parent
GRAPH_FILE = "wordnet_nouns.txt.gz"
LICENCE_FILE = "WORDNET_LICENSE"
ROOT = "entity.n.01"
HEADER = "# WordNet {} nouns: synset, hypernyms, instance hypernyms. Licence: " + LICENCE_FILE


@dataclass(frozen=True)
class NounGraph:
    """`parents`: synset -> its hypernyms, then its instance hypernyms; synsets in file order, one root."""

    version: str
    licence: str
    parents: dict[str, tuple[str, ...]]


@cache
def bundled_graph() -> NounGraph:
    """The graph that ships with stoical: WordNet 3.0, read once a process."""
    text = gzip.decompress((HERE / GRAPH_FILE).read_bytes()).decode()
    return parse_graph(text, (HERE / LICENCE_FILE).read_text(encoding="utf-8"))


def check_subtree(subtree: str, parents: Collection[str]) -> None:
    """Raise ValueError, with the nearest name, for a synset that is not in the graph."""
    if subtree not in parents:
        close = alike(subtree, parents)
        hint = f"; did you mean {close}?" if close else ""
        raise ValueError(f"subtree={subtree}: WordNet has no such noun synset{hint}")


def nltk_graph(download: bool) -> NounGraph:
    """The graph of the `wordnet` corpus in NLTK's data path, downloaded first if allowed and missing.

    Raises ValueError if NLTK or the corpus is missing, or if `entity.n.01` is not the one root.
    """
    return parse_graph(*nltk_graph_text(download))


def parse_graph(text: str, licence: str) -> NounGraph:
    """The graph of a text in the format above; ValueError if `entity.n.01` is not its one root."""
    header, *lines = text.splitlines()
    version = re.fullmatch(re.escape(HEADER).replace(r"\{\}", r"(\S+)"), header)
    assert version, header
    parents = {}
    for line in lines:
        name, hypernyms, instance_hypernyms = line.split("\t")
        parents[name] = (*hypernyms.split(), *instance_hypernyms.split())
    roots = [name for name, above in parents.items() if not above]
    if roots != [ROOT]:
        raise ValueError(f"WordNet {version[1]}: {ROOT} must be the only root, but the roots are {roots[:5]}")
    return NounGraph(version[1], licence, parents)


def nltk_graph_text(download: bool) -> tuple[str, str]:
    """The graph in the format above and WordNet's licence, from NLTK's corpus; ValueError if missing."""
    ensure_corpus(download)
    data = corpus_lines("data.noun")
    licence = "\n".join(re.sub(r"^ +\d+ ", "", line).rstrip() for line in data if line.startswith(" ")) + "\n"
    version = re.search(r"WordNet (\S+) Copyright", licence)
    if not version:
        raise ValueError("the header of NLTK's data.noun names no WordNet version; is the corpus complete?")
    return "\n".join([HEADER.format(version[1]), *_graph_lines(data)]) + "\n", licence


def _graph_lines(data: list[str]) -> Iterator[str]:
    """The lines of the graph from those of `data.noun` (see wndb(5WN) for its fields)."""
    rows = [line.split("|")[0].split() for line in data if not line.startswith(" ")]
    sense = _sense_numbers()
    names = {row[0]: f"{row[4].lower()}.n.{sense[row[4].lower(), row[0]]:02d}" for row in rows}
    for row in rows:
        pointers = row[5 + 2 * int(row[3], 16) :]  # after the words and the pointer count: 4 fields a pointer
        above = list(zip(pointers[::4], pointers[1::4], strict=True))
        hypernyms = [names[offset] for symbol, offset in above if symbol == "@"]
        instance_hypernyms = [names[offset] for symbol, offset in above if symbol == "@i"]
        yield "\t".join([names[row[0]], " ".join(hypernyms), " ".join(instance_hypernyms)])


def _sense_numbers() -> dict[tuple[str, str], int]:
    """(lemma, synset offset) -> sense number, from 1, as the order of offsets in `index.noun` has it."""
    numbers = {}
    for line in corpus_lines("index.noun"):
        if not line.startswith(" "):
            lemma, _, count, *rest = line.split()
            numbers.update({(lemma, offset): i for i, offset in enumerate(rest[-int(count) :], 1)})
    return numbers


def corpus_lines(name: str) -> list[str]:
    """The lines of a file of NLTK's `wordnet` corpus, which must be there."""
    import nltk

    with nltk.data.find(f"corpora/wordnet/{name}").open(encoding="utf-8") as file:
        text: str = file.read()
    return text.splitlines()


def ensure_corpus(download: bool) -> None:
    """Make sure that NLTK finds `wordnet`; with `download`, one process fetches it and the others wait.

    Raises ValueError if NLTK is not installed, if the corpus is missing, or if the download fails.
    """
    try:
        import nltk
        from filelock import FileLock
    except ModuleNotFoundError:
        raise ValueError("source=nltk needs NLTK: pip install nltk, or use source=bundled") from None
    if has_corpus():
        return
    if not download:
        raise ValueError(
            "NLTK has no 'wordnet' corpus: add download=true, or set NLTK_DATA to the directory that has "
            f"corpora/wordnet.zip, or use source=bundled (searched: {', '.join(nltk.data.path)})"
        )
    directory = Path(nltk.downloader.Downloader().default_download_dir())
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "wordnet.lock"):
        if not has_corpus():
            nltk.download("wordnet", download_dir=str(directory))
    if not has_corpus():
        raise ValueError(f"NLTK could not download 'wordnet' to {directory}; use source=bundled instead")


def has_corpus() -> bool:
    """True where NLTK finds `wordnet`."""
    import nltk

    try:
        nltk.data.find("corpora/wordnet/data.noun")
    except LookupError:
        return False
    return True
