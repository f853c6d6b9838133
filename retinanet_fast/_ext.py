"""Loads the compiled module ``_C``, which registers ``torch.ops.retinanet_fast.*``, or says why it cannot be."""

import importlib
import re
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PACKAGE = Path(__file__).resolve().parent
OPS_LIBRARY = PACKAGE / "libretinanet_fast_ops.so"


def _load() -> ModuleType:
    try:
        module = importlib.import_module("retinanet_fast._C")
    except ModuleNotFoundError as error:
        if error.name != "retinanet_fast._C":
            raise
        reason = _why_absent()
    except ImportError as error:
        reason = _why_not_loadable(str(error))
    else:
        built = module.build_info()["torch"]
        if _minor(built) == _minor(torch.__version__):
            return module
        reason = _another_torch(built)  # it need not show as a missing symbol
    raise ImportError(f"retinanet_fast's compiled ops cannot be loaded: {reason}")


def _minor(version: str) -> str:
    """2.13 of 2.13.0+cpu: torch's C++ interface is that of a minor version."""
    return ".".join(version.split(".")[:2])


def _why_absent() -> str:
    if hidden := _built_elsewhere():
        return (
            f"the source folder {PACKAGE.parent} hides the package that is installed in {hidden}.\n"
            "Run Python in another folder, or with -P (Python 3.11 or newer)."
        )
    others = sorted(file.name for file in PACKAGE.glob("_C.*.so"))
    found = f"it has been built for another Python ({others[0]})" if others else "it has not been built"
    return f"{found}.\n{_how_to_build()}"


def _built_elsewhere() -> Path | None:
    """The first other folder of the search path that holds the package with its extension."""
    for entry in sys.path:
        folder = Path(entry).resolve()
        built = any((folder / PACKAGE.name / f"_C{suffix}").is_file() for suffix in EXTENSION_SUFFIXES)
        if built and folder != PACKAGE.parent:
            return folder
    return None


def _why_not_loadable(error: str) -> str:
    """Another torch shows as a missing symbol; the torch that the file was built for is written in it."""
    for suffix in EXTENSION_SUFFIXES:
        file = PACKAGE / f"_C{suffix}"
        built = file.is_file() and re.search(rb"is built for torch ([\w.+]+)", file.read_bytes())
        if built and (version := built[1].decode()) != torch.__version__:
            return _another_torch(version)
    return f"{error}.\n{_how_to_build()}"


def _another_torch(built: str) -> str:
    found = f"it is built for torch {built}, and torch {torch.__version__} is running.\n"
    if (PACKAGE.parent / "setup.py").is_file():
        return found + _how_to_build()
    install = f'    pip install "torch=={_minor(built)}.*"'
    return f"{found}Install that torch:\n{install}\nOr keep this one. {_how_to_build()}"


def _how_to_build() -> str:
    source = PACKAGE.parent if (PACKAGE.parent / "setup.py").is_file() else "retinanet_fast's source folder"
    return (
        f"Build it against the installed torch ({torch.__version__}), in {source}:\n"
        "    pip install --no-build-isolation ."
    )


_C = _load()


def build_info() -> dict[str, Any]:
    """What the extension was built from, and what it finds here.

    The build plan (the row of README's build table that was taken), torch, the compiler, the CUDA architectures, the
    CPU level in use, and the GPUs.
    """
    info: dict[str, Any] = dict(_C.build_info())
    info["torch_running"] = torch.__version__
    info["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return info
