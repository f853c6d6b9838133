"""Runs workloads: each provider's result is checked against the eager twin's, then timed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.harness import Harness, Memory, Timing
from benchmarks.providers import PROVIDERS, Unavailable, one_line
from benchmarks.workload import Call, Case, Setting, Workload, difference

SMALLEST_COPY = (
    1 << 20
)  # bytes; below it a copy's time is the cost of the call and its bandwidth means nothing
AGREES, UNCHECKED, TWIN = "agrees", "unchecked", "is the twin"
TOO_SLOW = 2.0  # seconds; a twin that takes longer is measured by the one call that the checks need anyway


@dataclass
class Row:
    """One provider on one workload. Times are in seconds, sizes in bytes; None: not measured."""

    workload: str
    provider: str
    shape: str
    check: str = UNCHECKED  # one of the three, or how it differs from the eager twin
    error: str | None = None
    median: float | None = None
    p20: float | None = None
    p80: float | None = None
    rounds: int = 0
    calls_per_round: int = 0
    bytes_moved: int = 0
    gb_per_s: float | None = None
    copy_seconds: float | None = None  # a copy that moves bytes_moved
    copy_share: float | None = None  # copy_seconds / median: the share of the copy bandwidth
    logits_copy_seconds: float | None = None
    logits_bytes: int = 0
    peak_bytes: int | None = None
    extra_bytes: int | None = None  # peak_bytes less the gradients that were asked for
    resident_bytes: int | None = None
    quick: bool = False
    command: str = ""
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        return self.error is not None or self.check not in (AGREES, UNCHECKED, TWIN)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def repro(workload: str, provider: str, setting: Setting) -> str:
    command = ["python", "-m", "benchmarks", "--device", setting.device.type, "--filter", f"^{workload}$"]
    return shlex.join([*command, *["--quick"] * setting.quick, "--providers", provider])


@dataclass
class Runner:
    harness: Harness
    setting: Setting
    environment: dict[str, Any]
    providers: Sequence[str]

    def run(self, workload: Workload) -> Iterator[Row]:
        """One row per chosen provider that can run here; a row of one that fails has its error in one line."""
        names = [name for name in workload.providers if name in self.providers]
        if not names:
            return
        case = workload.make(self.setting)
        expected, twin_timing = self.expected(case)
        if case.in_turn:
            yield from self.run_in_turn(workload, case, names, expected)
            return
        for name in names:
            row = self.blank_row(workload, name, case)
            try:
                call = PROVIDERS[name].bind(case)
                row.check = self.check(case, name, call, expected)
                if name == "eager" and twin_timing is not None and twin_timing.median >= TOO_SLOW:
                    self.fill(row, case, twin_timing)
                else:
                    self.fill(row, case, self.harness.time(call), self.harness.memory(call))
            except Unavailable:
                continue
            except Exception as error:  # a peer's failure is a result, and must not end the run
                row.error = one_line(error)
            yield row

    def run_in_turn(
        self, workload: Workload, case: Case, names: Sequence[str], expected: Any
    ) -> Iterator[Row]:
        """The same with the rounds of all providers in turn."""
        rows: list[Row] = []
        calls: list[tuple[Row, Call]] = []
        for name in names:
            row = self.blank_row(workload, name, case)
            try:
                call = PROVIDERS[name].bind(case)
                row.check = self.check(case, name, call, expected)
                calls.append((row, call))
            except Unavailable:
                continue
            except Exception as error:
                row.error = one_line(error)
            rows.append(row)
        try:
            timings = self.harness.time_in_turn([call for _, call in calls])
            for (row, call), timing in zip(calls, timings, strict=True):
                self.fill(row, case, timing, self.harness.memory(call))
        except Exception as error:  # whose call it was is not known
            for row, _ in calls:
                row.error = one_line(error)
        yield from rows

    def expected(self, case: Case) -> tuple[Any, Timing | None]:
        """The twin's result, and the time of that one call."""
        return self.harness.once(PROVIDERS["eager"].bind(case)) if case.checked else (None, None)

    def check(self, case: Case, provider: str, call: Call, expected: Any) -> str:
        if expected is None:
            return UNCHECKED
        if provider == "eager":
            return TWIN
        return difference(case, call(), expected, peer=provider.startswith("torchvision")) or AGREES

    def blank_row(self, workload: Workload, provider: str, case: Case) -> Row:
        return Row(
            workload.name,
            provider,
            case.shape,
            bytes_moved=case.bytes_moved,
            logits_bytes=case.logits_bytes,
            quick=self.setting.quick,
            command=repro(workload.name, provider, self.setting),
            environment=self.environment,
        )

    def fill(self, row: Row, case: Case, timing: Timing, memory: Memory | None = None) -> None:
        row.median, row.p20, row.p80 = timing.median, timing.p20, timing.p80
        row.rounds, row.calls_per_round = timing.plan.rounds, timing.plan.calls
        row.gb_per_s = case.bytes_moved / timing.median / 1e9
        if case.bytes_moved >= SMALLEST_COPY:
            row.copy_seconds = self.harness.copy_seconds(case.bytes_moved)
            row.copy_share = row.copy_seconds / timing.median
        if case.logits_bytes:
            row.logits_copy_seconds = self.harness.copy_seconds(2 * case.logits_bytes)
        if memory is not None:
            row.peak_bytes, row.resident_bytes = memory.peak, memory.resident
            row.extra_bytes = memory.peak - case.gradient_bytes
