"""What is written down of a run: recipe, data, versions, and each time it was started."""

from __future__ import annotations

import shlex
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import retinanet_fast
from retinanet_fast.engine import environment
from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.data.split import Location, Split
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import Recipe

FORMAT = "retinanet_fast run 2"


@dataclass
class DataRecord:
    """A split: where it is, as absolute paths, and what it is: a digest of its images and boxes, and counts."""

    annotations: str
    image_folders: list[str]
    format: str
    digest: str
    images: int
    boxes: int
    categories: list[str]

    @classmethod
    def of(cls, split: Split) -> DataRecord:
        """Of a split whose images are located."""
        location = split.location or Location(split.annotations, (split.images.folder,))
        return cls(
            annotations=str(location.annotations.resolve()),
            image_folders=[str(folder.resolve()) for folder in location.image_folders],
            format=location.format,
            digest=split.digest(),
            images=len(split.images),
            boxes=split.count_boxes(),
            categories=[category.name for category in split.categories],
        )

    @property
    def location(self) -> Location:
        """Where to read the split again."""
        return Location(Path(self.annotations), tuple(map(Path, self.image_folders)), self.format)


@dataclass
class Start:
    """One start of a run: when, by which command, from which step, and on what.

    Sums are rounded otherwise by other numbers of threads or processes: a resumed run keeps those of its last start.
    """

    time: str
    command: str
    step: int
    device: str
    processes: int
    threads: int
    precision: str = ""  # of the multiplications


@dataclass
class RunRecord:
    """A run. ``id`` tells it from any other; ``starts`` grows with each resume; ``data`` has "train", and "val" where
    there is one."""

    recipe: Recipe
    data: dict[str, DataRecord]
    skip_bad: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    starts: list[Start] = field(default_factory=list)
    commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def resumed(self) -> bool:
        """Whether this is not the run's first start."""
        return len(self.starts) > 1

    def started(self, device: torch.device, processes: int, step: int = 0, precision: str = "") -> RunRecord:
        """Note a start, made by this program now, at ``step``; returns the record itself."""
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.starts.append(
            Start(
                time, shlex.join(sys.argv), step, str(device), processes, torch.get_num_threads(), precision
            )
        )
        self.commit = source_commit()
        self.versions = {**dict(environment.describe()), **optional_versions()}
        return self

    def check_data(self, now: Mapping[str, DataRecord]) -> None:
        """Check that data is what the run began with; it may have moved.

        Raises:
            InputError: a split has changed, its files that are missing too, or there is one more or less.
        """
        for name in sorted({*self.data, *now}):
            before, after = self.data.get(name), now.get(name)
            if before is None or after is None:
                there, not_there = ("now", "then") if before is None else ("then", "now")
                raise InputError(
                    f"{name}: the run began with other data: there is such a split {there}, but none {not_there}"
                )
            if before.digest != after.digest:
                raise InputError(
                    f"{after.annotations}: changed since the run began: expected {_counts(before)} with digest "
                    f"{before.digest[:12]}, found {_counts(after)} with {after.digest[:12]}; "
                    "a new run can start from this one's weights: --init RUN/last.pt"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``run.json`` has them."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Any, source: str) -> RunRecord:
        """From plain values; ``source`` is named in errors.

        Raises:
            InputError: they are not those of a run.
        """
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(f"{source}: not a record of a run: expected format {FORMAT!r}")
        known = {key: value for key, value in values.items() if key != "format"}
        try:
            known["recipe"] = recipes.from_dict(values["recipe"], source)
            known["data"] = {name: DataRecord(**split) for name, split in values["data"].items()}
            known["starts"] = [Start(**start) for start in values["starts"]]
            return cls(**known)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source}: a damaged record of a run: {error}") from None


def optional_versions() -> dict[str, str]:
    """Versions of the packages without which a run goes on, but with fewer files or choices."""
    found = {}
    for package in ("tensorboard", "torchvision"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def source_commit() -> str | None:
    """The git commit of the source tree that the package runs from, with ``-dirty`` where files differ from it; None
    for an installed package, or without git."""
    folder = Path(retinanet_fast.__file__).parent
    # An installed package may lie inside another project's repository, which does not know its files.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(folder, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _counts(data: DataRecord) -> str:
    return f"{data.images} images, {data.boxes} boxes"
