"""Which architectures run a trie: equal to plain forward passes, or refused in a line that says why."""

from __future__ import annotations

import pytest

from tests.support.architectures import ARCHITECTURES, Architecture, differences

RUN = [each for each in ARCHITECTURES if each.refused is None]
REFUSED = [each for each in ARCHITECTURES if each.refused is not None]


@pytest.mark.parametrize("architecture", RUN, ids=lambda each: each.kind)
def test_a_trie_scores_as_plain_forward_passes(architecture: Architecture) -> None:
    found = differences(architecture)
    assert max(found.values()) < 2e-5, found  # float32 rounding; a wrong mask or position is above 1e-2


@pytest.mark.parametrize("architecture", REFUSED, ids=lambda each: f"{each.kind}-{each.refused}")
def test_what_cannot_run_one_is_refused_by_its_reason(architecture: Architecture) -> None:
    with pytest.raises(ValueError, match=architecture.refused):
        differences(architecture)
