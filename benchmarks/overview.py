"""The chart of the README: ``python -m benchmarks.overview docs/pictures/speed.svg``, from the committed results.

The file carries its figures in its description, so that a test can compare them with the results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import COLORS, seconds_text, write_whole

RESULTS = Path(__file__).resolve().parent / "results"
# Each panel: the files of its rows, all of one machine, and the workloads with their labels.
PANELS = {
    "two AMD EPYC cores, float32": (
        ("cpu.json", "accelerate.json"),
        {
            "focal/int/fp32/sum": "focal loss, 120,087 x 80",
            "retinanet_loss/2x512": "whole loss, 2 x 512 px",
            "retinanet_detect/2x512": "whole detection, 2 x 512 px",
            "match_anchors/100": "matching, 100 boxes",
            "nms/uniform/5000": "nms, 5,000 boxes",
            "batched_nms/80/20000": "batched_nms, 20,000 boxes",
            "accelerate/step": "a ResNet-50 training step",
            "accelerate/evaluation": "a ResNet-50 evaluation",
        },
    ),
    "one H100": (
        ("h100/bench.json", "h100/compiled.json"),
        {
            "focal/int/fp32/sum/16-images": "focal loss, 16 images, float32",
            "retinanet_loss/16x800/bf16/channels_last": "whole loss, 16 x 800 px, bfloat16",
            "match_anchors/100": "matching, 100 boxes",
            "nms/uniform/5000": "nms, 5,000 boxes",
            "batched_nms/80/20000": "batched_nms, 20,000 boxes",
        },
    ),
}
RIVALS = {"torchvision": "torchvision", "torchvision-compile": "torchvision under torch.compile"}


class Bar(NamedTuple):
    label: str
    provider: str
    theirs: float  # seconds, the median
    ours: float


def bars_of(files: tuple[str, ...], labels: dict[str, str]) -> list[Bar]:
    """Each workload against each provider that was measured in the same run as ours."""
    found = []
    for workload, label in labels.items():
        for file in files:
            rows = json.loads((RESULTS / file).read_text())["rows"]
            medians = {row["provider"]: row["median"] for row in rows if row["workload"] == workload}
            found += [Bar(label, p, medians[p], medians["ours"]) for p in RIVALS if p in medians]
    return found


def figures() -> dict[str, list[Bar]]:
    """What the chart shows, a panel at a time."""
    return {title: bars_of(files, labels) for title, (files, labels) in PANELS.items()}


def draw(path: Path) -> None:
    import io

    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = figures()
    heights = [len(bars) + 0.5 for bars in panels.values()]
    figure = Figure(figsize=(7.2, 0.27 * sum(heights) + 1.4), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights)
    for axis, (title, bars) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, title, bars)
    axes[-1].set_xlabel("times as fast (log scale)", fontsize=9)
    handles = [Patch(color=COLORS[key], label=f"than {name}") for key, name in RIVALS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    buffer = io.BytesIO()
    # Ids that do not change, and no date: the same results give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "retinanet_fast"}):
        metadata = {"Date": None, "Description": json.dumps(panels)}
        figure.savefig(buffer, format="svg", metadata=metadata, facecolor="white")
    write_whole(path, buffer.getvalue())


def _draw_panel(axis: Any, title: str, bars: list[Bar]) -> None:
    labels: list[str] = []
    for place, bar in enumerate(bars):
        axis.barh(place, bar.theirs / bar.ours - 1, left=1, height=0.8, color=COLORS[bar.provider])
        text = f" {bar.theirs / bar.ours:.3g}x   {seconds_text(bar.theirs)} → {seconds_text(bar.ours)}"
        axis.text(max(bar.theirs / bar.ours, 1), place, text, va="center", fontsize=8)
        labels.append("" if bar.label in labels else bar.label)
    axis.set_yticks(range(len(bars)), labels, fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlim(0.7, 1500)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
