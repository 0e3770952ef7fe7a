"""Make the ESCI dataset: for each shopping query, product titles ranked by inner product, with learned docIDs.

    stoical prepare esci source=DIRECTORY
    stoical prepare esci source=tasksource/esci embedder=sentence-transformers/all-MiniLM-L6-v2
    stoical prepare esci queries=FILE titles=FILE,FILE rank_end=1000

After section 5.1 of the SToICaL paper: the titles at ranks 1, 100, 200, ..., 10000 for each query, and docIDs of three
numbers by dictionary learning and orthogonal matching pursuit. Rows that are left out are counted in manifest.json and
listed in dropped.parquet; items.parquet says which product has which docID.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.arrays import Bools, Ints
from stoical.common.lazy import pa, pq
from stoical.common.progress import report
from stoical.docids.report import docid_report
from stoical.docids.sparse_codes import docid_texts
from stoical.docids.table import DocIDTable

from ..checks import refuse
from ..dataset_dir import write_dataset
from ..docid_paths import make_paths
from ..dropped import Dropped, print_dropped
from ..embeddings import Embeddings, load_embeddings, model_embeddings, tfidf_embeddings, zero_rows
from ..top_ranks import check_enough, top_ranks
from .files import EsciSource, read_separate, read_source
from .lists import Lists, rows_table, settle_collisions, split_rows, subset
from .options import EsciOptions, check_options
from .texts import LOCALE, Texts, collect_queries, collect_titles, count_source

TOOL = "stoical prepare esci"
LICENCE_FILE = Path(__file__).parent / "ESCI_LICENSE"


def build(options: EsciOptions) -> None:
    """Make the dataset that `options` describe; ValueError where they cannot be met."""
    clock, dropped = time.perf_counter(), Dropped()
    ranks = check_options(options, TOOL)
    separate = options.queries or options.titles
    source = (
        read_separate(options.queries, options.titles) if separate else read_source(options.source, options.revision)
    )
    queries, titles = collect_queries(source.queries, dropped), collect_titles(source.titles, options.corpus, dropped)
    clock = report(clock, f"read {source.name}: {len(queries):,} queries and {len(titles):,} titles to use")
    if options.texts:
        return write_texts(Path(options.texts), queries, titles)
    check_enough(len(titles), ranks)
    counts = count_source(source)
    embeddings = embed(options, queries, titles)
    clock = report(clock, f"embedded them: {embeddings.facts}")
    blank = zero_rows(embeddings.queries, queries.where, "query embeddings")
    paths, usable = make_paths(options, embeddings.titles, titles.texts, titles.where, dropped)
    clock = report(clock, f"made docIDs ({options.docids})")
    found = top_ranks(embeddings.queries, embeddings.titles, ranks, usable, options.device)
    lists = make_lists(queries, titles, found, usable, blank, dropped)
    clock = report(clock, f"ranked the titles for {len(lists.queries):,} queries")
    items, paths = subset(titles, np.flatnonzero(usable)), paths[usable]
    shapes = docid_report(paths, lists.items)
    lists, paths, taken = settle_collisions(lists, items, paths, options.collisions, dropped)
    docids = items.texts if options.docids == "text" else docid_texts(paths)
    splits = make_splits(options, lists, docids, items)
    manifest = {
        **describe(options, source, embeddings, ranks),
        "counts": counts,
        "dropped": dropped.summary(),
        "collisions": {"policy": options.collisions, **taken},
        "docid_report": shapes,
    }
    extra = {"items": DocIDTable(items.ids, docids, items.texts).to_arrow(), "dropped": dropped.to_arrow()}
    manifest = write_dataset(Path(options.out), splits, LICENCE_FILE.read_text(encoding="utf-8"), manifest, extra)
    _print_summary(manifest)
    report(clock, f"wrote {options.out}")


def _print_summary(manifest: dict[str, Any]) -> None:
    for what, count in manifest["counts"].items():
        if isinstance(count, dict) and "published" in count:
            print(f"  {what}: {count['found']:,} in the source, {count['published']:,} published for all of ESCI")
    print_dropped(manifest["dropped"])
    shapes, collisions = manifest["docid_report"], manifest["collisions"]
    print(
        f"  docIDs: {shapes['distinct_docids']:,} distinct for {shapes['items']:,} titles; "
        f"{shapes['lists_with_duplicates']:,} of {shapes['lists']:,} lists hold one twice; "
        f"{collisions['policy']} took {collisions['documents_dropped']:,} documents out"
    )
    for split, counts in manifest["splits"].items():
        print(f"  {split}: " + ", ".join(f"{key} {value:,}" for key, value in counts.items()))


def write_texts(directory: Path, queries: Texts, titles: Texts) -> None:
    """Write the texts to embed, in the order in which embedder=npy wants their rows."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, texts in (("queries", queries), ("titles", titles)):
        pq.write_table(pa.table({"id": texts.ids, "text": texts.texts}), directory / f"{name}.parquet")
        print(f"wrote {directory / name}.parquet: {len(texts):,} texts")


def embed(options: EsciOptions, queries: Texts, titles: Texts) -> Embeddings:
    """The embeddings that `options` ask for."""
    if options.embedder == "tfidf":
        return tfidf_embeddings(queries.texts, titles.texts, options.dimensions, options.seed)
    if options.embedder == "npy":
        return load_embeddings(options.query_embeddings, options.title_embeddings, len(queries), len(titles))
    return model_embeddings(options.embedder, options.embedder_revision, queries.texts, titles.texts, options.device)


def make_lists(queries: Texts, titles: Texts, found: Ints, usable: Bools, blank: Ints, dropped: Dropped) -> Lists:
    """The lists of `found` [Q, R], in rows of the usable titles; titles of other locales leave them.

    Queries with an all-zero embedding (`blank`, their rows) and those without a US title are noted.
    """
    of_locale = np.array([locale == LOCALE for locale in titles.locale])
    lists = Lists(queries, np.where(of_locale[found], (np.cumsum(usable) - 1)[found], -1))
    lists = lists.without(np.isin(np.arange(len(queries)), blank), "query whose embedding is all zeros", dropped)
    empty: Bools = lists.items.max(axis=1) < 0
    return lists.without(empty, "query without a US title at its ranks", dropped)


def make_splits(options: EsciOptions, lists: Lists, docids: list[str], items: Texts) -> dict[str, pa.Table]:
    """The tables of `train` and `test`."""
    by_data = options.split == "data" and any(lists.queries.split)
    if by_data:
        refuse(options, ["test_size"], "split=data, as the data has a split column")
    rows = split_rows(lists.queries, by_data, options.test_size, options.seed)
    arrays = pa.array(docids), pa.array(items.texts)
    return {split: rows_table(lists, chosen, *arrays) for split, chosen in rows.items()}


def describe(options: EsciOptions, source: EsciSource, embeddings: Embeddings, ranks: Sequence[int]) -> dict[str, Any]:
    """The manifest's head: where the data comes from and what was done to it. It holds no paths."""
    left_out = {"out", "source", "revision", "queries", "titles", "texts", "seed", "device"}
    left_out |= {"embedder", "embedder_revision", "query_embeddings", "title_embeddings"}
    return {
        "name": "esci",
        "tool": TOOL,
        "source": source.name,
        "version": source.revision,
        "licence": "ESCI: Apache-2.0, see LICENSE; what came from other files is under their terms",
        "seed": options.seed,
        "options": {key: value for key, value in asdict(options).items() if key not in left_out},
        "ranks": len(ranks),
        "embedder": embeddings.facts,
    }
