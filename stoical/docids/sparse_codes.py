"""docIDs made of small numbers, such as `[25,36,39]`: sparse codes over a learned dictionary.

The paper's docIDs (section 5.1 and footnote 9): dictionary learning over the embeddings of the items, 100 components,
orthogonal matching pursuit with 3 non-zeros, and the indices of these by descending absolute value. Alternatives are in
`stoical.docids.kmeans`, the report on any of them in `stoical.docids.report`. All are handled as *paths*, [N, K] int64,
row n holding the components of item n's docID, -1 after the last where it has fewer than K.

Dimension letters: N items, E embedding dimensions, C atoms of the dictionary, K components of a docID, Q queries,
R documents of the longest list.
"""

from __future__ import annotations

import warnings

import numpy as np

from stoical.common.arrays import Floats, Ints

FIT_ROWS = 100_000
"""Dictionaries and centres are learned from no more rows than this, drawn by the seed."""


def sample_rows(embeddings: Floats, seed: int) -> Floats:
    """At most FIT_ROWS rows of the embeddings, in their order, in memory."""
    if len(embeddings) <= FIT_ROWS:
        return np.array(embeddings)
    rows = np.random.RandomState(seed).choice(len(embeddings), FIT_ROWS, replace=False)
    return np.array(embeddings[np.sort(rows)])


def learn_dictionary(embeddings: Floats, components: int, alpha: float, seed: int) -> Floats:
    """A dictionary [C, E], float64, by scikit-learn's MiniBatchDictionaryLearning (see footnote 9) with its defaults.

    `alpha` (default there: 1) weighs the L1 norm of a row's code against half its squared error. With embeddings of
    norm 1 or less the codes at alpha = 1 are all zero: nothing is learned, and the atoms are rows drawn at random.
    ValueError where there are fewer rows than components.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning

    sample = sample_rows(embeddings, seed).astype(np.float64)
    if components > len(sample):
        raise ValueError(f"components={components}: more than the {len(sample)} rows to learn them from")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # of a row that has fewer non-zeros than asked
        atoms = MiniBatchDictionaryLearning(n_components=components, alpha=alpha, random_state=seed).fit(sample)
    dictionary: Floats = atoms.components_
    return dictionary


def sparse_paths(embeddings: Floats, dictionary: Floats, nonzeros: int, device: str = "cpu") -> Ints:
    """Paths [N, K = nonzeros]: the atoms of each row's sparse code by descending |coefficient|, then by number.

    Rows with fewer non-zeros than asked, such as all-zero embeddings, end in -1: see `short_rows`.
    """
    from stoical.docids.matching_pursuit import batched_omp  # torch

    atoms, coefficients = batched_omp(embeddings, dictionary, nonzeros, device=device)
    size = np.where(atoms >= 0, np.abs(coefficients), -1.0)
    return np.take_along_axis(atoms, np.lexsort((atoms, -size), axis=1), axis=1)


def short_rows(paths: Ints) -> dict[int, int]:
    """Row -> its number of components, for rows with fewer than K; 0 where the embedding was all zeros."""
    lengths = (paths >= 0).sum(axis=1)
    return {int(row): int(lengths[row]) for row in np.flatnonzero(lengths < paths.shape[1])}


def docid_texts(paths: Ints) -> list[str]:
    """The docIDs as the prompt writes them (Appendix B.2), such as `[25,36,39]`. ValueError for an empty row."""
    empty = np.flatnonzero((paths >= 0).sum(axis=1) == 0)
    if len(empty):
        shown = ", ".join(map(str, empty[:10]))
        raise ValueError(f"{len(empty)} rows have no component, as their embeddings are all zeros: rows {shown}")
    return [f"[{','.join(str(component) for component in path if component >= 0)}]" for path in paths.tolist()]
