"""Embed a subtree of WordNet's nouns and reconstruct its hypernyms: mean rank and MAP, as Nickel and Kiela (2017).

  stoical reconstruct output=runs/poincare5                                   Poincaré ball, 5 dimensions, mammals
  stoical reconstruct output=runs/euclidean50 space=euclidean dim=50 rate=1
  stoical reconstruct output=runs/nouns subtree=entity.n.01 batch_size=1024   all nouns: 14 s an epoch on one core

The pairs that are trained on are those that are measured, all of (node, ancestor) in the transitive closure: the
protocol of the papers on hyperbolic embeddings, not the ranking task of the other commands. Writes metrics.json,
embedding.safetensors and nodes.json to `output`.
"""

from __future__ import annotations

from stoical.baselines.options import ReconstructOptions
from stoical.commands.shell import Command, Given


def run(given: Given) -> None:
    """Train, measure, print."""
    from stoical.baselines.reconstruct import reconstruct

    found = reconstruct(given.options)
    print(f"MR {found['mean_rank']:.2f}, MAP {found['map']:.3f}; written to {given.options.output}")


main = Command(str(__doc__), run, ReconstructOptions, goes_on="resume=true continues from the last vectors")
