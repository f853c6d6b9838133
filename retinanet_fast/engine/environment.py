"""What runs here: the extension's build, versions, and hardware."""

from __future__ import annotations

import os
import platform
from typing import Any


def describe() -> list[tuple[str, str]]:
    """(what, value) pairs to show: first what the extension says of itself, then the machine."""
    import torch

    import retinanet_fast

    rows = [("retinanet_fast", retinanet_fast.__version__)]
    build = retinanet_fast.build_info()
    rows += [(name.replace("_", " "), _text(value)) for name, value in build.items() if name != "version"]
    rows.append(("Python", platform.python_version()))
    rows.append(("processor", f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"))
    rows.append(("system", platform.platform()))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, "") else str(value)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
