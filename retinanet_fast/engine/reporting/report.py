"""The page of a run: one self-contained html file."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from retinanet_fast.engine.evaluation.analysis import MEANINGS as ERRORS
from retinanet_fast.engine.evaluation.analysis import SCORE, Analysis
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.reporting.evaluation_plots import confusion_figure, curves_figure
from retinanet_fast.engine.reporting.html_parts import figure, image, meter, note, number, section, table, two
from retinanet_fast.engine.reporting.pictures import Compared
from retinanet_fast.engine.reporting.plots import png
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
    "APr": "rare categories, on fewer than 10 images of LVIS",
    "APc": "common categories, on 10 to 100",
    "APf": "frequent categories",
    "AR300": "recall with 300 detections per image",
    "ARS": "recall of small objects",
    "ARM": "recall of medium objects",
    "ARL": "recall of large objects",
}
# A longer table of categories is folded.
MOST_UNFOLDED = 24


@dataclass
class Report:
    """What the page shows. ``figures`` are (value, caption); ``plots`` are image files, those that are there; what is
    empty has no section."""

    title: str
    summary: str
    figures: Sequence[tuple[str, str]]
    pictures: Sequence[Compared]
    plots: Sequence[Path]
    evaluation: Evaluation
    evaluation_note: str
    analysis: Analysis
    timings: Sequence[OpTiming]
    environment: Sequence[tuple[str, str]]
    recipe: str

    def write(self, path: Path) -> None:
        """Write the page; the images go into the file itself."""
        template = Template((resources.files(__package__) / "report.html").read_text(encoding="utf-8"))
        sections = (
            _samples(self.pictures),
            _training([plot for plot in self.plots if plot.exists()]),
            _evaluation(self.evaluation, self.evaluation_note),
            _errors(self.analysis),
            _confusion(self.analysis),
            _timings(self.timings),
            _environment(self.environment, self.recipe),
        )
        page = template.substitute(
            title=html.escape(self.title),
            summary=html.escape(self.summary),
            figures="".join(figure(value, caption) for value, caption in self.figures),
            sections="".join(sections),
        )
        write_text(path, page)


def _samples(pictures: Sequence[Compared]) -> str:
    if not pictures:
        return ""
    remark = (
        "Held-out images, taken in order, not chosen. Left: the annotated boxes. "
        f"Right: detections with a score of at least {SCORE:g}."
    )
    pairs = "".join(_pair(compared) for compared in pictures)
    return section("Detections beside the truth", note(remark), f'<div class="pair">{pairs}</div>')


def _pair(compared: Compared) -> str:
    caption = "<figcaption><span>truth</span><span>detections</span></figcaption>"
    file = io.BytesIO()
    compared.picture.save(file, "JPEG", quality=92)
    shown = image(file.getvalue(), "jpeg", f"truth and detections, image {compared.image_id}")
    return f"<figure>{shown}{caption}</figure>"


def _training(plots: Sequence[Path]) -> str:
    if not plots:
        return ""
    return section("Training", two(*(image(plot.read_bytes(), "png", plot.stem) for plot in plots)))


def _evaluation(evaluation: Evaluation, remark: str) -> str:
    numbers = table(
        ("", "over the categories", "", ""),
        [
            (name, MEANINGS[name], "" if math.isnan(value) else meter(value), number(value))
            for name, value in evaluation.numbers.items()
        ],
        numeric=(3,),
    )
    curves = image(png(curves_figure(evaluation)), "png", "precision over recall")
    return section("Evaluation", two(numbers, curves + note(remark)), _categories(evaluation))


def _categories(evaluation: Evaluation) -> str:
    """A table, folded where it is long."""
    rows = [
        (html.escape(name), str(count), number(ap), number(ap50))
        for name, ap, ap50, count in evaluation.per_category
    ]
    shown = table(("category", "boxes", "AP", "AP50"), rows, numeric=(1, 2, 3))
    unfolded = " open" if len(rows) <= MOST_UNFOLDED else ""
    return f"<details{unfolded}><summary>Each category</summary>{shown}</details>"


def _errors(analysis: Analysis) -> str:
    """What goes wrong, and what it costs."""
    greatest = max(*analysis.costs.gained.values(), 1e-9)
    rows = [
        (
            kind,
            meaning,
            f"{analysis.counts[kind]:,}",
            meter(analysis.costs.gained[kind] / greatest),
            number(analysis.costs.gained[kind]),
        )
        for kind, meaning in ERRORS.items()
    ]
    remark = (
        f"{analysis.counts['correct']:,} detections are correct, {analysis.counts['ignored']:,} do not count. "
        "AP50 lost is what would be gained if there were none of the kind, each kind by itself (TIDE, Bolya et al. "
        "2020): errors of high scores weigh most, however many of low scores there are."
    )
    heads = ("error", "a detection of", "number", "", "AP50 lost")
    return section("Errors", table(heads, rows, numeric=(2, 4)), note(remark))


def _confusion(analysis: Analysis) -> str:
    """Which category is taken for which."""
    matrix = image(png(confusion_figure(analysis)), "png", "confusion matrix")
    rows = [
        (html.escape(box), html.escape(detection), str(count), f"{100 * share:.0f} %")
        for box, detection, count, share in analysis.confused()
    ]
    confused = table(("box", "taken for", "boxes", "of its kind"), rows, numeric=(2, 3)) if rows else ""
    remark = (
        f"Detections with a score of at least {SCORE:g}, each on the box that it overlaps most, from IoU 0.50 on. "
        "Rows: the category of the box, shares of its boxes. Columns: what is detected there, or nothing."
    )
    return section("Which category is taken for which", two(matrix, confused + note(remark)))


def _timings(timings: Sequence[OpTiming]) -> str:
    """The ops' times."""
    if not timings:
        return ""
    greatest = min(MOST_SHOWN, max(row.ratio for row in timings))
    rows = [
        (
            f"<code>{row.name}</code>",
            html.escape(row.work),
            f"{1e3 * row.ours:.2f} ms",
            f"{1e3 * row.plain:.2f} ms",
            meter(math.log(max(1.0, row.ratio)) / math.log(max(2.0, greatest))),
            html.escape(row.ratio_text.replace("x", "×")),
        )
        for row in timings
    ]
    heads = ("op", "on", "ours", "plain PyTorch", "(log scale)", "plain PyTorch / ours")
    shown = Template((resources.files(__package__) / "timings.html").read_text(encoding="utf-8"))
    return shown.substitute(table=table(heads, rows, numeric=(2, 3, 5)))


def _environment(environment: Sequence[tuple[str, str]], recipe: str) -> str:
    rows = table(("", ""), ((html.escape(name), html.escape(value)) for name, value in environment))
    if not recipe:
        return section("Environment", rows)
    return section("Environment and recipe", two(rows, f"<pre>{html.escape(recipe)}</pre>"))
