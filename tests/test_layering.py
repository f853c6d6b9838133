"""A folder is a layer: includes and imports go only downward, and an op has one name in every folder."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "retinanet_fast"

# What a file under csrc/ may include besides the standard library, by its folder: patterns of whole names.
MATH, INTERFACE = r"math/\w+\.h", r"kernels/\w+\.h"
TORCH = (r"torch/.+", r"ATen/.+", r"c10/.+")
INCLUDES = {
    "math": (MATH,),
    # The interface of the kernels, which both devices implement: it knows neither of them.
    "kernels": (MATH, INTERFACE),
    "kernels/cpu": (MATH, INTERFACE, r"kernels/cpu/.+"),
    "kernels/cuda": (MATH, INTERFACE, r"kernels/cuda/.+", r"cuda_(runtime|fp16|bf16)\.h"),
    "tensor": (MATH, INTERFACE, r"kernels/cpu/kernels\.h", r"tensor/\w+\.h", *TORCH, r"sys/.+"),
    "bindings.cpp": (r"kernels/cpu/kernels\.h", r"tensor/\w+\.h", *TORCH, r"build_info\.h", r"bindings\.inc"),
}
C_STANDARD = re.compile(r"[a-z_]+(\.h)?")

# Python modules from the bottom up; an import may name its own layer or a lower one.
LAYERS = {
    "structures": 0,
    "_checks": 0,
    "_ext": 0,
    "reference": 1,
    "_dtensor": 1,
    "_transforms": 2,
    "ops": 3,
    "nn": 4,
    "models": 5,
    "compat": 6,
    "acceleration": 6,
    "export": 6,
    "engine": 7,
    "cli": 8,
    "selftest": 8,
    "__main__": 9,
}


def c_files() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cuh", ".cpp", ".cu"})


def layer_of(path: Path) -> str:
    """The folder of ``INCLUDES`` that a file belongs to, such as ``kernels/cpu``."""
    parts = path.relative_to(CSRC).parts
    return max(
        (layer for layer in INCLUDES if parts[: layer.count("/") + 1] == tuple(layer.split("/"))), key=len
    )


def forbidden_includes(layer: str, text: str) -> list[str]:
    found = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, flags=re.MULTILINE)
    allowed = (C_STANDARD, *(re.compile(pattern) for pattern in INCLUDES[layer]))
    return [name for name in found if not any(pattern.fullmatch(name) for pattern in allowed)]


@pytest.mark.parametrize("path", c_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_includes_go_downward(path: Path) -> None:
    assert forbidden_includes(layer_of(path), path.read_text()) == []


def test_a_file_belongs_to_its_innermost_layer() -> None:
    assert layer_of(CSRC / "kernels" / "nms.h") == "kernels"
    assert layer_of(CSRC / "kernels" / "cpu" / "nms.cpp") == "kernels/cpu"
    assert layer_of(CSRC / "bindings.cpp") == "bindings.cpp"


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("math", "kernels/common.h"),
        ("kernels", "ATen/core/Tensor.h"),
        ("kernels", "kernels/cpu/sort.h"),
        ("kernels", "kernels/cuda/sum.cuh"),
        ("kernels/cpu", "kernels/cuda/sum.cuh"),
        ("kernels/cuda", "kernels/cpu/sort.h"),
        ("tensor", "kernels/cpu/sort.h"),
    ],
)
def test_an_upward_include_is_found(layer: str, name: str) -> None:
    assert forbidden_includes(layer, f'#include <vector>\n#include <cmath>\n#include "{name}"') == [name]


def python_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported_modules(module: str, source: str) -> list[str]:
    """What the source of ``module`` imports, as absolute names; relative imports are resolved."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # A file that is a package itself is named with ".__init__", so that one dot is the package.
            base = module.split(".")[: -node.level] if node.level else []
            package = ".".join([*base, *filter(None, [node.module])])
            found += [f"{package}.{alias.name}" for alias in node.names]
    return found


def upward_imports(module: str, source: str) -> list[str]:
    """The layers above its own, or beside it where that is forbidden, that a module imports."""
    own = module.split(".")[1]
    names = [
        name.split(".")[1] for name in imported_modules(module, source) if name.startswith("retinanet_fast.")
    ]
    layers = [name for name in names if name in LAYERS]
    return [name for name in layers if LAYERS[name] > LAYERS[own] or {name, own} == {"ops", "reference"}]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("path", python_files(), ids=module_of)
def test_imports_go_downward(path: Path) -> None:
    assert upward_imports(module_of(path), path.read_text()) == []


def test_every_module_has_a_layer() -> None:
    assert {module_of(path).split(".")[1] for path in python_files()} == LAYERS.keys()


@pytest.mark.parametrize(
    ("module", "source", "layer"),
    [
        ("retinanet_fast.ops.nms", "from retinanet_fast.models import RetinaNet", "models"),
        ("retinanet_fast.nn.anchors", "from retinanet_fast import engine", "engine"),
        ("retinanet_fast.reference.nms", "import retinanet_fast.ops", "ops"),
        ("retinanet_fast.nn.anchors", "from ..models import RetinaNet", "models"),
        ("retinanet_fast.nn.anchors", "from .. import models", "models"),
        ("retinanet_fast.nn.__init__", "from ..engine.recipe import Recipe", "engine"),
        ("retinanet_fast.structures", "from .ops.nms import nms", "ops"),
    ],
)
def test_an_upward_import_is_found(module: str, source: str, layer: str) -> None:
    assert upward_imports(module, source) == [layer]


def test_relative_imports_within_a_layer_are_allowed() -> None:
    assert upward_imports("retinanet_fast.nn.anchors", "from .transform import DetectionTransform") == []


def cmake_list(name: str) -> list[str]:
    found = re.search(rf"set\({name}\s+([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert found is not None
    return found.group(1).split()


@pytest.mark.parametrize("op", cmake_list("OPS"))
def test_an_op_has_one_name_in_every_folder(op: str) -> None:
    folders = [
        f"csrc/kernels/{op}.h",
        f"csrc/kernels/cpu/{op}.cpp",
        f"csrc/kernels/cuda/{op}.cu",
        f"csrc/tensor/{op}.cpp",
    ]
    assert [path for path in folders if not (ROOT / path).exists()] == []


def public_ops() -> list[str]:
    from retinanet_fast import ops

    return sorted(name for name in ops.__all__ if name.islower())


@pytest.mark.parametrize("op", public_ops())
def test_a_public_op_has_its_python_files(op: str) -> None:
    folders = [f"retinanet_fast/ops/{op}.py", f"retinanet_fast/reference/{op}.py", f"tests/test_{op}.py"]
    assert [path for path in folders if not (ROOT / path).exists()] == []
