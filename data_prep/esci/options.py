"""What can be set for `stoical prepare esci`, and what may not be set together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stoical.common.options import option

from ..checks import refuse
from ..dataset_dir import check_replaceable
from ..docid_options import DocIDOptions, check_docid_options
from ..top_ranks import rank_rule


@dataclass
class EsciOptions(DocIDOptions):
    """What the user can set; `--help` prints it."""

    out: str = option("data/esci", "the directory to write; a dataset in it is replaced if this command made it")
    source: str = option(
        "",
        "a directory with shopping_queries_dataset_{examples,products}.parquet from "
        "github.com/amazon-science/esci-data, one joined .parquet or .jsonl file, or the hub id tasksource/esci",
    )
    revision: str = option("", "revision of the hub dataset; empty for the newest")
    queries: str = option(
        "", "instead of source: a .parquet or .jsonl file with query, product_locale[, query_id, split]"
    )
    titles: str = option(
        "", "with queries: one or more files, separated by commas, with product_id, product_title, product_locale"
    )
    corpus: Literal["us", "all"] = option(
        "us",
        "us: rank the US titles only, so that lists have all the ranks; all: as the paper, rank the titles of "
        "every locale and then take those of other locales out of the lists",
    )
    query_embeddings: str = option("", "with embedder=npy: a .npy file of floats, a row for each line of texts=")
    texts: str = option(
        "", "write queries.parquet and titles.parquet, the texts to embed in order, to this directory; stop"
    )
    rank_start: int = option(1, "the first rank to take")
    rank_step: int = option(100, "then the multiples of this")
    rank_end: int = option(10000, "the last rank that may be taken; so many titles are needed")
    collisions: Literal["keep_best", "disambiguate", "fail"] = option(
        "keep_best",
        "titles of one list with the same docID. keep_best: the best-ranked stays and the others leave the list; "
        "disambiguate: a further component tells them apart, in all lists; fail: stop",
    )
    split: Literal["data", "seeded"] = option(
        "data", "data: by the data's own split column, where it has one, else by the seed; seeded: by the seed"
    )
    test_size: int = option(310, "how many queries are for testing, where the seed decides; the paper tests on 310")


def check_options(options: EsciOptions, tool: str) -> list[int]:
    """The ranks to take. Raises ValueError for settings that are wrong, or that nothing would read."""
    if not options.texts:
        check_replaceable(Path(options.out), tool)
    if options.source and (options.queries or options.titles):
        raise ValueError("give either source=, or queries= and titles=, not both")
    if not options.source:
        refuse(options, ["revision"], "queries= and titles=")
    if options.docids == "text" and options.collisions == "disambiguate":
        raise ValueError("collisions=disambiguate adds a number to a docID, which docids=text has none of")
    check_docid_options(options)
    if options.embedder != "npy":
        refuse(options, ["query_embeddings"], f"embedder={options.embedder}")
    if options.embedder == "npy" and not (options.query_embeddings and options.title_embeddings) and not options.texts:
        raise ValueError("embedder=npy needs query_embeddings= and title_embeddings=; see texts= for their order")
    return rank_rule(options.rank_start, options.rank_step, options.rank_end)
