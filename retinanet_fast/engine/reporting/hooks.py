"""The hooks that show a run and fill its folder."""

from __future__ import annotations

from collections.abc import Callable
from importlib import util

from retinanet_fast.engine.reporting.event_files import TensorBoard
from retinanet_fast.engine.reporting.lines import SayEpoch
from retinanet_fast.engine.reporting.metrics import MetricsFiles
from retinanet_fast.engine.reporting.page import Page
from retinanet_fast.engine.reporting.training_progress import TrainingProgress
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.hooks import Hook


def reporting_hooks(folder: RunFolder, tensorboard: bool, page: Page | None = None) -> list[Hook]:
    """What a run writes and says beside its checkpoints. Of a run's processes, the main one alone has these hooks.

    Args:
        tensorboard: write TensorBoard's event files.
        page: in place of the run's own.
    """
    hooks: list[Hook] = [TrainingProgress(), MetricsFiles(folder)]
    if tensorboard:
        hooks.append(TensorBoard(folder))
    return [*hooks, SayEpoch(), page or Page(folder)]


def choose_tensorboard(wanted: bool | None, say: Callable[[str], None]) -> bool:
    """Whether to write event files: as wanted, or, where nothing is said, where tensorboard is installed.

    Raises:
        ModuleNotFoundError: wanted, and not installed.
    """
    installed = util.find_spec("tensorboard") is not None
    if wanted and not installed:
        raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")
    if wanted is None and not installed:
        say('tensorboard is not installed here: no event files (pip install "retinanet_fast[train]")')
    return installed if wanted is None else wanted
