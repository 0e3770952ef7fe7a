"""Make a dataset, or docIDs for items of your own.

  stoical prepare wordnet                                     the paper's WordNet task: 82,114 queries, in seconds
  stoical prepare chains|esci|beir|trec|pairs|text|docids [key=value ...]
  stoical prepare NAME --help                                 what one of them makes, and its options

From a checkout, `python -m data_prep.wordnet` is `stoical prepare wordnet`.
"""

from __future__ import annotations

import importlib
import importlib.util
import typing
from types import ModuleType

from stoical.commands.shell import Command, Given
from stoical.common.fields import unknown
from stoical.common.places import PACKAGE

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
    module = _module(MAKERS[name])
    options = typing.get_type_hints(module.build)["options"]
    return Command(str(module.__doc__), lambda given: module.build(given.options), options, bare=True)


def _module(name: str) -> ModuleType:
    """A module of data_prep: in a checkout the one beside this package, in an installation the one inside it.

    A `data_prep` that stands elsewhere is a folder of the user's.
    """
    found = importlib.util.find_spec("data_prep")
    ours = found is not None and found.origin == str(PACKAGE.parent / "data_prep" / "__init__.py")
    return importlib.import_module(f"{'data_prep' if ours else 'stoical.data_prep'}.{name}")


def run(given: Given) -> None:
    """Without a name, or with an option before it, there is nothing to make."""
    raise ValueError(f"give what to make first: stoical prepare {'|'.join(MAKERS)}")


main = Command(str(__doc__), run, settings=True)
