"""The bars, figures to reach, as data: which row, which measure of it, and the limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.runner import Row

Rows = Mapping[tuple[str, str], Row]  # by (workload, provider)
Measure = Callable[[Rows], float | None]


@dataclass(frozen=True)
class Bar:
    """`measure` of a run's rows must be at least or at most `limit`; `text` says it with its unit."""

    workload: str
    text: str
    measure: Measure
    limit: float
    at_least: bool = False
    unit: str = "x"


@dataclass(frozen=True)
class Verdict:
    workload: str
    bar: str
    value: float | None
    unit: str
    verdict: str  # "pass", "miss" or "not measured"


def judge(bar: Bar, rows: Rows) -> Verdict:
    value = bar.measure(rows)
    if value is None:
        outcome = "not measured"
    else:
        outcome = "pass" if (value >= bar.limit if bar.at_least else value <= bar.limit) else "miss"
    return Verdict(bar.workload, bar.text, value, bar.unit, outcome)


def _ratio(
    rows: Rows, above: tuple[str, str], below: tuple[str, str], attribute: str = "median"
) -> float | None:
    """An attribute of one row over that of another; None unless both were measured and neither is wrong."""
    pair = [rows.get(above), rows.get(below)]
    values = [getattr(row, attribute) if row and not row.wrong else None for row in pair]
    return values[0] / values[1] if values[0] is not None and values[1] else None


def _own(workload: str, value: Callable[[Row], float | None]) -> Measure:
    def measure(rows: Rows) -> float | None:
        row = rows.get((workload, "ours"))
        return None if row is None or row.wrong or row.median is None else value(row)

    return measure


def faster(workload: str, provider: str, times: float, *, than: str | None = None) -> Bar:
    """Our time on `workload` against that of a provider on the same workload, or on `than`."""
    peer = (than or workload, provider)
    text = f">= {times:g}x {provider}" + (f" {than}" if than else "")
    return Bar(workload, text, lambda rows: _ratio(rows, peer, (workload, "ours")), times, at_least=True)


def copies(workload: str, limit: float) -> Bar:
    def value(row: Row) -> float | None:
        return row.median / row.logits_copy_seconds if row.median and row.logits_copy_seconds else None

    return Bar(workload, f"<= {limit:g}x a copy of the logits", _own(workload, value), limit)


def reads(workload: str, limit: float) -> Bar:
    """Against one read of the logits at copy speed: half the time of the copy, which reads and writes them."""

    def value(row: Row) -> float | None:
        return 2 * row.median / row.logits_copy_seconds if row.median and row.logits_copy_seconds else None

    return Bar(workload, f"<= {limit:g}x a read of the logits", _own(workload, value), limit)


def within(workload: str, seconds: float) -> Bar:
    return Bar(
        workload, f"<= {seconds * 1e3:g} ms", _own(workload, lambda row: row.median), seconds, unit="s"
    )


def bandwidth(workload: str, share: float) -> Bar:
    text = f">= {share:.0%} of copy bandwidth"
    return Bar(workload, text, _own(workload, lambda row: row.copy_share), share, at_least=True, unit="%")


def extra_memory(workload: str, share: float) -> Bar:
    def value(row: Row) -> float | None:
        return None if row.extra_bytes is None else row.extra_bytes / row.logits_bytes

    text = f"extra memory <= {share:.0%} of the logits"
    return Bar(workload, text, _own(workload, value), share, unit="%")


def memory_as(workload: str, other: str, limit: float) -> Bar:
    ours = (workload, "ours"), (other, "ours")
    text = f"peak memory <= {limit:g}x that of {other}"
    return Bar(workload, text, lambda rows: _ratio(rows, *ours, "peak_bytes"), limit)


def share_of(workload: str, whole: str, limit: float) -> Bar:
    ours = (workload, "ours"), (whole, "ours")
    text = f"<= {limit:.0%} of the time of {whole}"
    return Bar(workload, text, lambda rows: _ratio(rows, *ours), limit, unit="%")


