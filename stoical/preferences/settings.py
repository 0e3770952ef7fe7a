"""The settings of DPO and SPIN, and what their training section starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stoical.common.numbers import above_zero, at_least, not_negative
from stoical.common.options import option

PairSource = Literal["beam", "ranking", "free"]
Which = Literal["top", "adjacent", "random"]

OWN = {"ranking": ("pairs",), "beam": ("num_beams",), "free": ("temperature", "max_new_tokens")}  # settings by source

DPO_TRAINING: dict[
    str, Any
] = {  # Rafailov et al. 2023, Appendix B: RMSprop at 1e-6 after warm-up, batches of 64, beta 0.1
    "optim": "rmsprop",
    "learning_rate": 1e-6,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,  # below 1: a share of the run
    "max_steps": -1,
    "num_train_epochs": 1,
    "logging_steps": 10,
    "eval_steps": 500,
    "save_steps": 500,
    "save_total_limit": 3,
}
SPIN_TRAINING: dict[str, Any] = {  # the authors' configs/config.yaml (github.com/uclaml/SPIN)
    "optim": "rmsprop",
    "learning_rate": 5e-7,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,  # below 1: a share of the iteration
    "max_steps": -1,
    "num_train_epochs": 3,
    "logging_steps": 10,
    "eval_steps": 500,
    "save_steps": 500,
    "save_total_limit": 1,
}


@dataclass
class PairSettings:
    """Where preference pairs come from."""

    source: PairSource = option(
        "beam",
        "beam: the model's own errors on the trie; ranking: documents above others; free: whatever the model writes",
    )
    per_query: int | None = option(None, "at most so many pairs a query (null: all; of source=free, 1 output)")
    num_queries: int | None = option(None, "a random sample of the training split, instead of all of it")
    pairs: Which = option(
        "top",
        "of source=ranking: top (rank 1 above each other document), adjacent (each rank above the next) or random",
    )
    num_beams: int = option(
        5, "of source=beam: the docIDs that a constrained beam search of this width ranks above one of rank 1"
    )
    temperature: float = option(0.0, "of source=free: 0 writes greedily, else outputs are sampled")
    max_new_tokens: int = option(64, "of source=free: what ends an output that has no EOS")

    def check(self, section: str, given: Sequence[str]) -> None:
        """Raise `ValueError` for values out of range, and for those `given` that the source does not read."""
        for source, names in OWN.items():
            for name in names:
                if source != self.source and name in given:
                    raise ValueError(
                        f"{section}.{name} has no effect with {section}.source={self.source}; drop it, or set "
                        f"{section}.source={source}"
                    )
        for name in ("per_query", "num_queries", "num_beams", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None:
                at_least(f"{section}.{name}", value, 1)
        not_negative(f"{section}.temperature", self.temperature)
        if self.source == "ranking" and self.pairs == "random" and self.per_query is None:
            raise ValueError(f"{section}.pairs=random needs {section}.per_query, how many pairs to draw for a query")
        if self.source == "free" and self.temperature == 0 and (self.per_query or 1) > 1:
            raise ValueError(
                f"{section}.per_query={self.per_query} conflicts with {section}.temperature=0, which writes the same "
                f"output every time; set {section}.temperature=1"
            )


@dataclass
class DPOSettings(PairSettings):
    """Pairs, and how strongly they are learned from."""

    beta: float = option(0.1, "how much departing from the reference costs")

    def check(self, section: str, given: Sequence[str]) -> None:
        """Raise `ValueError` where `PairSettings.check` does, and for a beta that is not a positive number."""
        PairSettings.check(self, section, given)
        above_zero(f"{section}.beta", self.beta)


@dataclass
class SpinSettings:
    """Iterations of DPO against the model's own outputs."""

    iterations: int = option(3, "how many")
    beta: float = option(0.1, "how much departing from the last iteration's model costs")
    temperature: float = option(1.0, "of the outputs; 0 writes greedily")
    max_new_tokens: int = option(64, "what ends an output that has no EOS")
    num_queries: int | None = option(
        None, "a random sample of the training split, another one each iteration (null: all)"
    )

    def check(self) -> None:
        """Raise `ValueError` for values out of range."""
        at_least("spin.iterations", self.iterations, 1)
        above_zero("spin.beta", self.beta)
        self.outputs().check("spin", [])

    def outputs(self) -> PairSettings:
        """How an iteration's pairs are made."""
        return PairSettings(
            "free",
            num_queries=self.num_queries,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )


def settings_of(settings: PairSettings) -> dict[str, object]:
    """The settings that the source reads, for the record."""
    unread = {name for source, names in OWN.items() if source != settings.source for name in names}
    return {name: value for name, value in asdict(settings).items() if name not in unread}
