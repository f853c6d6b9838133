"""Errors that the program reports in one line."""

from __future__ import annotations

LONGEST = 800  # characters of a line that is told


class InputError(Exception):
    """The user's input cannot be used. Its one line names the file and the entry; exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(as_line(message))


class TrainingError(Exception):
    """Training cannot go on, for example because the loss is not finite. One line; exit code 1."""


class Stopped(Exception):
    """A signal asked for an end, and the work stopped where it could; exit code 128 + ``signal_number``."""

    def __init__(self, signal_number: int, message: str = "what was written before is whole") -> None:
        super().__init__(signal_number, message)  # what it is made of again in another process
        self.signal_number, self.message = signal_number, message

    def __str__(self) -> str:
        return self.message


class ProcessLost(Exception):
    """Another process of the run has gone, or failed by a defect. One line; exit code 1."""


class CheckError(Exception):
    """An exported file does not do what the model does. One line; exit code 1."""


TRAIN_PACKAGES = {
    "PIL": "pillow",
    "pycocotools": "pycocotools",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
    "tensorboard": "tensorboard",
    "filelock": "filelock",
    "msgspec": "msgspec",
    "faster_coco_eval": "faster-coco-eval",
    "yaml": "pyyaml",
}
EXPORT_PACKAGES = {
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime": "onnxruntime",
}
# Each extra of pyproject.toml that a user needs: the modules of its packages.
EXTRAS = {"train": TRAIN_PACKAGES, "export": EXPORT_PACKAGES}


def describe_import_error(error: ImportError) -> str:
    """In one line; where a package of an extra is missing, how to install it."""
    module = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if module in packages:
            return (
                f"this needs {packages[module]}, which is not installed here: "
                f'pip install "retinanet_fast[{extra}]"'
            )
    return str(error)


class Problems:
    """Collects the bad entries of a data set: either the first one is an error, or all are left out and counted.

    Args:
        skip: leave bad entries out (``--skip-bad``) instead of raising.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.messages: list[str] = []
        self._seen: set[str] = set()
        self._told = 0

    def report(self, message: str) -> None:
        """Note a bad entry; one that comes again, in a later epoch, is counted once.

        Raises:
            InputError: unless bad entries are to be skipped.
        """
        message = as_line(message)
        if not self.skip:
            raise InputError(f"{message} (--skip-bad leaves such entries out)")
        if message not in self._seen:
            self._seen.add(message)
            self.messages.append(message)

    def restore(self, messages: list[str]) -> None:
        """Take over what an earlier process of the run left out and told."""
        new = [message for message in messages if message not in self._seen]
        self.messages[self._told : self._told] = new
        self._seen.update(new)
        self._told += len(new)

    def summary(self, shown: int = 3) -> str | None:
        """One line on the entries left out since the last call: how many, and the first few; None if there are none."""
        new, self._told = self.messages[self._told :], len(self.messages)
        if not new:
            return None
        noun = "entry" if len(new) == 1 else "entries"
        rest = ", ..." if len(new) > shown else ""
        return f"left out {len(new)} bad {noun}: {'; '.join(new[:shown])}{rest}"


def one_line(error: BaseException) -> str:
    """An exception's first line, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def as_line(text: str) -> str:
    """A text that may quote a file's content as one line, which a terminal can show: what is not printable is escaped,
    and the middle of a long one is left out."""
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    half = LONGEST // 2 - 5
    return text if len(text) <= LONGEST else f"{text[:half]} [...] {text[-half:]}"
