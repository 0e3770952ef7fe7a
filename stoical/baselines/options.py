"""The options of `stoical reconstruct`, apart from what reads them: help comes before torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stoical.common.numbers import above_zero, at_least
from stoical.common.options import option

Space = Literal["euclidean", "poincare"]


@dataclass
class ReconstructOptions:
    """What `stoical reconstruct` takes."""

    output: str = option("", "the directory to write", required=True)
    space: Space = option("poincare", "euclidean, or poincare: the ball model of hyperbolic space")
    dim: int = option(5, "numbers a node")
    subtree: str = option(
        "mammal.n.01", "the nodes are this synset and all below it, on any path; entity.n.01: all nouns"
    )
    epochs: int = option(200, "passes over the pairs of node and ancestor")
    rate: float = option(0.1, "of (Riemannian) SGD, for the sum of a batch's gradients")
    burn_in: int = option(10, "epochs at the start with a tenth of the rate")
    batch_size: int = option(128, "pairs a step")
    negatives: int = option(50, "nodes that are no ancestors, drawn for every pair")
    seed: int = option(0, "of the start, of shuffles and of negatives")
    measure_every: int = option(50, "epochs; the vectors are saved as often")
    resume: bool = option(False, "continue from the vectors in `output`, if there are any, up to `epochs`")

    def check(self) -> None:
        """Raise `ValueError` where a value makes no sense."""
        for key in ("dim", "epochs", "batch_size", "negatives", "measure_every"):
            at_least(key, getattr(self, key), 1)
        above_zero("rate", self.rate)
        at_least("burn_in", self.burn_in, 0)
        at_least("seed", self.seed, 0)
