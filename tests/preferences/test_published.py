"""The settings that papers state, as they state them: a value that somebody mistypes shows here."""

from __future__ import annotations

import pytest

from stoical.config.loading import load_recipe
from stoical.preferences.settings import DPO_TRAINING, SPIN_TRAINING, DPOSettings, SpinSettings


def test_dpo_is_rafailovs() -> None:
    """Rafailov et al. 2023, Appendix B: RMSprop, 1e-6, beta 0.1, a linear warm-up."""
    assert DPOSettings().beta == 0.1
    assert DPO_TRAINING["learning_rate"] == 1e-6
    assert DPO_TRAINING["optim"] == "rmsprop"
    assert DPO_TRAINING["num_train_epochs"] == 1


def test_spin_is_its_authors() -> None:
    """Their configs/config.yaml: RMSprop, 5e-7, three epochs an iteration, beta 0.1."""
    assert SpinSettings().beta == 0.1
    assert SPIN_TRAINING["learning_rate"] == 5e-7
    assert SPIN_TRAINING["optim"] == "rmsprop"
    assert SPIN_TRAINING["num_train_epochs"] == 3


@pytest.mark.parametrize("overlay", ["bash", "bash_literal"])
def test_bash_replaces_a_fifth_of_the_tokens(overlay: str) -> None:
    """BASH paper: beta = 0.2 is the probability of the model's token."""
    settings = load_recipe(f"recipe=wordnet_beta2,{overlay}").self_training
    assert settings is not None
    assert settings.bash is not None
    assert settings.bash.beta == 0.2
