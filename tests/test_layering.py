"""A folder is a layer: includes and imports go only downward, and an op has one name in every folder."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "retinanet_fast"

# What a file under csrc/ may include, by its folder; "<>" stands for the standard library's headers.
C_STANDARD = re.compile(r"^[a-z_]+(\.h)?$")
INCLUDES = {
    "math": ("math/",),
    "kernels": ("math/", "kernels/"),
    "tensor": ("math/", "kernels/", "tensor/", "torch/", "ATen/", "c10/", "sys/"),
    "bindings.cpp": ("kernels/", "tensor/", "torch/", "build_info.h", "bindings.inc"),
}
CUDA_HEADERS = ("cuda_runtime.h", "cuda_fp16.h", "cuda_bf16.h")

# Python modules from the bottom up; an import may name its own layer or a lower one.
LAYERS = {
    "structures": 0,
    "_ext": 0,
    "reference": 1,
    "ops": 1,
    "nn": 2,
    "models": 3,
    "engine": 4,
    "cli": 5,
    "__main__": 6,
}


def c_files() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cuh", ".cpp", ".cu"})


def forbidden_includes(folder: str, text: str) -> list[str]:
    found = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', text, flags=re.MULTILINE)
    allowed = INCLUDES[folder]
    if folder == "kernels":
        allowed += CUDA_HEADERS
    return [name for name in found if not C_STANDARD.match(name) and not name.startswith(allowed)]


@pytest.mark.parametrize("path", c_files(), ids=lambda path: str(path.relative_to(CSRC)))
def test_includes_go_downward(path: Path) -> None:
    folder = path.relative_to(CSRC).parts[0]
    assert forbidden_includes(folder, path.read_text()) == []


def test_an_upward_include_is_found() -> None:
    assert forbidden_includes("kernels", "#include <ATen/core/Tensor.h>\n#include <vector>") == [
        "ATen/core/Tensor.h"
    ]
    assert forbidden_includes("math", '#include "kernels/common.h"') == ["kernels/common.h"]


def python_files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def upward_imports(layer_name: str, source: str) -> list[str]:
    layer = LAYERS[layer_name]
    modules: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "retinanet_fast":
            modules += [f"retinanet_fast.{name.name}" for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.append(node.module)
    own = [module.split(".")[1] for module in modules if module.startswith("retinanet_fast.")]
    return [name for name in own if name in LAYERS and LAYERS[name] > layer] + [
        name for name in own if {name, layer_name} == {"ops", "reference"}
    ]


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    layer_name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    # The demo times ops against twins and so imports both; nothing below layer 4 may.
    assert upward_imports(layer_name, path.read_text()) == []


def test_an_upward_import_is_found() -> None:
    assert upward_imports("ops", "from retinanet_fast.models import RetinaNet") == ["models"]
    assert upward_imports("nn", "from retinanet_fast import engine") == ["engine"]
    assert upward_imports("reference", "import retinanet_fast.ops") == ["ops"]


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
