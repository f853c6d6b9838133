"""Loads the compiled module ``_C``, which registers ``torch.ops.retinanet_fast.*``; the one "not built" error."""

import importlib
from types import ModuleType
from typing import Any

import torch


def _load() -> ModuleType:
    try:
        return importlib.import_module("retinanet_fast._C")
    except ModuleNotFoundError as error:
        if error.name != "retinanet_fast._C":
            raise
        reason = "it has not been built for this Python"
    except ImportError as error:
        reason = str(error)
    raise ImportError(
        f"retinanet_fast's compiled ops cannot be loaded: {reason}.\n"
        f"Build them against the installed torch ({torch.__version__}) from the source folder with\n"
        "    pip install --no-build-isolation ."
    )


_C = _load()


def build_info() -> dict[str, Any]:
    """What the extension was built from, and what it finds here: build plan (the row of the build table that was
    taken), torch, compiler, CUDA architectures, CPU level in use, and the GPUs."""
    info: dict[str, Any] = dict(_C.build_info())
    info["torch_running"] = torch.__version__
    info["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return info
