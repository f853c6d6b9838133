"""Every code block of README and docs: Python is executed, page by page, and each command is run or checked."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import pytest
import torch
from docs_setup import check_voc_data_set
from sybil import Sybil
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

from benchmarks import cli as benchmarks_cli
from benchmarks import overview
from retinanet_fast.cli.arguments import make_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "csrc/README.md", "benchmarks/README.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts),
]
SHELL = "sh"
# Output, layouts and configuration: nothing to run.
OTHER = {"", "text", "toml", "cpp", "cmake"}
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None

# Run as they are written, in this environment.
RUN = ("retinanet-fast info", "python -m retinanet_fast.selftest")
# Checked without being run: retinanet-fast and benchmarks by their parsers, make by its targets. Of others, why not:
NOT_RUN = {
    "pip install --no-build-isolation .": "builds the extension; tests/test_build_plan.py is about that",
    'pip install --no-build-isolation ".[train]"': "the same",
    ". .venv/bin/activate": "of the reader's shell",
    "git clone https://github.com/Shenggan/BCCD_Dataset": "needs a network",
    "torchrun --nproc-per-node 8 train.py": "needs eight devices; the script is the Python block above it",
    'cmake -S examples/cpp -B build/cpp -DCMAKE_PREFIX_PATH="'
    "$(python -c 'import torch; print(torch.utils.cmake_prefix_path)')\"": "tests/test_export_aoti.py builds it",
    "cmake --build build/cpp": "the same",
    "build/cpp/detect \"$(python -c 'import retinanet_fast; print(retinanet_fast.ops_library())')\" "
    "cells.pt2 photo.ppm": "the same test runs it",
    "python -m benchmarks.scoring_beside": "measures time; tests/test_benchmark_scoring_beside.py has its quick form",
    "pytest benchmarks/bench_ops.py -k detect": "measures time",
    "python -m benchmarks.training_run --data DIR": "trains for minutes",
    "python -m benchmarks.browse_scale": "measures time; tests/test_browse_page.py has a small form",
    "python -m benchmarks.evaluation_scale": "measures time; tests/test_evaluation_scale.py has a small form",
    "python -m benchmarks.prediction_scale": "measures for twenty minutes",
    "python -m benchmarks.training_step": "the same; tests/test_benchmark_training_step.py has its quick form",
    "python -m benchmarks.data_scale": "measures for minutes; tests/test_benchmark_data_scale.py has its parts",
}


def commands_of(block: str) -> list[str]:
    """Without comments, continued lines and runs of spaces."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    commands = [" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in lines]
    return [command for command in commands if command]


def parse(path: Path) -> Document:
    return Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(path)


def shell_commands() -> list[str]:
    documents = [Document(path.read_text(), str(path)) for path in PAGES]
    blocks = [
        str(block.lexemes["source"]) for page in documents for block in FencedCodeBlockLexer(SHELL)(page)
    ]
    return [command for block in blocks for command in commands_of(block)]


def environment() -> dict[str, str]:
    """Programs of this interpreter first on the path, and the package that the tests use."""
    import retinanet_fast

    paths = [str(Path(retinanet_fast.__file__).parent.parent), str(ROOT)]
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": programs, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    document = parse(path)
    document.namespace["has_torchvision"] = HAS_TORCHVISION
    skipped = []
    try:
        for example in document.examples():
            try:
                example.evaluate()
            except SkipTest as reason:
                skipped.append(str(reason))
    finally:
        torch.compiler.set_stance("default")  # which a page may have changed
    if path.name == "bccd.md":
        check_voc_data_set("bccd")
    assert HAS_TORCHVISION or set(skipped) <= {"torchvision is not installed in this environment"}
    assert not (HAS_TORCHVISION and skipped)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_has_a_known_language(path: Path) -> None:
    fences = re.findall(r"^ *(```+|~~~+|:::+)(.*)\n(?:.*\n)*? *\1 *$", path.read_text(), flags=re.MULTILINE)
    languages = {info.strip() for _, info in fences if not info.startswith("{")}
    assert languages <= {"python", SHELL, *OTHER}


@pytest.mark.parametrize("command", RUN)
def test_commands_that_are_run(command: str, tmp_path: Path) -> None:
    words = [sys.executable if word == "python" else word for word in command.split()]
    if words[0] == "retinanet-fast":
        words[:1] = [sys.executable, "-m", "retinanet_fast"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", sorted(set(shell_commands()) - set(RUN) - set(NOT_RUN)))
def test_commands_that_are_checked(command: str) -> None:
    program, *words = shlex.split(command)
    if program == "torchrun" and words[2:4] == ["-m", "retinanet_fast"]:
        program, words = "retinanet-fast", words[4:]
    if program == "retinanet-fast" and words[:1] != ["bench"]:
        make_parser().parse_args(words)  # exits where the words are not the program's
    elif program == "retinanet-fast" or (program == "python" and words[:2] == ["-m", "benchmarks"]):
        benchmarks_cli.parser().parse_args(words[2 if program == "python" else 1 :])
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert {word for word in words if "=" not in word} <= set(targets)
    else:
        pytest.fail(f"{command!r} is neither checked by its parser nor named in RUN or NOT_RUN")


def test_no_command_is_listed_for_nothing() -> None:
    assert set(RUN) | set(NOT_RUN) <= set(shell_commands())


def test_chart_shows_the_committed_results() -> None:
    chart = (ROOT / "docs/pictures/speed.svg").read_text()
    match = re.search(r"<dc:description>(.*?)</dc:description>", chart, flags=re.DOTALL)
    assert match is not None
    shown = json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&"))
    expected = json.loads(json.dumps(overview.figures()))
    assert shown == expected, "python -m benchmarks.overview docs/pictures/speed.svg"


def test_a_site_with_a_broken_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text('<h1 id="here">Other</h1>')
    (tmp_path / "index.html").write_text(
        '<a href="other.html#here">fine</a> <a href="https://example.org/">fine</a> <a href="gone.html">gone</a>'
        '<a href="other.html#there">no such place</a> <script src="https://example.org/x.js"></script>'
    )
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "check_site.py", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "index.html: gone.html: no such file",
        "index.html: other.html#there: no such place",
        "index.html: loads https://example.org/x.js",
    ]
