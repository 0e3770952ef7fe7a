"""Prompts side by side: found by generate, independent of each other, resumed bit for bit, the model untouched."""

from __future__ import annotations

import pytest
import torch

from stoical.soft_prompts.decoders import written
from stoical.soft_prompts.settings import OBJECTIVES, MixerOptions, ModelOptions, ProfessorOptions, SoftPromptSettings
from stoical.soft_prompts.targets import pad
from stoical.soft_prompts.training import PromptTraining, phase_steps, written_right
from tests.support.tiny_frozen import TEXTS, encoded, tiny_frozen


def settings(**given) -> SoftPromptSettings:
    base = {"target": "-", "vectors": 4, "learning_rate": 0.2, "steps": 30, "check_every": 10}
    return SoftPromptSettings(ModelOptions("-"), **(base | given))


def train(frozen, given, texts=TEXTS, state=None) -> PromptTraining:
    training = PromptTraining(frozen, encoded(*texts), given, stop_margin=0.1, state_file=state)
    training.run(shown=False)
    return training


@pytest.fixture(scope="module")
def frozen():
    return tiny_frozen()


def test_a_prompt_is_found_when_generate_writes_its_target_with_a_margin(frozen):
    before = frozen.fingerprint()
    training = train(frozen, settings(steps=150))
    known = training.progress
    found = known.found >= 0
    assert found.sum() >= 2
    assert (known.right[found] == training.targets.lengths[found]).all()
    assert (known.least[found] > 0.1).all()
    assert (known.found[found] % 10 == 0).all()
    assert written_right(frozen, known.best, training.targets).tolist() == known.right.tolist()
    assert frozen.fingerprint() == before
    last = known.log[-1]
    assert last["found"] == pytest.approx(float(found.float().mean()))
    assert last["exact"] >= last["found"]
    assert sum(row["agree"] for row in known.log) == sum(row["compared"] for row in known.log)


def test_what_is_found_is_trained_no_further(frozen):
    training = train(frozen, settings(steps=150))
    place = int((training.progress.found >= 0).nonzero()[0, 0])
    early = train(frozen, settings(steps=int(training.progress.found[place])))
    torch.testing.assert_close(training.progress.best[place], early.prompts[place].detach(), rtol=1e-4, atol=1e-5)


def test_an_untouched_model_is_seen_by_its_fingerprint(frozen):
    other = tiny_frozen()
    assert other.fingerprint() == frozen.fingerprint()
    with torch.no_grad():
        next(iter(other.model.parameters())).view(-1)[3] *= 1 + 1e-6
    assert other.fingerprint() != frozen.fingerprint()


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "professor_forcing"])
def test_a_target_is_trained_as_if_alone(objective):
    """Float64, so that only the arithmetic's order differs: draws are each target's own."""
    frozen, given = tiny_frozen(dtype=torch.float64), settings(objective=objective, steps=6, mixer=MixerOptions(0.2, 1))
    together = train(frozen, given)
    for place, text in enumerate(TEXTS):
        alone = train(frozen, given, texts=[text])
        torch.testing.assert_close(alone.prompts[0], together.prompts[place], rtol=1e-4, atol=1e-5)
        assert alone.progress.right[0] == together.progress.right[place]
    moved = (together.prompts - PromptTraining(frozen, encoded(), given, 0.1).prompts).abs()
    assert moved.amax(dim=(1, 2)).min() > 1e-3


PHASES = "cross_entropy:0.4,scheduled_sampling:0.2,professor_forcing:0.2,reinforce:0.2"


def test_a_run_goes_on_bit_for_bit(frozen, tmp_path):
    given = settings(objective=PHASES, steps=40, save_every=7, professor_forcing=ProfessorOptions(floor=0.0, width=8))
    whole = train(frozen, given)
    state = tmp_path / "state.pt"
    killed = PromptTraining(frozen, encoded(), given, 0.1, state)
    save, killed.save = killed.save, lambda: (save(), (_ for _ in ()).throw(KeyboardInterrupt))
    for _ in range(3):  # it dies at steps 7, 14 and 21, each time right after a save
        with pytest.raises(KeyboardInterrupt):
            killed.run(shown=False)
        killed = PromptTraining(frozen, encoded(), given, 0.1, state)
        save = killed.save
        killed.save = lambda save=save: (save(), (_ for _ in ()).throw(KeyboardInterrupt))
    resumed = PromptTraining(frozen, encoded(), given, 0.1, state)
    assert resumed.step == 21
    resumed.run(shown=False)
    assert torch.equal(resumed.prompts, whole.prompts)
    for name, value in vars(whole.progress).items():
        same = vars(resumed.progress)[name]
        assert torch.equal(same, value) if isinstance(value, torch.Tensor) else same == value, name
    assert resumed.opponent is not None
    assert whole.opponent is not None
    assert resumed.opponent.accuracy == whole.opponent.accuracy


def test_a_run_that_is_done_is_not_done_again(frozen, tmp_path):
    given, state = settings(steps=20), tmp_path / "state.pt"
    first = train(frozen, given, state=state)
    again = PromptTraining(frozen, encoded(), given, 0.1, state)
    again.train_step = None  # type: ignore[assignment]
    again.run(shown=False)
    assert torch.equal(first.progress.best, again.progress.best)
    assert first.progress.log == again.progress.log


def test_phases_share_out_the_steps():
    given = settings(objective="cross_entropy:0.5,scheduled_sampling:0.3,unlikelihood:0.2", steps=100)
    assert phase_steps(given) == [("cross_entropy", 0, 50), ("scheduled_sampling", 50, 80), ("unlikelihood", 80, 100)]


def test_bfloat16_models_train_float32_prompts():
    frozen = tiny_frozen(dtype=torch.bfloat16)
    training = train(frozen, settings(steps=20))
    assert training.prompts.dtype == torch.float32
    assert torch.isfinite(training.prompts).all()


def test_eos_is_part_of_the_target(frozen):
    """A prompt that writes all of a text and goes on has not written it."""
    training = PromptTraining(frozen, encoded(), settings(), 0.1)
    rows = written(frozen, training.prompts.detach(), 6)
    assert any(frozen.eos not in row for row in rows)
    cut = [[token for token in row if token != frozen.eos][:3] or [280] for row in rows]
    known = written_right(frozen, training.prompts.detach(), pad([[*row, frozen.eos] for row in cut]))
    for row, own, right in zip(rows, cut, known.tolist(), strict=True):
        assert right == (len(own) + 1 if row == [*own, frozen.eos] else len(own) if row[: len(own)] == own else 0)


def flipped(content: bytes) -> bytes:
    """One bit of a number is another; torch reads it without a word."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda _: b"not a file of torch", lambda content: content[:200], flipped]
)
def test_a_damaged_state_is_named(frozen, tmp_path, damage):
    state = tmp_path / "state.pt"
    train(frozen, settings(steps=1), state=state)
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(ValueError, match=r"state\.pt is damaged; delete it, and its prompts begin anew"):
        PromptTraining(frozen, encoded(), settings(steps=1), 0.1, state)


def test_a_state_of_other_targets_is_not_taken(frozen, tmp_path):
    state = tmp_path / "state.pt"
    train(frozen, settings(steps=1), state=state)
    with pytest.raises(ValueError, match=r"state\.pt is of other targets"):
        PromptTraining(frozen, encoded(*TEXTS[::-1]), settings(steps=1), 0.1, state)
