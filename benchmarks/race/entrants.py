"""Who runs: what each entrant is called, how it trains on a course, and what was tuned for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.race.clock import Marks
from benchmarks.race.course import COURSES, Start
from benchmarks.race.cross_encoder import run_cross_encoder
from benchmarks.race.language_models import Tuned, run_sft, run_stoical, run_trainer


@dataclass(frozen=True, slots=True)
class Entrant:
    """title: as tables have it. train: runs on a course, with the marks as a callback.

    tuned: by course. Ours have none: they run a recipe to its last step, the others for a budget of seconds.
    """

    title: str
    train: Callable[[str, Start, Marks], None]
    tuned: Mapping[str, Tuned] = field(default_factory=dict)
    needs: tuple[str, ...] = ()  # packages

    @property
    def ours(self) -> bool:
        """Whether it is stoical."""
        return not self.tuned


def ours(title: str, recipe: str) -> Entrant:
    """Stoical with the recipe that is so called in `Course`."""
    return Entrant(title, lambda course, start, marks: run_stoical(start, marks, getattr(COURSES[course], recipe)))


def rival(title: str, run: Callable[..., None], tuned: Mapping[str, Tuned], needs: tuple[str, ...] = ()) -> Entrant:
    """One of the others."""

    def train(course: str, start: Start, marks: Marks) -> None:
        run(start, marks, tuned[course])

    return Entrant(title, train, tuned, needs)


SFT: dict[str, Any] = {"needs": ("trl",)}
ENTRANTS = {
    "stoical": ours("stoical, 1/r²", "recipe"),
    "stoical_list_mle": ours("stoical, ListMLE", "list_mle"),
    "sft": rival(
        "TRL SFTTrainer, top docID",
        partial(run_sft, drawn=False),
        {"mammals": Tuned(32, 2e-3), "esci": Tuned(16, 3e-3)},
        **SFT,
    ),
    "sft_drawn": rival(
        "TRL SFTTrainer, rows by 1/r²",
        partial(run_sft, drawn=True),
        {"mammals": Tuned(32, 2e-3), "esci": Tuned(16, 3e-3)},
        **SFT,
    ),
    "sft_grouped": rival(
        "TRL SFTTrainer, rows by 1/r² of like length",
        partial(run_sft, drawn=True),
        {"mammals": Tuned(32, 2e-3, grouped=True), "esci": Tuned(16, 3e-3, grouped=True)},
        **SFT,
    ),
    "trainer": rival(
        "Trainer, a docID a row, weighted", run_trainer, {"mammals": Tuned(32, 2e-3), "esci": Tuned(16, 3e-3)}
    ),
    "cross_encoder": rival(
        "CrossEncoder, ListMLE",
        run_cross_encoder,
        {"mammals": Tuned(8, 2e-3), "esci": Tuned(4, 3e-3)},
        ("sentence-transformers",),
    ),
}
