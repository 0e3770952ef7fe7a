"""docIDs from k-means instead of sparse codes: residual (as in TIGER and RQ-VAE) and hierarchical (as in DSI).

Both give paths as `stoical.docids.sparse_codes` describes them. Centres are learned by scikit-learn from at most
FIT_ROWS rows, and rows are assigned by blocks, so that a memory map of embeddings is never read whole.

Dimension letters: N items, E embedding dimensions, C centres, K levels.
"""

from __future__ import annotations

import warnings

import numpy as np

from stoical.common.arrays import Floats, Ints
from stoical.docids.sparse_codes import sample_rows

BLOCK_ROWS = 16384


def residual_kmeans_paths(embeddings: Floats, clusters: int, levels: int, seed: int) -> Ints:
    """Paths [N, K = levels]: the nearest centre, then the nearest centre to what is left, and so on."""
    sample = sample_rows(embeddings, seed)
    centres = []
    for _ in range(levels):
        centres.append(_centres(sample, clusters, seed))
        sample -= centres[-1][_nearest(sample, centres[-1])]
    paths = np.empty((len(embeddings), levels), dtype=np.int64)
    for start in range(0, len(embeddings), BLOCK_ROWS):
        block = np.array(embeddings[start : start + BLOCK_ROWS])
        for level, centre in enumerate(centres):
            paths[start : start + BLOCK_ROWS, level] = nearest = _nearest(block, centre)
            block -= centre[nearest]
    return paths


def hierarchical_kmeans_paths(embeddings: Floats, clusters: int, levels: int, seed: int) -> Ints:
    """Paths [N, K = levels]: clusters, then clusters within each (Tay et al. 2022, section 3.2).

    A group of no more than `clusters` items is numbered in order, which ends its paths; at the last level a larger
    group is clustered once more, and what falls together there collides.
    """
    paths = np.full((len(embeddings), levels), -1, dtype=np.int64)
    todo = [(np.arange(len(embeddings)), 0)]
    while todo:
        rows, level = todo.pop()
        if len(rows) <= clusters:
            paths[rows, level] = np.arange(len(rows))
            continue
        group = embeddings[rows] if level else embeddings
        centres = _centres(sample_rows(group, seed), clusters, seed)
        blocks = (slice(start, start + BLOCK_ROWS) for start in range(0, len(group), BLOCK_ROWS))
        labels = np.concatenate([_nearest(group[block], centres) for block in blocks])
        paths[rows, level] = labels
        if level + 1 < levels:
            todo += [(rows[labels == label], level + 1) for label in np.unique(labels)]
    return paths


def _centres(sample: Floats, clusters: int, seed: int) -> Floats:
    """[C, E] centres."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if clusters > len(sample):
        raise ValueError(f"components={clusters}: more than the {len(sample)} rows to learn centres from")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        found = MiniBatchKMeans(clusters, n_init=1, random_state=seed).fit(sample)
    centres: Floats = found.cluster_centers_
    return centres


def _nearest(rows: Floats, centres: Floats) -> Ints:
    """[N] the nearest centre of each row."""
    from sklearn.metrics import pairwise_distances_argmin

    nearest: Ints = pairwise_distances_argmin(rows, centres).astype(np.int64)
    return nearest
