"""What a benchmark of single numbers measures: each with a name, and the bars that some of them must reach."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import write_whole


@dataclass(frozen=True)
class Number:
    """One measured number. With a limit it must be at most that, or, by ``at_least``, at least that."""

    name: str  # a part and what was measured of it: "startup/warm"
    value: float
    unit: str  # "s", "MB" (10^6 bytes), "images/s", "x", "%" (a fraction) or ""
    about: str = ""  # of what, and how
    limit: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """``pass``, ``miss`` or, without a limit, nothing."""
        if self.limit is None:
            return ""
        passed = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "pass" if passed else "miss"

    @property
    def bar(self) -> str:
        return (
            ""
            if self.limit is None
            else f"{'>=' if self.at_least else '<='} {with_unit(self.limit, self.unit)}"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "bar": self.bar,
            "verdict": self.verdict,
            "text": with_unit(self.value, self.unit),
        }

    def line(self) -> str:
        bar = f"  [{self.verdict}: {self.bar}]" if self.limit is not None else ""
        about = f"  ({self.about})" if self.about else ""
        return f"{self.name:44} {with_unit(self.value, self.unit):>16}{bar}{about}"


def with_unit(value: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * value:.1f}%"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + ("x" if unit == "x" else f" {unit}" if unit else "")


@dataclass
class Result:
    """All that a run has measured so far."""

    environment: dict[str, Any]
    data: str
    numbers: list[Number] = field(default_factory=list)

    def collect(self, numbers: Iterable[Number], path: Path) -> None:
        """Print each number as it comes, and write all that there are; then say what was missed."""
        for number in numbers:
            print(number.line(), flush=True)
            self.numbers.append(number)
            self.write(path)
        print(f"wrote {path}; bars missed: {len(missed(self.numbers))}")

    def write(self, path: Path) -> None:
        content = {
            "environment": self.environment,
            "data": self.data,
            "numbers": [number.as_dict() for number in self.numbers],
        }
        write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def missed(numbers: Sequence[Number]) -> list[Number]:
    return [number for number in numbers if number.verdict == "miss"]
