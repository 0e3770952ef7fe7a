"""Paired intervals against scipy's, and Holm's correction by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stoical.studies.mismatch.statistics import Difference, half_width, holm, paired


def test_intervals_and_p_are_scipys_paired_t_test():
    random = np.random.default_rng(0)
    ours, theirs = random.normal(1, 1, 12), random.normal(0.5, 1, 12)
    test = stats.ttest_rel(ours, theirs)
    found, interval = paired(ours, theirs), test.confidence_interval(0.95)
    assert found.mean == pytest.approx((ours - theirs).mean())
    assert found.p == pytest.approx(test.pvalue)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((interval.low, interval.high))
    assert half_width(ours) == pytest.approx(stats.t.interval(0.95, 11, ours.mean(), stats.sem(ours))[1] - ours.mean())


def test_no_difference_at_all_is_not_significant():
    assert paired(np.ones(4), np.ones(4)) == Difference(0.0, 0.0, 1.0)
    assert paired(np.ones(4), np.zeros(4)).p == 0


def test_holm_by_hand():
    """Four tests: 0.01 <= 0.05 / 4, 0.016 <= 0.05 / 3, 0.03 > 0.05 / 2, and 0.031 falls with it."""
    ps = {"a": 0.03, "b": 0.01, "c": 0.031, "d": 0.016}
    found = holm({name: Difference(1.0, 0.1, p) for name, p in ps.items()})
    assert {name: one.significant for name, one in found.items()} == {"a": False, "b": True, "c": False, "d": True}
    assert list(found) == list(ps)
