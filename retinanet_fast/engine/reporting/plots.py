"""Plots of a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retinanet_fast.engine.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#2b3040"
GRID = "#e3e6ee"
LABELS = {"classification": "classification (focal)", "bbox_regression": "box regression"}
COLOURS = ("#3056d3", "#e4572e", "#17a398", "#8a4fbf")


def loss_plot(history: list[dict[str, Any]], path: Path) -> None:
    """The losses over the steps."""
    figure, axes = new_figure("steps", "loss")
    points = [point for record in history for point in record["curve"]]
    steps = [point[0] for point in points]
    for index, name in enumerate(history[-1]["losses"]):
        values = [point[1 + index] for point in points]
        axes.plot(steps, values, color=COLOURS[index % len(COLOURS)], label=LABELS.get(name, name))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    save(figure, path)


def ap_plot(history: list[dict[str, Any]], path: Path) -> None:
    """AP and AP50 over the epochs; nothing is written where no epoch was evaluated."""
    evaluated = [record for record in history if "AP" in record]
    if not evaluated:
        return
    figure, axes = new_figure("epochs", "average precision")
    epochs = [record["epoch"] for record in evaluated]
    for colour, name in zip(COLOURS, ("AP50", "AP", "AP75")):
        values = [record[name] for record in evaluated]
        axes.plot(epochs, values, "o-", markersize=4, color=colour, label=name)
    axes.set_ylim(0, 1)
    axes.set_xlim(0, epochs[-1] + 0.5)
    axes.legend(frameon=False, loc="lower right")
    save(figure, path)


def new_figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """A plain figure in the project's colours, independent of any window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.tick_params(colors=INK, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG."""
    write_bytes(path, png(figure))
