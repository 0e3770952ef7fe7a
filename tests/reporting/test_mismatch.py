"""diagnostics.json by hand, and what its figure shows."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from stoical.reporting.mismatch import KINDS, LABELS, plot_mismatch, summarise_diagnostics, write_diagnostics
from stoical.trie.node_weights import TargetSettings
from tests.support.figures import drawn
from tests.support.small_rows import result


def sums(prefixes: list[float], kl: list[float], valid: list[float]) -> dict[str, list[float]]:
    return {"prefixes": prefixes, "kl": kl, "valid": valid}


def make_rows() -> list[Any]:
    """Two queries, whose docIDs have one and two tokens."""
    short = {kind: sums([1.0], [0.5], [0.75]) for kind in KINDS}
    long = {
        "teacher_forced": sums([1.0, 0.5], [0.3, 0.2], [0.8, 0.25]),
        "gold": sums([1.0, 1.0], [0.3, 0.1], [0.8, 0.75]),
        "free_running": sums([1.0, 0.8], [0.3, 0.6], [0.8, 0.2]),
        "common": sums([1.0, 0.4], [0.3, 0.24], [0.8, 0.1]),
        "unconstrained": sums([1.0, 0.5], [0.3, 0.4], [0.8, 0.1]),
    }
    return [short, long]


def test_what_is_written_by_hand(tmp_path: Path) -> None:
    rows = [result(diagnostics=own) for own in make_rows()]
    write_diagnostics(rows, TargetSettings(token="trie", beta=2.0), tmp_path, "run")
    found = json.loads((tmp_path / "diagnostics.json").read_text())
    assert found["num_queries"] == 2
    assert found["target"] == {"item": "indicator", "alpha": None, "token": "trie", "beta": 2.0, "visits": None}
    assert found["kl"]["teacher_forced"] == pytest.approx([0.4, 0.4]), "of the prefixes that are as long"
    assert found["kl"]["free_running"] == pytest.approx([0.4, 0.75])
    assert found["mismatch"] == pytest.approx([0.0, 0.6 - 0.4])
    assert found["alive"] == pytest.approx([1.0, 0.5])
    assert found["valid_mass"]["free_running"] == pytest.approx([0.775, 0.25])
    assert found["prefixes"]["teacher_forced"] == pytest.approx([1.0, 0.25])
    assert found["off_trie"] == pytest.approx([0.225, 0.425])
    assert found["docid_kl"]["teacher_forced"] == pytest.approx((0.5 + 0.3 + 0.2) / 2)
    by_parts = sum(
        share * kl for share, kl in zip(*(found[key]["teacher_forced"] for key in ("prefixes", "kl")), strict=True)
    )
    assert by_parts == pytest.approx(found["docid_kl"]["teacher_forced"])


def test_where_nothing_is_in_common_there_is_no_mismatch() -> None:
    rows = make_rows()
    rows[1]["common"] = sums([1.0, 0.0], [0.3, 0.0], [0.8, 0.0])
    found = summarise_diagnostics(rows)
    assert found["mismatch"][1] is None
    assert found["alive"] == pytest.approx([1.0, 0.0])


@pytest.mark.paints
def test_the_figure_shows_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = summarise_diagnostics(make_rows())
    found["mismatch"][1] = None
    above, middle, below = drawn(monkeypatch, plot_mismatch, found, "label", tmp_path / "x.png").axes
    assert [line.get_ydata().tolist() for line in above.lines] == [found["kl"][kind] for kind in LABELS]
    assert middle.patches[0].get_height() == pytest.approx(0) and math.isnan(middle.patches[1].get_height())
    shares = [line.get_ydata().tolist() for line in below.lines]
    assert shares[2:] == [pytest.approx([100, 50]), pytest.approx([22.5, 42.5])]
