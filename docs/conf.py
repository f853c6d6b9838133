"""The documentation's site: ``make docs``. Nothing is fetched, neither while it is built nor when it is read."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_extensions"))
sys.path.insert(0, str(HERE.parent))

import retinanet_fast  # noqa: E402  the source tree's, by the paths above

project = "retinanet_fast"
release = version = retinanet_fast.__version__
copyright = "the retinanet_fast authors, BSD-3-Clause"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "benchmark_rows",
    "mathml",
    "program_output",
]
exclude_patterns = ["_build", "requirements.txt"]

# Pages. Headings have GitHub's anchors; of included files, too.
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

# The reference, from docstrings.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # nn.Module's say nothing about ours
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_preprocess_types = False

# Every reference must resolve (-n -W), but for the libraries that this site does not describe.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|collections|typing|pathlib|os)\..*"),
    ("py:.*", r"Tensor|Sequence|Mapping|Callable|Any|Path"),
    # Type variables and containers of our own that no page is about.
    (
        "py:class",
        r"(retinanet_fast\..*\.)?(Module|Model|Array|Weights|WeightsEnum|BatchSizes|FeaturePyramidNetwork)",
    ),
    ("py:func", r"retinanet_fast\._ext\.build_info|retinanet_fast\.models\.weights\.read_tensors"),
]

html_theme = "furo"
html_title = "retinanet_fast"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True


LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")


def links_of_included_files(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """Relative links of a README elsewhere in the repository, as seen from a page one folder below docs/."""
    folder = Path("..") / path.parent  # `path` is relative to docs/
    content[0] = LINK.sub(lambda link: f"]({folder / link[1]})", content[0])
    links_to_other_files(app, parent, content)


def links_to_other_files(app: Sphinx, page: str, content: list[str]) -> None:
    """Markdown files outside docs/ are no pages of the site: they come along as files, as all others do."""
    content[0] = LINK.sub(
        lambda link: f"](path:{link[1]})" if _is_other_markdown(link[1]) else link[0], content[0]
    )


def _is_other_markdown(link: str) -> bool:
    return link.endswith(".md") and bool(
        re.match(r"(\.\./)+(benchmarks|csrc|tests)/|(\.\./)+[A-Z]+\.md", link)
    )


def names_without_module(
    app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]
) -> None:
    """Docstrings name our classes and functions without their module."""
    lines[:] = [re.sub(r":(class|func):`(?=\w+`)", r":\1:`.", line) for line in lines]


def setup(app: Sphinx) -> None:
    app.connect("include-read", links_of_included_files)
    app.connect("source-read", links_to_other_files)
    app.connect("autodoc-process-docstring", names_without_module)
