"""Small studies for tests."""

from __future__ import annotations

from dataclasses import replace

from stoical.studies.mismatch.exact import Bench, Variant
from stoical.studies.mismatch.settings import CompatSettings, ExactSettings, MismatchSettings

LENGTH = 4
SMALL = MismatchSettings(
    documents=40,
    vocabulary=9,
    length=LENGTH,
    compat=CompatSettings(
        replications=3, queries=20, evaluated=20, shortest_list=4, longest_list=7, epochs=2, batch=5, init_scale=0.5
    ),
    exact=ExactSettings(
        replications=3, queries=6, tested=3, relevant=5, negatives=2, steps=6, batch=3, hidden=7, tuning=2, variants=2
    ),
)


def bench(replications: int = 3, generator: str = "hierarchical", shared: bool = False, **exact: object) -> Bench:
    settings = replace(SMALL, exact=replace(SMALL.exact, **exact))
    return Bench(settings, Variant(generator, shared, LENGTH), 20, replications)  # type: ignore[arg-type]
