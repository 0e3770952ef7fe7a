"""Embeddings of queries and titles: TF-IDF, a sentence-transformers model by name, or precomputed `.npy` files.

The paper's Gecko is not public. Whatever makes them, embeddings are compared by inner product as they are.

Dimension letters: Q queries, N titles, E embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stoical.common.arrays import Floats, Ints
from stoical.common.files import file_sha256

BLOCK_ROWS = 65536


@dataclass(frozen=True)
class Embeddings:
    """`queries` [Q, E] and `titles` [N, E], float32; `facts` go into the manifest: name, revision and dimensions."""

    queries: Floats
    titles: Floats
    facts: dict[str, Any]


def tfidf_embeddings(queries: Sequence[str], titles: Sequence[str], dimensions: int, seed: int) -> Embeddings:
    """Words and word pairs that two titles share, by TF-IDF of the titles, reduced by a truncated SVD. No download.

    A text without such a word gets zeros. Raises ValueError where the titles are too few for the dimensions.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32)
    try:
        counts = vectorizer.fit_transform(titles)
    except ValueError as error:  # no word is in two titles
        raise ValueError(f"embedder=tfidf: {str(error).splitlines()[0]} ({len(titles)} titles)") from None
    if dimensions > min(counts.shape):
        raise ValueError(
            f"dimensions={dimensions}: {len(titles)} titles with {counts.shape[1]} words and word pairs in two or "
            f"more of them allow at most {min(counts.shape)}"
        )
    svd = TruncatedSVD(dimensions, random_state=seed)
    found = svd.fit_transform(counts).astype(np.float32)
    facts = {"name": "tfidf", "revision": f"scikit-learn {version('scikit-learn')}", "dimensions": dimensions}
    of_queries = svd.transform(vectorizer.transform(queries)) if queries else np.empty((0, dimensions))
    return Embeddings(of_queries.astype(np.float32), found, facts)


def model_embeddings(
    name: str, revision: str, queries: Sequence[str], titles: Sequence[str], device: str
) -> Embeddings:
    """From a sentence-transformers model, by hub name or directory. ValueError where it cannot be loaded."""
    try:
        library = import_module("sentence_transformers")  # optional: stoical runs without it
    except ModuleNotFoundError as error:
        raise ValueError(
            f"embedder={name} needs {error.name}: pip install sentence-transformers, or use embedder=tfidf"
        ) from None
    try:
        model = library.SentenceTransformer(name, revision=revision or None, device=device)
    except (OSError, ValueError) as error:
        raise ValueError(f"embedder={name} cannot be loaded: {(str(error).splitlines() or [''])[0]}") from None
    of_queries, of_titles = (np.asarray(model.encode(list(texts)), dtype=np.float32) for texts in (queries, titles))
    facts: dict[str, Any] = {
        "name": name,
        "revision": revision or getattr(model[0].auto_model.config, "_commit_hash", None),
    }
    if Path(name).is_dir():  # the manifest holds no path
        weights = sorted(Path(name).glob("*.safetensors"))
        facts = {"name": Path(name).resolve().name, "revision": {file.name: file_sha256(file) for file in weights}}
    return Embeddings(of_queries, of_titles, {**facts, "dimensions": of_titles.shape[1]})


def load_embeddings(query_file: str, title_file: str, num_queries: int, num_titles: int) -> Embeddings:
    """Precomputed rows, memory-mapped where they are float32: query_file [Q, E] and title_file [N, E].

    Raises ValueError for files that do not hold such arrays, and for the wrong number of rows or dimensions.
    """
    queries, titles = _load(query_file, num_queries, "queries"), _load(title_file, num_titles, "titles")
    if queries.shape[1] != titles.shape[1]:
        raise ValueError(f"{query_file} has {queries.shape[1]} dimensions, but {title_file} has {titles.shape[1]}")
    files = {Path(file).name: file_sha256(file) for file in (query_file, title_file)}
    return Embeddings(queries, titles, {"name": "npy", "revision": files, "dimensions": titles.shape[1]})


def load_item_embeddings(file: str, num_items: int) -> Embeddings:
    """`load_embeddings` for items alone, without queries."""
    items = _load(file, num_items, "items")
    facts = {"name": "npy", "revision": {Path(file).name: file_sha256(file)}, "dimensions": items.shape[1]}
    return Embeddings(items[:0], items, facts)


def _load(file: str, rows: int, what: str) -> Floats:
    try:
        found = np.load(file, mmap_mode="c")  # copy-on-write: torch takes no read-only memory
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a readable .npy file: {error}") from None
    if not (isinstance(found, np.ndarray) and found.ndim == 2 and np.issubdtype(found.dtype, np.floating)):
        raise ValueError(f"{file} must hold one array of floats, [{what}, dimensions]")
    if len(found) != rows:
        raise ValueError(f"{file} has {len(found):,} rows, but there are {rows:,} {what}: one row for each, in order")
    return found if found.dtype == np.float32 else found.astype(np.float32)


def zero_rows(embeddings: Floats, where: Sequence[str], name: str) -> Ints:
    """The rows that are all zeros. ValueError, naming the first, for rows with NaN or infinities.

    `where` has the place of each row's text in the data, and `name` is what the message calls the embeddings.
    """
    zero = []
    for start in range(0, len(embeddings), BLOCK_ROWS):
        block = embeddings[start : start + BLOCK_ROWS]
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            row = start + int(bad[0])
            raise ValueError(f"{name}[{row}] (of {where[row]}) holds NaN or infinite numbers")
        zero.append(start + np.flatnonzero(~block.any(axis=1)))
    return np.concatenate(zero)
