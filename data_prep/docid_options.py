"""What can be set for docIDs and the embeddings that they are made of, and what may not be set together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import torch

from stoical.common.options import option

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

import numpy as np
import numpy.typing as npt

from stoical.docids.kmeans import hierarchical_kmeans_paths, residual_kmeans_paths
from stoical.docids.report import word_paths
from stoical.docids.sparse_codes import learn_dictionary, short_rows, sparse_paths

from .dropped import Dropped
from .embeddings import Floats, Ints, zero_rows

Bools = npt.NDArray[np.bool_]


@dataclass
class DocIDOptions:
    """Shared by the commands that make docIDs."""

    embedder: str = option(
        "tfidf", "tfidf (no download), npy (precomputed), or the name of a sentence-transformers model"
    )
    embedder_revision: str = option("", "revision of the sentence-transformers model; empty for the newest")
    dimensions: int = option(256, "with embedder=tfidf: dimensions of the truncated SVD")
    title_embeddings: str = option("", "with embedder=npy: a .npy file of floats, a row for each title, in order")
    docids: Literal["sparse", "residual", "hierarchical", "text"] = option(
        "sparse",
        "sparse: dictionary learning and orthogonal matching pursuit, as the paper; residual, hierarchical: "
        "k-means; text: the title itself",
    )
    components: int = option(100, "atoms of the dictionary, or clusters of a level of k-means")
    nonzeros: int = option(3, "components of a docID: non-zeros of a sparse code, or levels of k-means")
    alpha: float = option(1.0, "with docids=sparse: the L1 penalty of dictionary learning; 1 is scikit-learn's default")
    device: str = option("cpu", "torch device of inner products, matching pursuit and the model")
    seed: int = option(0, "seed of all that is drawn: the SVD, the dictionary, k-means and splits, 0 to 4294967295")


def check_docid_options(options: DocIDOptions) -> None:
    """Raise ValueError for settings that are wrong, or that nothing would read."""
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={options.device}: {str(error).splitlines()[0]}") from None
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"seed={options.seed}: must be from 0 to 4294967295")
    for name in ("components", "nonzeros", "dimensions", "alpha"):
        if not getattr(options, name) > 0:
            raise ValueError(f"{name}={getattr(options, name)}: must be above 0")
    unread = {"sparse": (), "text": ("components", "nonzeros", "alpha")}.get(options.docids, ("alpha",))
    refuse(options, unread, f"docids={options.docids}")
    read = {"tfidf": "dimensions", "npy": "title_embeddings"}.get(options.embedder, "embedder_revision")
    own = ("dimensions", "title_embeddings", "embedder_revision")
    refuse(options, [name for name in own if name != read], f"embedder={options.embedder}")


def refuse(options: DataclassInstance, names: Sequence[str], because: str) -> None:
    """Raise ValueError for the first of the settings that is not at its default, as nothing would read it."""
    defaults = {field.name: field.default for field in fields(options)}
    for name in names:
        if getattr(options, name) != defaults[name]:
            raise ValueError(f"{name}={getattr(options, name)} has no effect with {because}: drop it")


def make_paths(
    options: DocIDOptions, embeddings: Floats, texts: Sequence[str], where: Sequence[str], dropped: Dropped
) -> tuple[Ints, Bools]:
    """Paths [N, K] of all titles, and which of them [N] are usable: the others have zeros or too few non-zeros.

    `embeddings` [N, E] and `texts` are of the titles, and `where` says where each stands. What is not usable is noted.
    """
    usable = np.ones(len(texts), dtype=bool)
    usable[zero_rows(embeddings, where, "title embeddings")] = False
    for row in np.flatnonzero(~usable).tolist():
        dropped.add("title whose embedding is all zeros", where[row], texts[row])
    if options.docids == "text":
        return word_paths(texts), usable
    if options.docids != "sparse":
        paths_of = residual_kmeans_paths if options.docids == "residual" else hierarchical_kmeans_paths
        return paths_of(embeddings, options.components, options.nonzeros, options.seed), usable
    dictionary = learn_dictionary(embeddings, options.components, options.alpha, options.seed)
    paths = sparse_paths(embeddings, dictionary, options.nonzeros, options.device)
    for row, found in short_rows(paths).items():
        if usable[row]:
            dropped.add(f"title with {found} of {options.nonzeros} non-zeros", where[row], texts[row])
            usable[row] = False
    return paths, usable
