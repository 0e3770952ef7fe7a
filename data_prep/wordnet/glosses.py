"""WordNet's glosses and examples as short texts, a synset each: `deer, cervid: distinguished from Bovidae by ...`.

They are read from NLTK's corpus: only the noun graph ships with stoical.
"""

from __future__ import annotations

from collections.abc import Iterator

from .graph import corpus_lines, ensure_corpus, has_corpus

PARTS = ("noun", "verb", "adj", "adv")


def gloss_texts(download: bool, setting: str, way_out: str) -> list[str]:
    """The texts of all synsets, in the order of WordNet's files.

    Raises ValueError, naming the `setting` that asked for them and the `way_out` that allows the download, where NLTK
    does not find WordNet and may not, or cannot, download it.
    """
    if not has_corpus() and not download:
        raise ValueError(
            f"{setting} is trained on WordNet's glosses, which NLTK does not find: add {way_out}, or set "
            "NLTK_DATA to the directory that has corpora/wordnet.zip, or name a model of your own"
        )
    ensure_corpus(download)
    return [text for part in PARTS for text in _texts(corpus_lines(f"data.{part}"))]


def _texts(lines: list[str]) -> Iterator[str]:
    """The text of every line of a data file (see wndb(5WN)): words, then definition and examples after the bar."""
    for line in lines:
        if not line.startswith(" "):
            data, _, gloss = line.partition(" | ")
            fields = data.split()
            words = (word.partition("(")[0] for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2])
            yield f"{', '.join(words).replace('_', ' ')}: {gloss.strip()}"
