"""Make docIDs for your own items: dictionary learning and matching pursuit over embeddings of their texts, or k-means.

    stoical prepare docids input=products.csv out=data/products
    stoical prepare docids input=corpus.jsonl out=data/corpus embedder=sentence-transformers/all-MiniLM-L6-v2

input= has `id` or `_id`, and `title`, `text` or both (.jsonl, .csv, .tsv, .parquet, a directory by datasets'
save_to_disk; or .tsv of id, text without header). Writes out/items.parquet (item_id, docid, text), for docids= of the
importers, and a report in out/manifest.json; items that can have no docID are counted there and listed in
out/dropped.parquet.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stoical.common.arrays import Ints
from stoical.common.files import file_sha256
from stoical.common.options import option
from stoical.docids.collisions import DocIDCollisionError, resolve_collisions
from stoical.docids.report import docid_report
from stoical.docids.sparse_codes import docid_texts
from stoical.docids.table import DocIDTable

from .dataset_dir import check_replaceable, write_dataset
from .docid_options import DocIDOptions, check_docid_options
from .docid_paths import make_paths
from .dropped import Dropped, print_dropped
from .embeddings import Embeddings, load_item_embeddings, model_embeddings, tfidf_embeddings
from .item_texts import TextColumns, read_texts

TOOL = "stoical prepare docids"
REPORTED = ("items", "distinct_docids", "largest_group", "trie")
"""The keys of the report that are about items; the others are about lists, which are not known here."""


@dataclass
class ItemOptions(DocIDOptions):
    """What the user can set; `--help` prints it."""

    input: str = option("", "the file or directory of the items")
    out: str = option("data/docids", "the directory to write; a dataset in it is replaced if this command made it")
    id_column: str = option("", "the column of ids, where it is not _id or id")
    title_column: str = option("", "the column of titles, where it is not title")
    text_column: str = option("", "the column of texts, where it is not text")
    text: Literal["both", "title", "text"] = option("both", "what of an item is embedded: title, text, or both")
    collisions: Literal["keep_best", "disambiguate", "fail"] = option(
        "disambiguate",
        "items with the same docID. disambiguate: a further component tells them apart; keep_best: they share it, and "
        "of those in one list an importer keeps the best-ranked; fail: stop",
    )
    licence: str = option("unknown", "the data's licence, for the manifest")


def build(options: ItemOptions) -> None:
    """Make the docIDs that `options` describe; ValueError where they cannot be made."""
    _check(options)
    source, dropped = Path(options.input), Dropped()
    ids, texts, where = _read(source, options, dropped)
    embeddings = _embed(options, texts)
    paths, usable = make_paths(options, embeddings.titles, texts, where, dropped)
    kept = np.flatnonzero(usable).tolist()
    if not kept:
        print_dropped(dropped.summary())
        raise ValueError(f"{source}: no item can have a docID, for the reasons above")
    ids, texts, paths = [ids[row] for row in kept], [texts[row] for row in kept], paths[usable]
    report = {key: value for key, value in docid_report(paths, _one_list(paths)).items() if key in REPORTED}
    try:
        paths = resolve_collisions(paths, _one_list(paths), options.collisions)[0]
    except DocIDCollisionError as error:
        raise ValueError(
            f"items {ids[error.first]!r} and {ids[error.second]!r} share a docID; give collisions=disambiguate"
        ) from None
    table = DocIDTable(ids, docid_texts(paths), texts)
    manifest = {**_describe(options, embeddings.facts), "dropped": dropped.summary(), "docid_report": report}
    extra = {"items": table.to_arrow(), "dropped": dropped.to_arrow()}
    write_dataset(Path(options.out), {}, f"{options.licence}\n", manifest, extra)
    print_dropped(manifest["dropped"])
    _print_report(report, table, options.collisions)
    print(f"wrote {options.out}/items.parquet")


def _check(options: ItemOptions) -> None:
    check_replaceable(Path(options.out), TOOL)
    check_docid_options(options)
    if not Path(options.input).is_file() and not Path(options.input, "state.json").is_file():
        raise ValueError(f"input={options.input}: give a file of items, or a directory by datasets' save_to_disk")
    if options.docids == "text":
        raise ValueError("docids=text needs no table: give docids=title to the importer")
    if options.embedder == "npy" and not options.title_embeddings:
        raise ValueError("embedder=npy needs title_embeddings=, a row for each item, in order")


def _read(source: Path, options: ItemOptions, dropped: Dropped) -> tuple[list[str], list[str], list[str]]:
    """Ids, texts and places of the items that have a text; with embedder=npy all must, so that rows stay in step."""
    columns = TextColumns.of(options.id_column, options.title_column, options.text_column)
    items = read_texts(source, "item", None, dropped, columns)
    texts = {item: its.chosen(options.text) for item, its in items.items()}
    for item, text in texts.items():
        if text is None:
            dropped.add(f"item without text={options.text}", items[item].where, item)
    if options.embedder == "npy" and dropped.rows:
        print_dropped(dropped.summary())
        raise ValueError(f"{source}: embedder=npy has a row for every item, so none may be left out as these would be")
    kept = {item: text for item, text in texts.items() if text is not None}
    if not kept:
        print_dropped(dropped.summary())
        raise ValueError(f"{source} holds no item with a text")
    return list(kept), list(kept.values()), [items[item].where for item in kept]


def _embed(options: ItemOptions, texts: list[str]) -> Embeddings:
    if options.embedder == "tfidf":
        return tfidf_embeddings([], texts, options.dimensions, options.seed)
    if options.embedder == "npy":
        return load_item_embeddings(options.title_embeddings, len(texts))
    return model_embeddings(options.embedder, options.embedder_revision, [], texts, options.device)


def _one_list(paths: Ints) -> Ints:
    """All items as one list [1, N]: no two of them should share a docID."""
    return np.arange(len(paths))[None, :]


def _describe(options: ItemOptions, facts: dict[str, Any]) -> dict[str, Any]:
    """The manifest's head: where the items come from and how their docIDs were made. It holds no paths."""
    source = Path(options.input)
    left_out = {"input", "out", "seed", "licence", "device", "embedder", "embedder_revision", "title_embeddings"}
    return {
        "name": Path(options.out).name,
        "tool": TOOL,
        "source": source.name,
        "version": file_sha256(source) if source.is_file() else None,
        "licence": options.licence,
        "seed": options.seed,
        "options": {key: value for key, value in asdict(options).items() if key not in left_out},
        "embedder": facts,
    }


def _print_report(report: dict[str, Any], table: DocIDTable, policy: str) -> None:
    trie = report["trie"]
    print(
        f"  {report['items']:,} items, {report['distinct_docids']:,} distinct docIDs (at most "
        f"{report['largest_group']:,} items share one); {len(table.items_of):,} after collisions={policy}"
    )
    print(
        f"  trie: {trie['nodes']:,} nodes, by depth {trie['nodes_by_depth']}; entropy {trie['entropy']} nats of "
        f"{trie['entropy_if_distinct']} if all were distinct"
    )
    print("  such as " + ", ".join(f"{table.docids[row]} {table.texts[row]!r}" for row in range(len(table.docids))[:3]))
