"""A pytest plugin: `retinanet_fast._C` becomes the build whose ops run the CUDA kernels in the emulator.

`python -m pytest -p tests.emulator.plugin`, with RETINANET_FAST_EMULATOR the path of a variant's library, as in run.py.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.emulator.library import load

_path = Path(os.environ["RETINANET_FAST_EMULATOR"])

VARIANT = _path.parent.name

kernels, _extension = load(_path)
kernels.emulator_launched_kernels.restype = ctypes.c_char_p
kernels.emulator_seed(int(os.environ.get("RETINANET_FAST_EMULATOR_SEED", "1")))
torch.set_num_threads(1)


# Tests of what only the CPU kernels do.
CPU_ONLY = {
    "test_results_larger_than_a_huge_page": "an allocation of the CPU kernels' own",
    "test_extra_memory_is_small": "counts what torch's own allocator reports",
    "test_memory_does_not_grow_with_the_number_of_boxes": "counts what torch's own allocator reports",
}

# Tests that take many seconds here, and reach nothing in a kernel that shorter ones do not; `run.py --all` runs them.
LONG = {
    "test_more_boxes_than_one_block_or_round": "test_every_kernel_has_run has the second round too",
    "test_many_boxes": "thousands of boxes",
    "test_degenerate_boxes_among_thousands": "test_nms_of_several_rounds has them too",
    "test_boxes_in_one_line_or_place": "thousands of boxes",
    "test_every_class_by_itself": "thousands of boxes",
    "test_gradcheck": "hundreds of calls; gradients are compared with the twins' elsewhere",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    everything = os.environ.get("RETINANET_FAST_EMULATOR_ALL") == "1"
    for item in items:
        name = getattr(item, "originalname", item.name)
        reason = CPU_ONLY.get(name)
        if not everything and reason is None:
            reason = LONG.get(name)
            if name == "test_fuzz" and (item.callspec.params["block"] or VARIANT == "sanitized"):  # type: ignore[attr-defined]
                reason = "the checked variant runs the first thousand configurations"
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if parameters.get("error") is IndexError:
            reason = "on CUDA the kernel looks at labels, and its message names neither image nor number of classes"
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@contextmanager
def cpu_kernels() -> Iterator[None]:
    """Ops run the CPU kernels inside."""
    _extension.emulator_use_cpu_kernels(True)
    try:
        yield
    finally:
        _extension.emulator_use_cpu_kernels(False)


def seed(number: int) -> None:
    """From here on shuffles the order of blocks and threads in another way."""
    kernels.emulator_seed(number)


class Launches(NamedTuple):
    count: int
    threads: int  # the most that a block had


def launched_kernels() -> dict[str, Launches]:
    """The kernels launched so far, by their name with template arguments."""
    lines = kernels.emulator_launched_kernels().decode().splitlines()
    columns = (line.split("\t") for line in lines)
    return {name: Launches(int(count), int(threads)) for name, count, threads in columns}
