"""Pieces of a page."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence


def figure(value: str, caption: str) -> str:
    """A number in large type."""
    return f'<div class="figure"><b>{html.escape(value)}</b><span>{html.escape(caption)}</span></div>'


def image(content: bytes, kind: str, description: str) -> str:
    """A picture, in the page itself."""
    text = base64.b64encode(content).decode("ascii")
    return f'<img alt="{html.escape(description)}" src="data:image/{kind};base64,{text}">'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """A table of cells that are html already; the columns in ``numeric`` are set to the right."""

    def cells(tag: str, values: Sequence[str]) -> str:
        marks = [' class="n"' if column in numeric else "" for column in range(len(values))]
        return "".join(f"<{tag}{mark}>{value}</{tag}>" for mark, value in zip(marks, values, strict=True))

    head = f"<tr>{cells('th', heads)}</tr>" if any(heads) else ""
    return f"<table>{head}" + "".join(f"<tr>{cells('td', row)}</tr>" for row in rows) + "</table>"


def meter(share: float) -> str:
    """A bar from 0 to 1."""
    return f'<div class="meter"><i style="width:{100 * max(0.0, min(1.0, share)):.1f}%"></i></div>'


def number(value: float) -> str:
    """Three digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def note(text: str) -> str:
    """A remark, of plain text."""
    return f'<p class="note">{html.escape(text)}</p>'


def section(title: str, *parts: str) -> str:
    """A card of the page."""
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>\n"


def two(*columns: str) -> str:
    """Columns side by side where there is room."""
    return '<div class="two">' + "".join(f"<div>{column}</div>" for column in columns) + "</div>"
