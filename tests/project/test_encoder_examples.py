"""examples/figure4.py and examples/reconstruction.py from the data to the table and the figure, a step or two a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import figure4, reconstruction


@pytest.mark.slow
def test_figure_4_from_the_data_to_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = [label for label in figure4.ENCODERS if "n = 32" in label or "CE, α = 2" in label]
    monkeypatch.setattr(figure4, "ENCODERS", {label: figure4.ENCODERS[label] for label in few})
    monkeypatch.setattr(figure4, "SEEDS", (0,))
    monkeypatch.setattr(figure4, "STEPS", {"dual": 2, "cross": 2})
    figure4.main(["generative=false"])
    said = capsys.readouterr().out
    assert all(f"| {label} " in said for label in few) and "generative" not in said.partition("Test split")[2]
    assert (tmp_path / figure4.ROOT / "figure4.png").is_file()
    figure4.main(["generative=false"])
    assert "==>" not in capsys.readouterr().out, "what is there is not made again"


@pytest.mark.slow
def test_the_table_of_reconstructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reconstruction, "EPOCHS", 1)
    monkeypatch.setattr(reconstruction, "SEEDS", (0, 1))
    reconstruction.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(reconstruction.SETTINGS) and all("±" in line for line in lines[2:])
