"""``{program-output} train --help`` and ``{recipe} bccd``: what the program prints, and its recipes, as they are."""

from __future__ import annotations

import contextlib
import io
import os
from importlib import resources
from typing import Any
from unittest import mock

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from retinanet_fast import cli


class Program(Directive):
    """The output of ``retinanet-fast`` with these arguments, which must succeed."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        words, text = self.arguments[0].split(), io.StringIO()
        # argparse wraps its help by the width of the terminal.
        with mock.patch.dict(os.environ, COLUMNS="88"), contextlib.redirect_stdout(text):
            try:
                code = cli.main(words)
            except SystemExit as end:
                code = end.code
        if code:
            raise self.error(f"retinanet-fast {' '.join(words)} ended with {code}")
        return [nodes.literal_block(text.getvalue(), text.getvalue(), language="text")]


class Recipe(Directive):
    """The TOML file of a recipe of the package."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        file = resources.files("retinanet_fast.engine.recipe") / "named" / f"{self.arguments[0]}.toml"
        return [nodes.literal_block(file.read_text(), file.read_text(), language="toml")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("program-output", Program)
    app.add_directive("recipe", Recipe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
