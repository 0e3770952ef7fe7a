"""Make a dataset, or docIDs for items of your own.

  stoical prepare wordnet                                     the paper's WordNet task: 82,114 queries, in seconds
  stoical prepare chains|esci|beir|trec|pairs|text|docids [key=value ...]
  stoical prepare NAME --help                                 what one of them makes, and its options

From a checkout, `python -m data_prep.wordnet` is `stoical prepare wordnet`.
"""

from __future__ import annotations

import typing

from stoical.commands.shell import Command, Given
from stoical.common.fields import unknown
from stoical.common.places import data_prep

MAKERS = {  # name -> module of data_prep
    "wordnet": "wordnet.hypernyms",
    "chains": "wordnet.chains",
    "esci": "esci.build",
    "beir": "importers.beir",
    "trec": "importers.trec",
    "pairs": "importers.pairs",
    "text": "importers.text",
    "docids": "docids",
}


def find(name: str) -> Command:
    """The command that makes a dataset of that name. Raises `ValueError` where there is none."""
    if name not in MAKERS:
        raise unknown("dataset", name, list(MAKERS), f" stoical prepare makes {', '.join(MAKERS)}.")
    module = data_prep(MAKERS[name])
    options = typing.get_type_hints(module.build)["options"]
    return Command(str(module.__doc__), lambda given: module.build(given.options), options, bare=True)


def run(given: Given) -> None:
    """Without a name, or with an option before it, there is nothing to make."""
    raise ValueError(f"give what to make first: stoical prepare {'|'.join(MAKERS)}")


main = Command(str(__doc__), run, settings=True)
