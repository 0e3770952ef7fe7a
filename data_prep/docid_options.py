"""What can be set for docIDs and the embeddings that they are made of, and what may not be set together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stoical.common.devices import check_device
from stoical.common.options import option

from .checks import check_seed, refuse


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
    check_device(options.device)
    check_seed(options.seed)
    for name in ("components", "nonzeros", "dimensions", "alpha"):
        if not getattr(options, name) > 0:
            raise ValueError(f"{name}={getattr(options, name)}: must be above 0")
    unread = {"sparse": (), "text": ("components", "nonzeros", "alpha")}.get(options.docids, ("alpha",))
    refuse(options, unread, f"docids={options.docids}")
    read = {"tfidf": "dimensions", "npy": "title_embeddings"}.get(options.embedder, "embedder_revision")
    own = ("dimensions", "title_embeddings", "embedder_revision")
    refuse(options, [name for name in own if name != read], f"embedder={options.embedder}")
