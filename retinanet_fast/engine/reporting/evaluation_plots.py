"""Pictures of an evaluation: precision over recall, and the confusion matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retinanet_fast.engine.evaluation.analysis import Analysis
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation
from retinanet_fast.engine.evaluation.curves import IOUS
from retinanet_fast.engine.reporting.plots import COLOURS, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAINT = "#c3c9da"
RECALLS = np.linspace(0, 1, 101)
# A larger matrix cannot be read: it shows the categories with the most boxes.
MOST_CATEGORIES = 24
# Up to so many categories, a cell says its share.
MOST_WITH_NUMBERS = 12


def curves_figure(evaluation: Evaluation) -> Figure:
    """Precision over recall, the mean over the categories with boxes, and at IoU 0.50 each category's own."""
    precision = evaluation.curves.precision[:, :, :, 0, -1]  # [IoU, recall, category]
    precision = precision[:, :, (precision > -1).any(axis=(0, 1))]
    figure, axes = new_figure("recall", "precision")
    for index in range(precision.shape[2]):
        label = "each category, IoU 0.50" if index == 0 else None
        axes.plot(RECALLS, precision[0, :, index], color=FAINT, linewidth=0.7, label=label)
    if precision.shape[2]:
        means = precision.mean(axis=2)
        for colour, label, curve in (
            (COLOURS[0], "IoU 0.50", means[IOUS.index(0.5)]),
            (COLOURS[1], "IoU 0.75", means[IOUS.index(0.75)]),
            (COLOURS[2], "IoU 0.50 to 0.95", means.mean(axis=0)),
        ):
            axes.plot(RECALLS, curve, color=colour, linewidth=2, label=label)
        figure.legend(frameon=False, loc="outside upper center", ncols=2, fontsize="small")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    return figure


def confusion_figure(analysis: Analysis) -> Figure:
    """Of the boxes of a category (row), the shares that are taken for each category (column) or for none."""
    from matplotlib.colors import LinearSegmentedColormap

    names, matrix = _largest(analysis)
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    count = len(matrix)
    figure, axes = new_figure("detection", "box")
    figure.set_size_inches(6.4, 5.8)
    axes.grid(visible=False)
    colours = LinearSegmentedColormap.from_list("shares", ["#ffffff", COLOURS[0]])
    axes.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(
        range(count), [*names, "none"], rotation=45 if count <= MOST_WITH_NUMBERS else 90, ha="right"
    )
    axes.set_yticks(range(count), [*names, "no box"])
    axes.tick_params(labelsize="small" if count <= MOST_WITH_NUMBERS else "x-small")
    if count <= MOST_WITH_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if matrix[row, column]:
                ink = "white" if share > 0.55 else INK
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=ink, fontsize="small")
    return figure


def _largest(analysis: Analysis) -> tuple[list[str], np.ndarray]:
    """The categories with the most boxes, in their order, and their part of the matrix; the others are one, in front
    of the last row and column."""
    matrix, count = analysis.confusion, len(analysis.names)
    if count <= MOST_CATEGORIES:
        return analysis.names, matrix
    boxes = matrix[:-1].sum(axis=1)
    shown = np.sort(np.argsort(-boxes, kind="stable")[:MOST_CATEGORIES])
    place = np.full(count + 1, len(shown))
    place[shown], place[-1] = np.arange(len(shown)), len(shown) + 1
    summed = np.zeros((len(shown) + 2,) * 2, dtype=np.int64)
    np.add.at(summed, (place[:, None], place[None, :]), matrix)
    return [*(analysis.names[index] for index in shown), f"{count - len(shown)} others"], summed
