"""The recipe's precision on a device: what auto takes, what is refused, and what is only emulated."""

from __future__ import annotations

import pytest
import torch

from retinanet_fast.engine import precision
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.precision import autocast, describe, resolve, use_tf32

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def processor(monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool) -> None:
    """A processor, as PyTorch describes it, where oneDNN is free to use it."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


@pytest.mark.parametrize(("bf16", "amx"), [(True, False), (False, True), (True, True)])
def test_auto_takes_bfloat16_on_a_cpu_that_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool
) -> None:
    processor(monkeypatch, bf16, amx)
    assert resolve("auto", CPU) == torch.bfloat16
    assert resolve("float32", CPU) == torch.float32


def test_auto_takes_float32_on_another_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, False, False)
    assert resolve("auto", CPU) == torch.float32


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("AVX2", torch.float32),
        ("avx512_core_vnni", torch.float32),
        ("AVX512_CORE_BF16", torch.bfloat16),
        ("AVX512_CORE_AMX", torch.bfloat16),
        ("DEFAULT", torch.bfloat16),
        ("", torch.bfloat16),
    ],
)
def test_a_limit_of_onednn_is_kept(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: str, expected: torch.dtype
) -> None:
    processor(monkeypatch, True, True)
    monkeypatch.setenv(name, limit)
    assert resolve("auto", CPU) == expected


def test_onednn_switched_off_or_absent_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, True, True)
    with torch.backends.mkldnn.flags(enabled=False):
        assert resolve("auto", CPU) == torch.float32
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert resolve("auto", CPU) == torch.float32


@pytest.mark.parametrize("bf16", [True, False])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: bf16)
    assert resolve("auto", CUDA) == (torch.bfloat16 if bf16 else torch.float16)
    assert resolve("float16", CUDA) == torch.float16


def test_emulated_bfloat16_is_allowed_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, False, False)
    assert resolve("bfloat16", CPU) == torch.bfloat16
    assert describe("bfloat16", CPU) == "bfloat16, only emulated here: slower than float32"
    assert describe("auto", CPU) == "float32"
    processor(monkeypatch, True, False)
    assert describe("bfloat16", CPU) == describe("auto", CPU) == "bfloat16"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="float16: expected a GPU"):
        resolve("float16", CPU)
    with pytest.raises(InputError, match="expected auto, float32, bfloat16, float16, got 'half'"):
        resolve("half", CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_of_the_block_have_the_dtype_and_weights_float32(dtype: torch.dtype) -> None:
    layer = torch.nn.Conv2d(3, 4, 3)
    with autocast(CPU, dtype):
        assert layer(torch.rand(1, 3, 8, 8)).dtype == dtype
    assert layer(torch.rand(1, 3, 8, 8)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)])
def test_tf32_is_used_and_stated_where_a_gpu_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    stated = "float32, multiplied in TF32" if capability >= (8, 0) else "float32"
    assert describe("float32", CUDA) == stated
    assert describe("float16", CUDA) == "float16"
    assert describe("float32", CPU) == "float32"
    before = torch.get_float32_matmul_precision()
    try:
        use_tf32(CPU)
        assert torch.get_float32_matmul_precision() == before
        use_tf32(CUDA)
        assert torch.get_float32_matmul_precision() == "high"
        # Convolutions as PyTorch has them: TF32 too.
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
