"""The comparison table of the RetinaNet paper (arXiv:1708.02002, table 2)."""

from __future__ import annotations

from retinanet_fast.engine.evaluation.coco_numbers import Evaluation

COLUMNS = ("AP", "AP50", "AP75", "APS", "APM", "APL")
ROWS = (
    ("Faster R-CNN+++", (34.9, 55.7, 37.4, 15.6, 38.7, 50.9)),
    ("Faster R-CNN with FPN", (36.2, 59.1, 39.0, 18.2, 39.0, 48.2)),
    ("Faster R-CNN by G-RMI", (34.7, 55.5, 36.7, 13.5, 38.1, 52.0)),
    ("Faster R-CNN with TDM", (36.8, 57.7, 39.2, 16.2, 39.8, 52.1)),
    ("YOLOv2", (21.6, 44.0, 19.2, 5.0, 22.4, 35.5)),
    ("SSD513", (31.2, 50.4, 33.3, 10.2, 34.5, 49.8)),
    ("DSSD513", (33.2, 53.3, 35.2, 13.0, 35.4, 51.1)),
    ("RetinaNet ResNet-101-FPN", (39.1, 59.1, 42.3, 21.8, 42.7, 50.2)),
    ("RetinaNet ResNeXt-101-FPN", (40.8, 61.1, 44.1, 24.1, 44.2, 51.2)),
)


def comparison(evaluation: Evaluation, label: str) -> str:
    """The paper's rows with ours under them, in percent, and what they were measured on."""
    ours = tuple(100 * evaluation.numbers[column] for column in COLUMNS)
    width = max(len(label), *(len(name) for name, _ in ROWS))
    lines = [" " * width + "".join(f"{column:>7}" for column in COLUMNS)]
    lines += [f"{name:<{width}}" + "".join(f"{value:7.1f}" for value in values) for name, values in ROWS]
    lines.append("-" * (width + 7 * len(COLUMNS)))
    lines.append(f"{label:<{width}}" + "".join(f"{value:7.1f}" for value in ours))
    lines.append(
        "The paper's rows are COCO test-dev; the last row is the split evaluated here. Compare them only on COCO."
    )
    return "\n".join(lines)
