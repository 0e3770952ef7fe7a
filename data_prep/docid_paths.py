"""docIDs of titles, as paths of components, by the method that the options name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stoical.common.arrays import Bools, Floats, Ints
from stoical.docids.kmeans import hierarchical_kmeans_paths, residual_kmeans_paths
from stoical.docids.report import word_paths
from stoical.docids.sparse_codes import learn_dictionary, short_rows, sparse_paths

from .docid_options import DocIDOptions
from .dropped import Dropped
from .embeddings import zero_rows


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
