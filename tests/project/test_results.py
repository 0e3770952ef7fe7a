"""examples/results.py and figure2.py: figures and tables out of files, what is missing with its command, Figure 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.figure2 import plot, toy
from examples.results import FIGURES, TABLE_LIST, draw, run, show
from examples.tables.rows import SECTIONS
from stoical.commands.shell import Given
from tests.support.figures import drawn
from tests.support.root import ROOT


def tables_json(path: Path) -> None:
    """Made-up results of Tables 1 and 3, two seeds."""
    names = ["cvr", "ndcg", *(f"recall@{k}" for k in range(1, 6)), "invalid_rate"]
    run = {"metrics": dict.fromkeys(names, 0.25), "train_seconds": 1.0}
    sections = {name: {row: [run, run] for row in SECTIONS[name]} for name in ("table_1", "table_3")}
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"seeds": [0, 1], "sections": sections}))


def test_figure_2_by_hand() -> None:
    """mu = 1, 1/2, 1/3, 1/4, 1/5 for dog, cat, cats, deer, fish: m(d) = 5/4, m(c) = 5/6, m(f) = 1/5, 137/60 in all."""
    found = toy()
    root, d = 0, found.second
    assert found.mass[[root, d]] == pytest.approx([137 / 60, 5 / 4])
    assert found.targets(found.one_hot, root) == {"d": 1, "c": 0, "f": 0}
    assert found.targets(found.one_hot, d) == {"og": 1, "eer": 0}
    assert found.targets(found.marginal, root) == pytest.approx({"d": 75 / 137, "c": 50 / 137, "f": 12 / 137})
    assert found.targets(found.marginal, d) == pytest.approx({"og": 4 / 5, "eer": 1 / 5})
    steep = toy(beta=2.0)
    assert steep.targets(steep.marginal, d) == pytest.approx({"og": 16 / 17, "eer": 1 / 17})


def test_figure_2_shows_its_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    axes = drawn(monkeypatch, plot, tmp_path / "figure.png").axes
    shown = [[text.get_text() for text in axis.texts] for axis in axes]
    assert {"m = 2.28", "m = 1.25", "m = 0.833", "rank 3: cats", "ε", "ish"} <= set(shown[0])
    assert shown[1:] == [["1", "0", "0"], ["1", "0"], ["0.547", "0.365", "0.0876"], ["0.8", "0.2"]]
    assert axes[3].get_title() == "(c) marginalised: t = 1, after ε"


def test_figures_are_drawn_of_what_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tables_json(tmp_path / "runs/tables/tables.json")
    limit = {"part": "limit", "dimensions": 2, "seed": 0, "critical_n": 4}
    Path("runs/capacity").mkdir()
    Path("runs/capacity/results.json").write_text(json.dumps({"cells": {"limit": limit}}))  # of parts=limit
    draw(Path("out"))
    printed = capsys.readouterr().out
    assert "capacity_limit.png: section 3, LIMIT's critical n (of runs/capacity/results.json)" in printed
    assert "not there: section 3, orders that free embeddings have right; runs/capacity/results.json has no" in printed
    assert {path.stem for path in Path("out").iterdir()} == {
        *("figure2_toy", "capacity_thresholds", "table_1", "capacity_limit")
    }
    assert "(of runs/tables/tables.json)" in printed
    assert "not there: Figure 4, R@k over k; python -m examples.figure4 makes its files" in printed
    assert "stoical histograms" in printed


def test_the_shipped_counts_draw_figure_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    source = FIGURES["length_histograms"].source()
    assert source is not None
    FIGURES["length_histograms"].make(source, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").is_file()


def test_capacity_figures_need_cells_of_their_part(tmp_path: Path) -> None:
    source = tmp_path / "results.json"
    source.write_text(json.dumps({"cells": {"a": {"part": "limit"}}}))
    with pytest.raises(ValueError, match=r"has no cells of ranker; stoical capacity parts=ranker finds them"):
        FIGURES["capacity_ranker"].make(source, tmp_path / "figure.png")


def test_tables_are_printed_of_what_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tables_json(tmp_path / "runs/tables/tables.json")
    (tmp_path / "runs/mismatch").mkdir()
    (tmp_path / "runs/mismatch/report.md").write_text("# The mismatch\n\n## Block 1\n\n| a |\n")
    for name, value in (("nouns_dual", 0.5), ("nouns_cross", 0.75), ("mammals", 0.9)):
        (tmp_path / f"runs/{name}/eval").mkdir(parents=True)
        found = {"num_queries": 3, "ndcg": value, "recall@1": value}
        (tmp_path / f"runs/{name}/eval/metrics.json").write_text(json.dumps(found))
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / "benchmarks/results/flat.md").write_text("# flat\n\n| seconds |\n")
    show()
    printed = capsys.readouterr().out
    assert "## Benchmark: flat (of benchmarks/results/flat.md)\n\n| seconds |" in printed
    assert "| trie, mu = 1/r^5 | 25.0 ± 0.0 |" in printed
    assert "cannot be told: every ranking-aware loss lowers CVR" in printed
    assert "## The mismatch paper's Table 1, and ours (of runs/mismatch/report.md)\n\n### Block 1\n\n| a |" in printed
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in printed.splitlines()]
    assert ["nouns_cross", "75.00"] in rows
    assert ["nouns_dual", "50.00"] in rows
    assert ["mammals", "90.00"] not in rows
    assert "not there: Mitigations, ranking; python -m examples.mitigations makes its files" in printed


def test_the_shipped_tables_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/mitigations.md has the rows of plain text as they are made here."""
    monkeypatch.chdir(ROOT)
    (table,) = [each for each in TABLE_LIST if each.title == "Mitigations, plain text"]
    source = table.source()
    assert source is not None
    page = (ROOT / "docs/mitigations.md").read_text()
    made = [line for line in table.make(source).splitlines()[2:] if "BASH" in line or "SFT" in line]
    assert len(made) == 2
    assert all([*map(str.strip, line.split("|"))] in [[*map(str.strip, row.split("|"))] for row in page.splitlines()]
               for line in made)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "names", "message"),
    [
        ([], frozenset(), "Say figures or tables"),
        (["tabels"], frozenset(), "Did you mean 'tables'"),
        (["tables"], frozenset({"out"}), "out= has no effect"),
    ],
)
def test_other_words_are_refused(words: list[str], names: frozenset[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(Given(None, {}, words, names))
