"""Equations as MathML, made by latex2mathml when the site is built: browsers show it without scripts or fonts."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(convert(node.astext(), display="inline"))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """A displayed equation: ``\\\\`` ends a line, and ``&`` is where the lines align."""
    source = node.astext().strip()
    if r"\\" in source or "&" in source:
        source = r"\begin{align*}" + source + r"\end{align*}"
    translator.body.append(f'<div class="equation">{convert(source, display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
