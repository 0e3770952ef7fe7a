"""A figure as it is drawn."""

from __future__ import annotations

import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def drawn(monkeypatch: pytest.MonkeyPatch, plot: object, *arguments: object) -> Figure:
    """The figure that a function draws, kept from being closed."""
    figures: list[Figure] = []
    monkeypatch.setattr(plt, "close", figures.append)
    plot(*arguments)  # type: ignore[operator]
    monkeypatch.undo()
    (figure,) = figures
    plt.close(figure)
    return figure
