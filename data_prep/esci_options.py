"""What can be set for `python -m data_prep.esci`, and what may not be set together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from data_prep.dataset_dir import check_replaceable
from data_prep.top_ranks import rank_rule


def _option(default: object, explanation: str) -> Any:
    return field(default=default, metadata={"help": explanation})


@dataclass
class EsciOptions:
    """What the user can set; `--help` prints it."""

    out: str = _option("data/esci", "directory to write; one that exists must come from this command")
    source: str = _option(
        "",
        "a directory with shopping_queries_dataset_{examples,products}.parquet from "
        "github.com/amazon-science/esci-data, one joined .parquet or .jsonl file, or the hub id tasksource/esci",
    )
    revision: str = _option("", "revision of the hub dataset; empty for the newest")
    queries: str = _option(
        "", "instead of source: a .parquet or .jsonl file with query, product_locale[, query_id, split]"
    )
    titles: str = _option(
        "", "with queries: one or more files, separated by commas, with product_id, product_title, product_locale"
    )
    corpus: Literal["us", "all"] = _option(
        "us",
        "us: rank the US titles only, so that lists have all the ranks; all: as the paper, rank the titles of "
        "every locale and then take those of other locales out of the lists",
    )
    embedder: str = _option(
        "tfidf", "tfidf (no download), npy (precomputed), or the name of a sentence-transformers model"
    )
    embedder_revision: str = _option("", "revision of the sentence-transformers model; empty for the newest")
    dimensions: int = _option(256, "with embedder=tfidf: dimensions of the truncated SVD")
    query_embeddings: str = _option("", "with embedder=npy: a .npy file of floats, a row for each line of texts=")
    title_embeddings: str = _option("", "with embedder=npy: the same for titles")
    texts: str = _option(
        "", "write queries.parquet and titles.parquet, the texts to embed in order, to this directory; stop"
    )
    rank_start: int = _option(1, "the first rank to take")
    rank_step: int = _option(100, "then the multiples of this")
    rank_end: int = _option(10000, "the last rank that may be taken; so many titles are needed")
    docids: Literal["sparse", "residual", "hierarchical", "text"] = _option(
        "sparse",
        "sparse: dictionary learning and orthogonal matching pursuit, as the paper; residual, hierarchical: "
        "k-means; text: the title itself",
    )
    components: int = _option(100, "atoms of the dictionary, or clusters of a level of k-means")
    nonzeros: int = _option(3, "components of a docID: non-zeros of a sparse code, or levels of k-means")
    alpha: float = _option(
        1.0, "with docids=sparse: the L1 penalty of dictionary learning; 1 is scikit-learn's default"
    )
    collisions: Literal["keep_best", "disambiguate", "fail"] = _option(
        "keep_best",
        "titles of one list with the same docID. keep_best: the best-ranked stays and the others leave the list; "
        "disambiguate: a further component tells them apart, in all lists; fail: stop",
    )
    split: Literal["data", "seeded"] = _option(
        "data", "data: by the data's own split column, where it has one, else by the seed; seeded: by the seed"
    )
    test_size: int = _option(310, "how many queries are for testing, where the seed decides; the paper tests on 310")
    seed: int = _option(0, "seed of the split, the SVD, the dictionary and k-means, 0 to 4294967295")
    device: str = _option("cpu", "torch device of inner products, matching pursuit and the model")


def check_options(options: EsciOptions, tool: str) -> list[int]:
    """The ranks to take. Raises ValueError for settings that are wrong, or that nothing would read."""
    if not options.texts:
        check_replaceable(Path(options.out), tool)
    if options.source and (options.queries or options.titles):
        raise ValueError("give either source=, or queries= and titles=, not both")
    if not options.source:
        refuse(options, ["revision"], "queries= and titles=")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={options.device}: {str(error).splitlines()[0]}") from None
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"seed={options.seed}: must be from 0 to 4294967295")
    for name in ("components", "nonzeros", "dimensions", "alpha"):
        if not getattr(options, name) > 0:
            raise ValueError(f"{name}={getattr(options, name)}: must be above 0")
    if options.docids == "text" and options.collisions == "disambiguate":
        raise ValueError("collisions=disambiguate adds a number to a docID, which docids=text has none of")
    unread = {"sparse": (), "text": ("components", "nonzeros", "alpha")}.get(options.docids, ("alpha",))
    refuse(options, unread, f"docids={options.docids}")
    read = {"tfidf": ("dimensions",), "npy": ("query_embeddings", "title_embeddings")}
    own = ("dimensions", "query_embeddings", "title_embeddings", "embedder_revision")
    mine = read.get(options.embedder, ("embedder_revision",))
    refuse(options, [name for name in own if name not in mine], f"embedder={options.embedder}")
    if options.embedder == "npy" and not (options.query_embeddings and options.title_embeddings) and not options.texts:
        raise ValueError("embedder=npy needs query_embeddings= and title_embeddings=; see texts= for their order")
    return rank_rule(options.rank_start, options.rank_step, options.rank_end)


def refuse(options: EsciOptions, names: Sequence[str], because: str) -> None:
    """Raise ValueError for the first of the settings that is not at its default, as nothing would read it."""
    defaults = {field.name: field.default for field in fields(EsciOptions)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise ValueError(f"{name}={getattr(options, name)} has no effect with {because}: drop it")
