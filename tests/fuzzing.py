"""Mutations of data sets' files, drawn from a seed; and the bounds that a process sets itself to read them."""

from __future__ import annotations

import copy
import json
import random
import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.harness import status_bytes

GIGABYTES = 2
# A small file that takes so long hangs: the slowest takes a tenth of a second on a core of its own.
SECONDS = 20

# What stands where something else should. Texts that no json encoder writes are put in as they are.
RAW = {
    "deep list": "[" * 100_000 + "]" * 100_000,
    "deep object": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "rather deep list": "[" * 900 + "]" * 900,
    "many digits": "9" * 5000,
    "huge exponent": "1e999999999",
    "fraction": "0." + "1" * 5000,
    "half a surrogate": '"\\ud800"',
    "escaped zero": '"a\\u0000b"',
    "raw control": '"a\x01b"',
}
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "x",
        "x" * 5000,
        "7",
        "1.5",
        "nan",
        "\u202e\u2028",
        "../" * 40 + "etc/passwd",
        ".",
        "/",
    ),
    *(0, -1, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, -0.0),
    *(float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e-320, 5e-324),
    *([], {}, [[]], [1, 2, 3, 4], [0, 0, 1e308, 1e308], {"id": 1}, ["a"] * 100, [None] * 4, list(range(5))),
)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError, and not one that is caught as Exception is, where the block takes longer."""

    class Hangs(BaseException):
        pass

    def ring(*_: object) -> None:
        raise Hangs(f"takes more than {seconds} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def limit_memory() -> None:
    """Let this process have no more than 2 GB: all that it maps counts, but for what it has mapped and not touched so
    far, which of a CUDA build's libraries is more than that."""
    untouched = status_bytes("VmSize") - status_bytes("VmRSS")
    most = GIGABYTES * 2**30 + untouched
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each (container, key) in a json's content."""
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


def mutated_json(document: Any, draw: random.Random) -> bytes:
    """A json with one to three changes of its structure, and now and then of its text."""
    document = copy.deepcopy(document)
    raw: dict[str, str] = {}
    for _ in range(draw.randint(1, 3)):
        container, key = draw.choice(places(document) or [([0], 0)])
        change = draw.randrange(6)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif change == 2:
            mark = f"raw {len(raw)}"
            container[key] = mark
            raw[mark] = RAW[draw.choice(sorted(RAW))]
        elif change == 3 and isinstance(container, dict):
            container[draw.choice(("id", "bbox", "", "image_id", "names"))] = copy.deepcopy(
                draw.choice(VALUES)
            )
        else:
            container[key] = copy.deepcopy(draw.choice(VALUES))
    text = json.dumps(document, ensure_ascii=draw.random() < 0.5)
    for mark, new in raw.items():
        text = text.replace(f'"{mark}"', new)
    content = text.encode("utf-8", "surrogatepass")
    return mutated_bytes(content, draw) if draw.random() < 0.25 else content


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """A file with a change of its bytes."""
    place = draw.randrange(len(content) + 1)
    other = draw.randrange(len(content) + 1)
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: content[:place],
        lambda: b"",
        lambda: content[:place] + draw.randbytes(draw.choice((1, 4, 40))) + content[place:],
        lambda: content[: min(place, other)] + content[max(place, other) :],
        lambda: content[:place] + content[min(place, other) : min(place, other) + 200] + content[place:],
        lambda: bytes(byte ^ (1 << draw.randrange(8)) if draw.random() < 0.01 else byte for byte in content),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.decode("latin-1").encode("utf-16"),
        lambda: content + content,
    )
    return draw.choice(changes)()


WORDS = (
    *(
        "",
        "x",
        "nan",
        "inf",
        "-inf",
        "1e308",
        "-1",
        "0",
        "1e400",
        "9" * 5000,
        "1_0",
        "0x10",
        "\u0663",
        "\x00",
        "1.5",
    ),
    *(
        "true",
        "[]",
        "{}",
        "~",
        "*a",
        "&a 1",
        "!!binary x",
        "!!python/object:os.system x",
        "a: b: c",
        "- - - 1",
    ),
    *(
        "<",
        "&lt;",
        "&#0;",
        "&x;",
        "</object>",
        "<object>" * 1000,
        "..",
        "/",
        "." * 300,
        "x" * 5000,
        "\u2028",
        "\n",
    ),
    *("<!DOCTYPE a [<!ENTITY x 'y'>]>", "[" * 2000, "{a: " * 2000, "? " * 300, "%TAG ! x", "2024-99-99"),
)
BOMB = (
    "<!DOCTYPE a [<!ENTITY a '0123456789'>"
    + "".join(f"<!ENTITY {chr(98 + i)} '{f'&{chr(97 + i)};' * 20}'>" for i in range(9))
    + "]>"
)


def mutated_text(text: str, draw: random.Random) -> bytes:
    """A text of words, numbers, or XML with one to three of them exchanged, and now and then with other bytes."""
    for _ in range(draw.randint(1, 3)):
        parts = re.split(r"(\W+)", text)
        index = draw.randrange(len(parts))
        change = draw.randrange(5)
        if change == 0:
            parts[index] = ""
        elif change == 1:
            parts.insert(index, parts[index] * draw.choice((1, 2, 50)))
        elif change == 2 and "<annotation>" in text:
            parts = [BOMB, text.replace("<name>", "<name>&j;", 1)]
        else:
            parts[index] = draw.choice(WORDS)
        text = "".join(parts)
    content = text.encode("utf-8", "surrogatepass")
    return mutated_bytes(content, draw) if draw.random() < 0.25 else content
