"""From the embeddings of items to docIDs, with a record of the items that can have none.

Dimension letters: N items, E embedding dimensions, K components of a docID.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data_prep.docid_options import DocIDOptions
from data_prep.dropped import Dropped
from data_prep.embeddings import Floats, Ints, zero_rows
from stoical.docid_report import word_paths
from stoical.docids import learn_dictionary, short_rows, sparse_paths
from stoical.kmeans_docids import hierarchical_kmeans_paths, residual_kmeans_paths

Bools = npt.NDArray[np.bool_]


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
