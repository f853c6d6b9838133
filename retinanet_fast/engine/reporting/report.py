"""The page of a run: one self-contained html file."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from retinanet_fast.engine.evaluation.coco_numbers import Evaluation
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.reporting.pictures import Compared
from retinanet_fast.engine.reporting.timing import MOST_SHOWN, OpTiming

MEANINGS = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APS": "small objects, below 32² pixels",
    "APM": "medium objects, 32² to 96²",
    "APL": "large objects",
    "AR1": "recall with 1 detection per image",
    "AR10": "recall with 10",
    "AR100": "recall with 100",
    "ARS": "recall of small objects",
    "ARM": "recall of medium objects",
    "ARL": "recall of large objects",
}


@dataclass
class Report:
    """What the page shows. ``figures`` are (value, caption); ``plots`` are image files, those that are there; without
    ``timings`` the page has no section on them."""

    title: str
    summary: str
    figures: Sequence[tuple[str, str]]
    pictures: Sequence[Compared]
    score: float
    plots: Sequence[Path]
    evaluation: Evaluation
    evaluation_note: str
    timings: Sequence[OpTiming]
    environment: Sequence[tuple[str, str]]
    recipe: str

    def write(self, path: Path) -> None:
        """Write the page; the images go into the file itself."""
        template = Template((resources.files(__package__) / "report.html").read_text(encoding="utf-8"))
        page = template.substitute(
            title=html.escape(self.title),
            summary=html.escape(self.summary),
            figures="".join(_figure(value, caption) for value, caption in self.figures),
            pictures="".join(_pair(compared) for compared in self.pictures),
            score=f"{self.score:g}",
            plots="".join(
                _image(plot.read_bytes(), "png", plot.stem) for plot in self.plots if plot.exists()
            ),
            numbers=_numbers(self.evaluation),
            categories=_categories(self.evaluation),
            evaluation_note=html.escape(self.evaluation_note),
            timings=_timings(self.timings),
            environment=_table(("", ""), ((html.escape(k), html.escape(v)) for k, v in self.environment)),
            recipe=html.escape(self.recipe),
        )
        write_text(path, page)


def _figure(value: str, caption: str) -> str:
    return f'<div class="figure"><b>{html.escape(value)}</b><span>{html.escape(caption)}</span></div>'


def _image(content: bytes, kind: str, description: str) -> str:
    text = base64.b64encode(content).decode("ascii")
    return f'<img alt="{html.escape(description)}" src="data:image/{kind};base64,{text}">'


def _pair(compared: Compared) -> str:
    caption = "<figcaption><span>truth</span><span>detections</span></figcaption>"
    file = io.BytesIO()
    compared.picture.save(file, "JPEG", quality=92)
    image = _image(file.getvalue(), "jpeg", f"truth and detections, image {compared.image_id}")
    return f"<figure>{image}{caption}</figure>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A table of cells that are html already; the columns in ``numeric`` are set to the right."""

    def cells(tag: str, values: Sequence[str]) -> str:
        marks = [' class="n"' if column in numeric else "" for column in range(len(values))]
        return "".join(f"<{tag}{mark}>{value}</{tag}>" for mark, value in zip(marks, values, strict=True))

    head = f"<tr>{cells('th', heads)}</tr>" if any(heads) else ""
    return f"<table>{head}" + "".join(f"<tr>{cells('td', row)}</tr>" for row in rows) + "</table>"


def _meter(share: float) -> str:
    return f'<div class="meter"><i style="width:{100 * max(0.0, min(1.0, share)):.1f}%"></i></div>'


def _value(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _numbers(evaluation: Evaluation) -> str:
    rows = [
        (name, MEANINGS[name], "" if math.isnan(value) else _meter(value), _value(value))
        for name, value in evaluation.numbers.items()
    ]
    return _table(("", "COCO's twelve numbers", "", ""), rows, numeric=(3,))


def _categories(evaluation: Evaluation) -> str:
    rows = [
        (html.escape(name), str(count), _value(ap), _value(ap50))
        for name, ap, ap50, count in evaluation.per_category
    ]
    return _table(("category", "boxes", "AP", "AP50"), rows, numeric=(1, 2, 3))


def _timings(timings: Sequence[OpTiming]) -> str:
    """The section on the ops' times; nothing without any."""
    if not timings:
        return ""
    greatest = min(MOST_SHOWN, max(row.ratio for row in timings))
    rows = [
        (
            f"<code>{row.name}</code>",
            html.escape(row.work),
            f"{1e3 * row.ours:.2f} ms",
            f"{1e3 * row.plain:.2f} ms",
            _meter(math.log(max(1.0, row.ratio)) / math.log(max(2.0, greatest))),
            html.escape(row.ratio_text.replace("x", "×")),
        )
        for row in timings
    ]
    heads = ("op", "on", "ours", "plain PyTorch", "(log scale)", "plain PyTorch / ours")
    section = Template((resources.files(__package__) / "timings.html").read_text(encoding="utf-8"))
    return section.substitute(table=_table(heads, rows, numeric=(2, 3, 5)))
