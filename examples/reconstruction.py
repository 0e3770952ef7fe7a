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
COLUMNS = {"mean_rank": ".2f", "map": ".3f", "loss": ".3f", "processor_seconds": ".0f"}


def main() -> None:
    """Train what is missing and print the table."""
    for space, dim, rate in SETTINGS:
        for seed in SEEDS:
            _train(space, dim, rate, seed)
    print(f"\nMammals, {EPOCHS} epochs, mean ± standard deviation over the seeds:\n\n{table()}")


def table() -> str:
    """A row a setting, of the seeds that are there."""
    rows = [["space", "d", "rate", "MR (↓)", "MAP (↑)", "nats a pair", "processor seconds"]]
    for space, dim, rate in SETTINGS:
        files = [path for seed in SEEDS if (path := _directory(space, dim, seed) / "metrics.json").is_file()]
        if files:
            found = [json.loads(path.read_text()) for path in files]
            cells = (spread([row[key] for row in found], form) for key, form in COLUMNS.items())
            rows.append([space, str(dim), f"{rate:g}", *cells])
    return markdown(rows)


def _train(space: Space, dim: int, rate: float, seed: int) -> None:
    print(f"==> {space}, {dim} dimensions, seed {seed}", flush=True)
    out = str(_directory(space, dim, seed))
    reconstruct(ReconstructOptions(out, space, dim, rate=rate, epochs=EPOCHS, seed=seed, resume=True))


def _directory(space: Space, dim: int, seed: int) -> Path:
    return ROOT / f"{space}-{dim}-{seed}"


if __name__ == "__main__":
    main()
