"""What can be set of training soft prompts, and what is refused before a model loads. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stoical.common.fields import unknown
from stoical.common.numbers import above_zero, at_least, not_negative
from stoical.common.options import option
from stoical.config.recipe import DType
from stoical.objectives.mitigations.schedules import ScheduleSettings, check_span

Reward = Literal["prefix", "exact"]

GLOSSES = "glosses"
OBJECTIVES = (
    *("cross_entropy", "margin", "worst_position", "first_error", "growing", "scheduled_sampling"),
    *("reinforce", "mixer", "minimum_risk", "professor_forcing", "unlikelihood", "negatives"),
)
STARTS = ("vocabulary", "random", "text")  # of init; else a directory
DECODERS = ("greedy", "beam", "ngram_blocking", "repetition_penalty", "lexical", "trie")


@dataclass
class ModelOptions:
    """The frozen model."""

    name: str = option(
        "",
        "a causal language model: a hub id, a directory, or glosses, a model of 1M parameters that is first trained on "
        "WordNet's glosses, in minutes on a core, where runs/glosses does not hold it",
    )
    dtype: DType = option("float32", "of the weights; prompts are trained in float32 whatever it is")
    download: bool = option(False, "of name=glosses: let NLTK download WordNet if it is missing")


@dataclass
class MarginOptions:
    """Of objective=margin."""

    margin: float = option(2.0, "by how much the target's logit should exceed every other, at every position")


@dataclass
class WorstOptions:
    """Of objective=worst_position."""

    temperature: float = option(0.5, "tau of tau log sum_t exp(CE_t / tau), in nats: towards 0 the largest CE alone")


@dataclass
class SamplingOptions(ScheduleSettings):
    """Of objective=scheduled_sampling; spans are of its phase."""

    half_step: float | None = option(
        0.5, "the step at which it is 1/2 (every schedule but constant); below 1: a share of the phase"
    )
    minimum: float = option(0.5, "which it never falls below: off the target's path the target's tokens are wrong ones")
    tokens: Literal["argmax", "sampled", "soft"] = option(
        "argmax",
        "what is fed as the model's: its likeliest token, a drawn one, or the mean of all embeddings by their p",
    )
    gold_confidence: float | None = option(
        None, "up to this probability of the target's token it is fed, where the schedule does not say so anyway"
    )
    random_confidence: float | None = option(None, "above this probability a random token of the target is fed")

    def check(self, name: str) -> None:
        """Raise `ValueError` where a setting is missing, out of range or without effect."""
        self.check_schedule(name)
        if (self.gold_confidence is None) != (self.random_confidence is None):
            raise ValueError(f"{name}.gold_confidence goes with random_confidence: set both, or neither")
        if not 0 <= (self.gold_confidence or 0) <= (self.random_confidence or 0) <= 1:
            raise ValueError(f"{name}: 0 <= gold_confidence <= random_confidence <= 1 must hold")


@dataclass
class ReinforceOptions:
    """Of objective=reinforce."""

    weight: float = option(1.0, "of the term in a loss that is the cross-entropy + weight * the term")
    samples: int = option(4, "outputs that are drawn for a target and step")
    reward: Reward = option(
        "prefix", "of an output: the share of the target that it writes before its first error, or 1 for all of it"
    )


@dataclass
class MixerOptions:
    """Of objective=mixer; spans are of its phase."""

    warmup: float = option(0.3, "steps of cross-entropy alone; below 1: a share of the phase")
    stage: float = option(0.05, "steps until one more of the target's last tokens is the model's; or a share")
    samples: int = option(4, "outputs that are drawn for a target and step")
    reward: Reward = option("prefix", "as reinforce.reward")


@dataclass
class RiskOptions:
    """Of objective=minimum_risk."""

    weight: float = option(1.0, "of the term in a loss that is the cross-entropy + weight * the term")
    samples: int = option(4, "outputs that are drawn for a target and step, to stand beside the target")
    alpha: float = option(1.0, "how sharply Q follows the model")
    reward: Reward = option("prefix", "the risk is 1 minus it; as reinforce.reward")


@dataclass
class ProfessorOptions:
    """Of objective=professor_forcing."""

    weight: float = option(0.1, "of the term in a loss that is the cross-entropy + weight * the term")
    width: int = option(64, "of the discriminator's recurrent layer")
    learning_rate: float = option(1e-3, "the discriminator's")
    floor: float = option(0.75, "the prompts learn from the discriminator while its running accuracy is above this")
    ceiling: float = option(0.99, "the discriminator learns while its running accuracy is below this")


@dataclass
class UnlikelihoodOptions:
    """Of objective=unlikelihood."""

    weight: float = option(1.0, "of the term in a loss that is the cross-entropy + weight * the term")


@dataclass
class NegativesOptions:
    """Of objective=negatives."""

    weight: float = option(1.0, "of the term in a loss that is the cross-entropy + weight * the term")
    samples: int = option(3, "outputs that are drawn for a target and step, beside the greedy one")


@dataclass
class SoftPromptSettings:
    """All of it; the sections are those of the objectives."""

    model: ModelOptions = field(default_factory=ModelOptions)
    target: str | None = option(None, "the text to be written", verbatim=True)
    targets: str | None = option(None, "a file with such a text a line; each gets a prompt of its own", verbatim=True)
    output: str = option("runs/soft_prompt", "the directory for prompts and results")
    recipe: str | None = option(
        None, "settings to begin with: the name of one of recipes/soft_prompts, or a YAML file of one's own"
    )
    objective: str = option(
        "worst_position",
        f"{', '.join(OBJECTIVES)}; or several one after the other, each with its share of the steps, as in "
        "cross_entropy:0.6,scheduled_sampling:0.3,unlikelihood:0.1",
    )
    vectors: int = option(8, "vectors of each prompt")
    init: str = option(
        "vocabulary",
        "where prompts begin: vocabulary (embeddings of tokens drawn), random (normal numbers with the spread of the "
        "model's embeddings), text (embeddings of init_text, cut or repeated), or a directory that peft saved",
    )
    init_text: str | None = option(None, "of init=text", verbatim=True)
    steps: int = option(1000, "steps of Adam at most; a prompt that is found is trained no further")
    learning_rate: float = option(0.3, "of Adam, constant, in units of the embeddings' spread")
    seed: int = option(0, "of prompts and draws; each target has draws of its own")
    batch_size: int = option(64, "targets that are trained side by side")
    check_every: int = option(10, "steps after which each prompt's text is generated and compared")
    save_every: int = option(200, "steps after which the state is saved, to go on from")
    stop_margin: float = option(
        0.1,
        "a prompt is found once generate writes its target and the target's logits exceed all others by this; raised "
        "to twice the difference between the training forward and generate where that, measured at the start, is more",
    )
    decoders: str = option("greedy", f"how to write in the end, parted by commas: {', '.join(DECODERS)}")
    margin: MarginOptions = field(default_factory=MarginOptions)
    worst_position: WorstOptions = field(default_factory=WorstOptions)
    scheduled_sampling: SamplingOptions = field(default_factory=SamplingOptions)
    reinforce: ReinforceOptions = field(default_factory=ReinforceOptions)
    mixer: MixerOptions = field(default_factory=MixerOptions)
    minimum_risk: RiskOptions = field(default_factory=RiskOptions)
    professor_forcing: ProfessorOptions = field(default_factory=ProfessorOptions)
    unlikelihood: UnlikelihoodOptions = field(default_factory=UnlikelihoodOptions)
    negatives: NegativesOptions = field(default_factory=NegativesOptions)

    def check(self, given: Iterable[str] = ()) -> None:
        """Raise `ValueError` where a setting is missing, out of range, or `given` and without effect."""
        if not self.model.name:
            raise ValueError(f"give model.name=, a hub id, a directory, or {GLOSSES}")
        if self.target is not None and self.targets is not None:
            raise ValueError("target and targets are both given: give target=TEXT, or targets=FILE with a text a line")
        if self.target is None and self.targets is None:
            raise ValueError("give target=TEXT, or targets=FILE with a text a line")
        if (self.init == "text") != (self.init_text is not None):
            raise ValueError("init_text=TEXT goes with init=text: give both, or neither")
        if self.init not in STARTS:
            check_saved(Path(self.init))
        if self.model.download and self.model.name != GLOSSES:
            raise ValueError(f"model.download=true has no effect without model.name={GLOSSES}")
        self._check_numbers()
        phases = {phase.name for phase in parse_phases(self.objective)}
        parse_decoders(self.decoders)
        for name in given:
            section = name.partition(".")[0]
            if section in OBJECTIVES and section not in phases:
                raise ValueError(f"{name} has no effect with objective={self.objective}")

    def _check_numbers(self) -> None:
        for name in ("vectors", "steps", "batch_size", "check_every", "save_every"):
            at_least(name, getattr(self, name), 1)
        for name in ("learning_rate", "margin.margin", "worst_position.temperature", "minimum_risk.alpha"):
            above_zero(name, _get(self, name))
        for section in ("reinforce", "minimum_risk", "professor_forcing", "unlikelihood", "negatives"):
            not_negative(f"{section}.weight", _get(self, f"{section}.weight"))
        not_negative("stop_margin", self.stop_margin)
        at_least("seed", self.seed, 0)
        at_least("reinforce.samples", self.reinforce.samples, 2)  # each is compared with the others
        at_least("mixer.samples", self.mixer.samples, 2)
        at_least("minimum_risk.samples", self.minimum_risk.samples, 1)
        at_least("negatives.samples", self.negatives.samples, 0)
        at_least("professor_forcing.width", self.professor_forcing.width, 2)
        above_zero("professor_forcing.learning_rate", self.professor_forcing.learning_rate)
        if not 0 <= self.professor_forcing.floor <= self.professor_forcing.ceiling <= 1:
            raise ValueError("professor_forcing: 0 <= floor <= ceiling <= 1 must hold")
        self.scheduled_sampling.check("scheduled_sampling")
        if self.mixer.warmup:
            check_span("mixer", "warmup", self.mixer.warmup)
        check_span("mixer", "stage", self.mixer.stage)


def _get(settings: SoftPromptSettings, name: str) -> float:
    section, _, key = name.rpartition(".")
    return float(getattr(getattr(settings, section) if section else settings, key))


def check_saved(directory: Path) -> None:
    """Raise `ValueError` where `init` names no way to begin, and peft has saved nothing there either."""
    if not (directory / "adapter_config.json").is_file():
        raise ValueError(f"init={directory} is neither vocabulary, random or text, nor a directory that peft saved")


@dataclass(frozen=True, slots=True)
class Phase:
    """An objective and its share of the steps."""

    name: str
    share: float


def parse_phases(words: str) -> list[Phase]:
    """The phases of `objective=`. Raises `ValueError` for an unknown objective, or shares that do not make 1."""
    found = []
    for word in words.split(","):
        name, _, share = word.strip().partition(":")
        if name not in OBJECTIVES:
            raise unknown("objective", name, OBJECTIVES, f" Use {', '.join(OBJECTIVES)}.")
        try:
            found.append(Phase(name, float(share or 1)))
        except ValueError:
            raise ValueError(f"objective={words}: {share!r} is not a share of the steps, such as 0.3") from None
    if any(phase.share <= 0 for phase in found) or not math.isclose(sum(phase.share for phase in found), 1):
        raise ValueError(f"objective={words}: the shares of the steps must be above 0 and make 1 together")
    return found


def parse_decoders(words: str) -> list[str]:
    """The decoders of `decoders=`. Raises `ValueError` for an unknown one."""
    names = [word.strip() for word in words.split(",")]
    for name in names:
        if name not in DECODERS:
            raise unknown("decoder", name, DECODERS, f" Use {', '.join(DECODERS)}.")
    return names
