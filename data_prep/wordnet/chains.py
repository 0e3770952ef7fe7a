"""Make a small plain-text task of WordNet: write the hypernyms of a noun, from the nearest one up to the root.

    stoical prepare chains
    stoical prepare chains out=data/tools subtree=artifact.n.01 test_size=500

A prompt is a noun and some of its coordinate terms, nouns with the same direct hypernym; the target is the chain:

    basset ; beagle , otterhound :
    hound > hunting dog > dog > canine > carnivore > placental > mammal > ... > entity

Test nouns are leaves, and do not occur in any prompt or target of training. Their chains are those of training nouns.
The first tokens decide which chain it is: after a wrong noun, the rest is the chain of that noun.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stoical.common.options import option

from ..checks import check_least, check_seed
from ..dataset_dir import Row, check_replaceable, write_dataset
from .graph import bundled_graph
from .hypernyms import Parents, choose_parents, climb, find_queries

TOOL = "stoical prepare chains"


@dataclass
class ChainOptions:
    """What the user can set; `--help` prints it."""

    out: str = option("data/chains", "the directory to write; a dataset in it is replaced if this command made it")
    subtree: str = option("mammal.n.01", "the nouns are those below this synset; their chains still reach the root")
    coordinates: int = option(2, "at most how many coordinate terms a prompt has: training nouns, drawn by the seed")
    test_size: int = option(200, "how many nouns, all of them leaves, are for testing; the others are for training")
    seed: int = option(0, "seed of the split and of the coordinate terms, 0 to 4294967295")


def build(options: ChainOptions) -> None:
    """Make the dataset that `options` describe; ValueError where they cannot be met."""
    _check(options)
    graph = bundled_graph()
    splits = make_splits(graph.parents, options)
    facts = {
        "name": "chains",
        "tool": TOOL,
        "source": "bundled",
        "version": f"WordNet {graph.version}",
        "licence": f"WordNet {graph.version} licence (Princeton University): see LICENSE",
        "seed": options.seed,
        "options": {key: getattr(options, key) for key in ("subtree", "coordinates", "test_size")},
    }
    manifest = write_dataset(Path(options.out), splits, graph.licence, facts)
    for split, counts in manifest["splits"].items():
        print(f"  {split}: {counts['queries']:,} prompts with their targets")
    print(f"wrote {options.out}")


def _check(options: ChainOptions) -> None:
    check_replaceable(Path(options.out), TOOL)
    check_seed(options.seed)
    check_least(options, coordinates=0, test_size=1)


def make_splits(parents: Parents, options: ChainOptions) -> dict[str, list[Row]]:
    """The rows of `train` and `test`, each in random order."""
    chosen = choose_parents(parents, "primary")
    nouns = one_sense(find_queries(parents, chosen, options.subtree))
    inner = {chosen[noun] for noun in nouns}
    random = np.random.RandomState(options.seed)  # unlike default_rng, the same numbers in every numpy
    shuffled = [nouns[i] for i in random.permutation(len(nouns))]
    leaves = [noun for noun in shuffled if noun not in inner]
    if options.test_size >= len(leaves):
        some = len(leaves) // 6
        raise ValueError(f"test_size={options.test_size}: there are {len(leaves)} leaves, so give less, such as {some}")
    test = set(leaves[: options.test_size])
    family = defaultdict(list)
    for noun in nouns:
        if noun not in test:
            family[chosen[noun]].append(noun)

    def row(noun: str) -> Row:
        terms = [other for other in family[chosen[noun]] if other != noun]
        picked = [terms[i] for i in random.permutation(len(terms))[: options.coordinates]]
        return make_row(noun, picked, climb(chosen, noun))

    train = [noun for noun in shuffled if noun not in test]
    return {"train": [row(noun) for noun in train], "test": [row(noun) for noun in leaves[: options.test_size]]}


def one_sense(nouns: Sequence[str]) -> list[str]:
    """The first synset of every word, so that no two prompts start alike."""
    return list({word(noun): noun for noun in reversed(nouns)}.values())[::-1]


def make_row(noun: str, terms: Sequence[str], above: Sequence[str]) -> Row:
    """A prompt as the query, and its target as the one docID."""
    prompt = f"{word(noun)} ; {' , '.join(map(word, terms))} :" if terms else f"{word(noun)} :"
    return {"query_id": noun, "query": prompt, "docs": [{"docid": " > ".join(map(word, above))}]}


def word(name: str) -> str:
    """`hunting dog` of `hunting_dog.n.01`."""
    return name.rsplit(".", 2)[0].replace("_", " ")
