"""Errors that the program reports in one line."""

from __future__ import annotations


class InputError(Exception):
    """What the user gave cannot be used. One line that names the file and the entry; exit code 2."""


class TrainingError(Exception):
    """Training cannot go on, for instance because the loss is not finite. One line; exit code 1."""


TRAIN_PACKAGES = {"PIL": "pillow", "pycocotools": "pycocotools", "matplotlib": "matplotlib"}


def describe_import_error(error: ImportError) -> str:
    """In one line; where a package of the extra ``train`` is missing, how to install it."""
    package = TRAIN_PACKAGES.get((error.name or "").partition(".")[0])
    if package is None:
        return str(error)
    return f'this needs {package}, which is not installed here: pip install "retinanet_fast[train]"'


class Problems:
    """Collects bad entries of a data set: the first one is an error, or all are left out and counted.

    Args:
        skip: leave bad entries out (``--skip-bad``) rather than raise.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.messages: list[str] = []
        self._seen: set[str] = set()

    def report(self, message: str) -> None:
        """Note a bad entry; the same one again, in a later epoch, counts once.

        Raises:
            InputError: unless bad entries are to be skipped.
        """
        if not self.skip:
            raise InputError(f"{message} (--skip-bad leaves such entries out)")
        if message not in self._seen:
            self._seen.add(message)
            self.messages.append(message)

    def summary(self, shown: int = 3) -> str:
        """One line: how many entries were left out, and the first few of them."""
        first = "; ".join(self.messages[:shown])
        noun = "entry" if len(self.messages) == 1 else "entries"
        rest = ", ..." if len(self.messages) > shown else ""
        return f"left out {len(self.messages)} bad {noun}: {first}{rest}"
