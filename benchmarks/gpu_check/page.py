"""The summary, to be read in a minute: what failed, what was measured against which bar, where a call's time goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.kernel_report import page as report_page
from benchmarks.report import seconds_text

RESULTS = Path(__file__).resolve().parents[1] / "results"
KERNELS_PER_WORKLOAD = 5


def summary(out: Path, result: dict[str, Any]) -> str:
    bench, kernels = read(out / "bench.json"), read(out / "kernels.json")
    compiled = read(out / "compiled.json")
    bars = merge_bars(bench.get("bars", []), compiled.get("bars", []))
    versions = result["versions"]
    parts = [
        f"# gpu-check: {verdict(result)}",
        "",
        f"{result['gpu']['name']}, torch {versions['torch']}, nvcc {versions['nvcc']}, Python {versions['python']}, "
        f"{versions['cores']} cores, commit {versions['commit']}; {result['seconds']:.0f} of {result['budget']:.0f} s.",
        "",
        *part_table(result["parts"]),
        *failures(result["parts"]),
        *timing_table(bench.get("rows", []), kernels, bars),
        *prediction_table(result["gpu"]["name"], kernels),
        *kernel_lists(kernels),
    ]
    return "\n".join(parts).rstrip() + "\n"


def read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def verdict(result: dict[str, Any]) -> str:
    failed = [name for name, part in result["parts"].items() if part["ok"] is False]
    text = f"FAILED ({', '.join(failed)})" if failed else "pass"
    for word in ("incomplete", "left out"):
        names = [name for name, part in result["parts"].items() if state(part) == word]
        text += f", {word}: {', '.join(names)}" if names else ""
    return text


def state(part: dict[str, Any]) -> str:
    if part["ok"] is None:
        return "left out" if "why" in part else "incomplete"
    return "ok" if part["ok"] else "FAILED"


def part_table(parts: dict[str, Any]) -> list[str]:
    lines = ["| part | | what | seconds |", "|---|---|---|---|"]
    for name, part in parts.items():
        word = state(part).replace("FAILED", "**FAILED**")
        lines.append(f"| {name} | {word} | {describe(part)} | {part.get('seconds', '')} |")
    return [*lines, ""]


def describe(part: dict[str, Any]) -> str:
    if "why" in part:
        return str(part["why"])
    words = []
    for key in ("plan", "passed", "failed", "skipped", "workloads", "rows", "pass", "miss"):
        if part.get(key) is not None:
            words.append(part[key] if key == "plan" else f"{part[key]} {key}")
    words += [f"{kind} {rate:g} images/s" for kind, rate in part.get("rates", {}).items()]
    words += [f"spills in {', '.join(part['spills'])}"] if part.get("spills") else []
    tools = [name for name, tool in part.items() if isinstance(tool, dict) and "in_our_kernels" in tool]
    words += [f"{name} {'ok' if part[name]['ok'] else part[name]['in_our_kernels']}" for name in tools]
    words += ["out of time"] if part.get("status") == 124 else []
    words += [f"{len(part['left_out'])} workloads left out"] if part.get("left_out") else []
    return ", ".join(words)


def failures(parts: dict[str, Any]) -> list[str]:
    lines = []
    for name, part in parts.items():
        for title, found in {name: part, **{k: v for k, v in part.items() if isinstance(v, dict)}}.items():
            if not found.get("first_failure"):
                continue
            names = found.get("failures", [])
            lines += [f"## {title}: the first failure" + (f" of {len(names)}" if len(names) > 1 else "")]
            lines += [
                "```",
                found["first_failure"].strip(),
                "```",
                *(f"- {other}" for other in names[1:20]),
                "",
            ]
    return lines


def merge_bars(*runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By workload; of a bar that two runs judged, the one that measured it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for bar in (bar for run in runs for bar in run):
        key = bar["workload"], bar["bar"]
        if key not in found or found[key]["value"] is None:
            found[key] = bar
    merged: dict[str, list[dict[str, Any]]] = {}
    for bar in found.values():
        merged.setdefault(bar["workload"], []).append(bar)
    return merged


def bar_text(bar: dict[str, Any]) -> str:
    if bar["value"] is None:
        return f"{bar['bar']}: not measured"
    value = {
        "%": lambda x: f"{x:.0%}",
        "s": seconds_text,
        "x": lambda x: f"{x:.3g}x",
    }[bar["unit"]](bar["value"])
    return f"{bar['bar']}: {value}" if bar["verdict"] == "pass" else f"**{bar['bar']}: {value}**"


def timing_table(
    rows: list[dict[str, Any]], kernels: dict[str, Any], bars: dict[str, list[dict[str, Any]]]
) -> list[str]:
    if not rows:
        return []
    medians = {(row["workload"], row["provider"]): row["median"] for row in rows if not row["error"]}
    errors = {(row["workload"], row["provider"]): row["error"] for row in rows if row["error"]}
    copies = {row["workload"]: row["logits_copy_seconds"] for row in rows if row["provider"] == "ours"}
    lines = [
        "## Times",
        "",
        "In bold: bars that are missed. Kernels: the sum of their times, and their number.",
        "",
    ]
    lines += [
        "| workload | ours | kernels | copies of the logits | torchvision | | bars |",
        "|---|---|---|---|---|---|---|",
    ]
    for workload in dict.fromkeys(row["workload"] for row in rows):
        ours, theirs = medians.get((workload, "ours")), medians.get((workload, "torchvision"))
        found = kernels.get(workload, {})
        cells = [
            workload,
            seconds_text(ours) if ours else f"**{errors.get((workload, 'ours'), 'not measured')}**",
            f"{found['us']:.0f} us, {found['launches']:g}" if "us" in found else "",
            f"{ours / copies[workload]:.2f}" if ours and copies.get(workload) else "",
            seconds_text(theirs) if theirs else errors.get((workload, "torchvision"), ""),
            f"{theirs / ours:.3g}x" if ours and theirs else "",
            "; ".join(bar_text(bar) for bar in bars.get(workload, [])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def prediction_table(gpu: str, kernels: dict[str, Any]) -> list[str]:
    """The kernel report's prediction of whole calls beside what was measured: of our kernels, without torch's."""
    report = read(RESULTS / "kernel_report.json")
    names = [one["name"] for one in report.get("gpus", [])]
    name = next((one for one in names if one in gpu), None)
    if name is None:
        return []
    lines = [
        f"## Predicted by the kernel report for an {name}",
        "",
        "Our kernels' times, added up. By kernel: measured / predicted, us, where that is a tenth of the call or more.",
        "",
        *report_page.table("call", "measured, us", "predicted, us", "", "by kernel"),
    ]
    before = len(lines)
    for call in report["calls"]:
        measured = {one["kernel"]: one["us"] for one in kernels.get(call["workload"], {}).get("kernels", [])}
        parts = report_page.parts_on(call, name)
        if any(part.kernel not in measured for part in parts):
            continue  # not measured, or the kernels have changed
        found = sum(measured[part.kernel] for part in parts)
        expected = sum(part.time for part in parts)
        each = [
            f"`{part.kernel.split('<')[0]}` {measured[part.kernel]:.0f} / {part.time:.0f} {part.binds}"
            for part in parts
            if measured[part.kernel] >= found / 10
        ]
        lines.append(
            report_page.row(
                call["workload"],
                f"{found:.0f}",
                f"{expected:.0f}",
                f"{found / expected:.2f}x",
                ", ".join(each),
            )
        )
    return [*lines, ""] if len(lines) > before else []


def kernel_lists(kernels: dict[str, Any]) -> list[str]:
    """Where a call's time goes."""
    lines = ["## Kernels", ""] if kernels else []
    for workload, found in kernels.items():
        if "error" in found:  # told above
            continue
        lines.append(f"- {workload}: {found['us']} us, host {found['host_us']} us")
        for kernel in found["kernels"][:KERNELS_PER_WORKLOAD]:
            name = kernel["kernel"].split("<")[0].split("::")[-1]
            lines.append(f"  - {kernel['us']} us, {kernel['launches']:g}x `{name}`")
    return lines
