"""A headless Chromium, driven through a pipe by its DevTools protocol: what pages do, without a package for it.

https://chromedevtools.github.io/devtools-protocol
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# Chromium reads commands from file 3 and writes to file 4; the first two words are the ends of ours.
START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3]]
for place, end in enumerate(ends, 3):
    os.dup2(end, place)
os.execvp(sys.argv[3], sys.argv[3:])
"""
FLAGS = ("--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--remote-debugging-pipe")


def executable() -> str | None:
    """The browser that is installed, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


# What the browser itself does at a key goes by these.
VIRTUAL_KEYS = {"Enter": 13, "Escape": 27}
TEXTS = {"Enter": "\r"}


class Chromium:
    """One tab. ``commands`` and ``answers`` are the ends of the pipes to the browser.

    Attributes:
        faults: what the pages have told of exceptions, and of what their policy or the network refused.
    """

    def __init__(self, commands: int, answers: int, patience: float = 60.0) -> None:
        self._commands, self._answers, self._patience = commands, answers, patience
        self._rest, self._number, self._session = b"", 0, ""
        self.faults: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """A method of the protocol, and its result.

        Raises:
            RuntimeError: the browser refused it.
            TimeoutError: it did not answer in time.
        """
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self._patience
        while (answer := self._next(deadline)).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, address: str, until: str = "document.readyState === 'complete'") -> None:
        """Go to an address, and wait until an expression is true there."""
        self.call(
            "Page.navigate", url="about:blank"
        )  # else another fragment of the same page does not load it anew
        self.call("Page.navigate", url=address)
        self.wait(until)

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + self._patience
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true within {self._patience:g} s: {expression}")
            time.sleep(0.01)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of what it promises."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, by its name in the DOM."""
        described = {"key": key, "windowsVirtualKeyCode": VIRTUAL_KEYS.get(key, 0)}
        text = {"text": TEXTS.get(key, key)} if len(key) == 1 or key in TEXTS else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **described, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **described)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.faults.append(str(told["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.faults.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"no answer within {self._patience:g} s")
            received = os.read(self._answers, 1 << 20)
            if not received:
                raise RuntimeError("the browser has ended")
            self._rest += received
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def chromium(program: str, width: int = 1280, height: int = 900) -> Iterator[Chromium]:
    """Start a browser with a profile of its own, and end it after the block."""
    flags = [*FLAGS, f"--window-size={width},{height}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # it refuses root otherwise
    (our_answers, answers), (commands, our_commands) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [sys.executable, "-c", START, str(commands), str(answers)]
        words += [program, *flags, f"--user-data-dir={profile}"]
        process = subprocess.Popen(words, pass_fds=(commands, answers), stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        try:
            browser = Chromium(our_commands, our_answers)
            yield browser
            with suppress(RuntimeError, OSError, TimeoutError):
                browser._session = ""
                browser.call("Browser.close")
        finally:
            os.close(our_commands)
            os.close(our_answers)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