def as_long_as(workload: str, other: str, limit: float) -> Bar:
    ours = (workload, "ours"), (other, "ours")
    return Bar(workload, f"<= {limit:g}x the time of {other}", lambda rows: _ratio(rows, *ours), limit)


TV, TV_COMPILED = "torchvision", "torchvision-compile"
WORST_DETECTION = 8  # times the usual one: the factor that retinanet_detect states
NMS_SIZES = (1_000, 5_000, 20_000)

BARS: dict[str, list[Bar]] = {
    "cpu": [  # two cores
        faster("focal/int/fp32/sum", TV, 60),
        faster("focal/int/fp32/sum", TV_COMPILED, 8),
        copies("focal/int/fp32/sum", 2),
        faster("focal/float/fp32/sum", TV, 25),
        *(faster(f"nms/uniform/{n}", TV, 10) for n in NMS_SIZES),
        *(faster(f"nms/clustered/{n}", TV, 10) for n in (5_000, 20_000)),
        within("nms/uniform/200000", 1.0),
        *(faster(f"batched_nms/80/{n}", TV, 10) for n in (5_000, 20_000)),
        faster("batched_nms/1203/20000", TV, 10),
        faster("match_anchors/20", TV, 20),
        *(memory_as(f"match_anchors/{n}", "match_anchors/20", 1.05) for n in (100, 1_000)),
        faster("retinanet_loss/2x512", TV, 40),
        extra_memory("retinanet_loss/2x512", 0.05),
        faster("retinanet_detect/2x512", TV, 20),
        reads("retinanet_detect/2x512", 4),
        *(
            as_long_as(f"retinanet_detect/2x512/{scores}", "retinanet_detect/2x512", WORST_DETECTION)
            for scores in ("none", "untrained", "equal", "rising")
        ),
        within("tiny/focal", 40e-6),
        faster("tiny/nms", TV, 1),
        *(
            faster(f"tiny/{op}", TV, 1, than="tiny/nms")
            for op in ("batched_nms", "box_iou", "encode_boxes", "decode_boxes")
        ),
        share_of("evaluation/postprocess", "evaluation/model", 0.02),
        faster("accelerate/loss", TV, 30),
        faster("accelerate/rest", TV, 0.97),  # not slower; it lacks a permute and a concatenate
        faster("accelerate/postprocess", TV, 20),
    ],
    "cuda": [  # an H200
        *(
            bar
            for dtype in ("fp32", "bf16")
            for bar in (
                copies(f"focal/int/{dtype}/sum/16-images", 1.6),
                faster(f"focal/int/{dtype}/sum/16-images", TV, 10),
                faster(f"focal/int/{dtype}/sum/16-images", TV_COMPILED, 1.5),
            )
        ),
        *(faster(f"nms/uniform/{n}", TV, 2) for n in NMS_SIZES),
        *(faster(f"nms/clustered/{n}", TV, 2) for n in (5_000, 20_000)),
        *(faster(f"batched_nms/80/{n}", TV, 2) for n in (5_000, 20_000)),
        faster("batched_nms/1203/20000", TV, 2),
        bandwidth("decode_boxes/16-images", 0.8),
        faster("retinanet_loss/16x800/bf16/channels_last", TV, 15),
        faster("retinanet_loss/16x800/bf16/channels_last", TV_COMPILED, 3),
        copies("retinanet_loss/16x800/bf16/channels_last", 2.2),
        extra_memory("retinanet_loss/16x800/bf16/channels_last", 0.05),
        *(faster(f"match_anchors/{n}", TV, 10) for n in (20, 100, 1_000)),
        faster("retinanet_detect/16x800/bf16/channels_last", TV, 30),
        within("retinanet_detect/16x800/bf16/channels_last", 1e-3),
        share_of("evaluation/postprocess", "evaluation/model", 0.05),
        faster("accelerate/loss", TV, 15),
        faster("accelerate/rest", TV, 0.97),
        faster("accelerate/postprocess", TV, 30),
    ],
}
