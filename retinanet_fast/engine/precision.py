"""In which numbers a model's convolutions are computed; its weights stay float32."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from retinanet_fast.engine.errors import InputError

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# What ONEDNN_MAX_CPU_ISA may be set to for which oneDNN has no bfloat16 multiplication.
ISAS_WITHOUT_BFLOAT16 = {
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
}


def resolve(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a recipe's ``precision`` on a device.

    ``auto`` is bfloat16 where the hardware multiplies it (GPUs from Ampere on; CPUs with AVX512-BF16 or AMX), float16
    on other GPUs, and float32 on other CPUs and devices.

    Raises:
        InputError: no such precision, or float16 on a CPU.
    """
    if name == AUTO:
        if multiplies_bfloat16(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise InputError(f"precision: expected {AUTO}, {', '.join(DTYPES)}, got {name!r}")
    if name == "float16" and device.type == "cpu":
        raise InputError("precision float16: expected a GPU, the device is a CPU: use bfloat16 or float32")
    return DTYPES[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Convolutions of the block in ``dtype``; nothing changes for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def use_tf32(device: torch.device) -> None:
    """Let a GPU multiply float32 matrices in TF32, which rounds their elements to 10 bits of mantissa, as PyTorch lets
    it do in convolutions by default: so float32 has one meaning. bfloat16 and float16 are not concerned."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")


def describe(name: str, device: torch.device) -> str:
    """The precision of a recipe on a device, for a run's first lines and its record: the dtype, and TF32 if it is used,
    or that the hardware does not have what was asked for.

    Raises:
        InputError: as ``resolve``.
    """
    dtype = str(resolve(name, device)).removeprefix("torch.")
    if dtype == "float32" and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return "float32, multiplied in TF32"
    if dtype == "bfloat16" and not multiplies_bfloat16(device):
        return "bfloat16, only emulated here: slower than float32"
    return dtype


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device's hardware multiplies bfloat16, and PyTorch uses it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _onednn_may_use_bfloat16() and _processor_has_bfloat16()


def _onednn_may_use_bfloat16() -> bool:
    """oneDNN computes PyTorch's bfloat16 convolutions, unless it was switched off or limited."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return limit.upper() not in ISAS_WITHOUT_BFLOAT16


def _processor_has_bfloat16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
