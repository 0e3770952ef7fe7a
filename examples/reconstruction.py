"""`python -m examples.reconstruction`: mean rank and MAP of the mammals, Euclidean beside hyperbolic, three seeds.

The protocol in which hyperbolic embeddings became known for a gap that others could not repeat. 7 minutes of one
core; what is there is not made again.
"""

from __future__ import annotations

import json
from pathlib import Path

from examples.side_by_side import spread
from stoical.baselines.options import ReconstructOptions, Space
from stoical.baselines.reconstruct import reconstruct
from stoical.reporting.tables import markdown

ROOT = Path("runs/reconstruction")
SEEDS = (0, 1, 2)
EPOCHS = 60
SETTINGS: list[tuple[Space, int, float]] = [  # space, dimensions, rate
    ("euclidean", 5, 0.1),
    ("euclidean", 10, 0.5),
    ("euclidean", 50, 1.0),
    ("euclidean", 200, 1.0),
    ("poincare", 5, 0.1),
    ("poincare", 10, 0.1),
]


def main() -> None:
    """Train what is missing and print the table."""
    rows = [["space", "d", "rate", "MR (↓)", "MAP (↑)", "nats a pair", "processor seconds"]]
    for space, dim, rate in SETTINGS:
        found = [_result(space, dim, rate, seed) for seed in SEEDS]
        columns = {"mean_rank": ".2f", "map": ".3f", "loss": ".3f", "processor_seconds": ".0f"}
        cells = (spread([row[key] for row in found], form) for key, form in columns.items())
        rows.append([space, str(dim), f"{rate:g}", *cells])
    print(f"\nMammals, {EPOCHS} epochs, mean ± standard deviation over {len(SEEDS)} seeds:\n\n{markdown(rows)}")


def _result(space: Space, dim: int, rate: float, seed: int) -> dict[str, float]:
    out = ROOT / f"{space}-{dim}-{seed}"
    print(f"==> {space}, {dim} dimensions, seed {seed}", flush=True)
    options = ReconstructOptions(str(out), space, dim, rate=rate, epochs=EPOCHS, seed=seed, resume=True)
    reconstruct(options)
    found: dict[str, float] = json.loads((out / "metrics.json").read_text())
    return found


if __name__ == "__main__":
    main()
