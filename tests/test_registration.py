"""Every op is registered for both devices, has a fake, a binding in _C and a twin with the same signature."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from retinanet_fast import _ext, ops, reference, selftest

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = sorted(
    name.removeprefix("retinanet_fast::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("retinanet_fast::")
)
PUBLIC = sorted(name for name in ops.__all__ if name.islower())


def test_schemas_are_found() -> None:
    assert "box_iou" in SCHEMAS


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("key", ["CPU", "CUDA"])
def test_has_a_kernel_for_each_device(name: str, key: str) -> None:
    # CUDA too in a CPU build: there the kernel is an error that says how to get the real one.
    op = getattr(torch.ops.retinanet_fast, name).default
    assert torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key) or op.has_kernel_for_dispatch_key(
        torch._C.DispatchKey.CompositeImplicitAutograd
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_has_a_fake(name: str) -> None:
    from torch._library.simple_registry import singleton

    qualified = f"retinanet_fast::{name}"
    assert singleton.find(
        qualified
    ).fake_impl.kernel is not None or torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "Meta")


@pytest.mark.parametrize("name", PUBLIC)
def test_twin_has_the_same_signature(name: str) -> None:
    def shape(function: object) -> list[tuple[str, object, object]]:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    assert shape(getattr(ops, name)) == shape(getattr(reference, name))


def test_every_op_has_a_case_in_the_self_test() -> None:
    assert sorted(selftest.CASES) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_documented(name: str) -> None:
    doc = inspect.getdoc(getattr(ops, name)) or ""
    for part in ("Args:", "Returns:", "Raises:"):
        assert part in doc, f"{name}: no {part} in its docstring"


def bindings() -> set[str]:
    return {name for name in dir(_ext._C) if not name.startswith("_")}


def test_every_op_has_a_binding() -> None:
    of_autograd = ("_backward", "_with_gradient", "_with_gradients")  # which only the dispatcher calls
    assert {name for name in SCHEMAS if not name.endswith(of_autograd)} <= bindings()


def test_bindings_are_typed_and_documented() -> None:
    for name in bindings():
        signature, *rest = (getattr(_ext._C, name).__doc__ or "").splitlines()
        assert signature.startswith(f"{name}("), name
        assert any(rest), f"{name}: no documentation"


@pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="the tests lie outside the source tree")
def test_the_stub_is_what_the_schemas_say() -> None:
    """`make format` writes it."""
    sources = sorted(str(path) for path in (ROOT / "csrc" / "tensor").glob("*.cpp"))
    generator = [sys.executable, str(ROOT / "cmake" / "generate_bindings.py"), "stub", *sources]
    expected = subprocess.run(generator, capture_output=True, text=True, check=True).stdout
    stub = (ROOT / "retinanet_fast" / "_C.pyi").read_text()
    assert stub == expected
    assert set(re.findall(r"^def (\w+)\(", stub, flags=re.MULTILINE)) == bindings()
