"""``{benchmark-rows} cpu.json``: a committed run of the benchmarks as a table, with the machine that it ran on.
``{benchmark-numbers} data_scale.json``: the same of a run that has single numbers and their bars.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
# The eager twins loop over boxes: they are what results are compared with, and no rival in speed.
PROVIDERS = {
    "ours": "ours",
    "ours-program": "ours, the program's step",
    "torchvision": "torchvision",
    "torchvision-fused": "its optimizer fused",
    "torchvision-channels_last": "torchvision, channels_last",
    "torchvision-channels_last-fused": "its optimizer fused",
    "torchvision-compile": "torchvision compiled",
    "compile": "plain PyTorch compiled",
}
HEADS = ("workload", "sizes", *PROVIDERS.values())


def seconds_text(seconds: float) -> str:
    unit, scale = next((u for u in (("s", 1.0), ("ms", 1e-3)) if seconds >= u[1]), ("us", 1e-6))
    return f"{seconds / scale:.3g} {unit}" if seconds < 100 * scale else f"{seconds / scale:.0f} {unit}"


def rows_of(result: dict[str, Any]) -> list[list[str]]:
    """One row a workload: its name, its sizes, our median, and each other provider's with its ratio to ours."""
    workloads: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in result["rows"]:
        workloads[row["workload"]][row["provider"]] = row
    table = []
    for name, rows in workloads.items():
        ours = rows["ours"]
        cells = [name, ours["shape"], seconds_text(ours["median"])]
        for provider in list(PROVIDERS)[1:]:
            median = rows.get(provider, {}).get("median")
            cells.append(f"{seconds_text(median)}, {median / ours['median']:.3g}x" if median else "")
        table.append(cells)
    return table


def machine_of(result: dict[str, Any]) -> str:
    at = result["environment"]
    device = at["device"] if at["cuda"] else f"{at['cpu']}, {at['threads']} threads"
    return f"{device}; torch {at['torch']}, torchvision {at['torchvision']}, commit {at['commit']}"


def numbers_of(result: dict[str, Any]) -> list[list[str]]:
    """One row a number: what it is, its value, its bar with what came of it, and how it was measured."""
    return [
        [
            number["name"],
            number["text"],
            f"{number['bar']}: {number['verdict']}" if number["bar"] else "",
            number["about"],
        ]
        for number in result["numbers"]
    ]


class Results(Directive):
    """A table of a committed file, below a line about the machine."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = RESULTS / self.arguments[0]
        self.state.document.settings.env.note_dependency(str(path))
        result = json.loads(path.read_text())
        return [nodes.paragraph("", f"{machine_of(result)}:"), _table(self.rows(result))]

    def rows(self, result: dict[str, Any]) -> list[list[str]]:
        raise NotImplementedError


class BenchmarkRows(Results):
    def rows(self, result: dict[str, Any]) -> list[list[str]]:
        rows = rows_of(result)
        used = [i for i in range(len(HEADS)) if any(row[i] for row in rows)]
        return [[HEADS[i] for i in used], *([row[i] for i in used] for row in rows)]


class BenchmarkNumbers(Results):
    def rows(self, result: dict[str, Any]) -> list[list[str]]:
        return [["number", "value", "bar", "of"], *numbers_of(result)]


def _table(rows: list[list[str]]) -> nodes.table:
    """Rows of text, the first one the head, as a docutils table."""
    table, group, head, body = (
        nodes.table(classes=["measured"]),
        nodes.tgroup(cols=len(rows[0])),
        nodes.thead(),
        nodes.tbody(),
    )
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]
    for number, cells in enumerate(rows):
        row = nodes.row()
        row += [nodes.entry("", nodes.paragraph("", cell)) for cell in cells]
        (body if number else head).append(row)
    group += [head, body]
    table += group
    return table


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("benchmark-rows", BenchmarkRows)
    app.add_directive("benchmark-numbers", BenchmarkNumbers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
