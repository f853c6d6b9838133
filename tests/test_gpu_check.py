"""`make gpu-check`, rehearsed without a GPU: what it starts are stand-ins, of which any may die, hang or be missing."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from children import child_environment

from benchmarks import cli
from benchmarks.bars import BARS
from benchmarks.gpu_check import __main__ as program
from benchmarks.gpu_check import kernel_times, machine, page, parts, process, smoke, training_steps
from benchmarks.kernel_report.page import parts_on
from benchmarks.workload import REGISTRY

HERE = Path(__file__).resolve().parent
TOOLS = ("nvcc", "cmake", "ninja", "c++", "compute-sanitizer")
MODULES = ("pytest", "xdist", "torchvision", "PIL")
NAMES = [part.name for part in program.ORDER]
# What a part's stand-in is called, where it is not the part.
PROCESSES = {"sanitizers": "racecheck", "last_sanitizers": "initcheck"}

MEMCHECK = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at void retinanet_fast::<unnamed>::gather_kernel<float>(T1)+0x90
=========     by thread (32,0,0) in block (1,0,0)
=========
========= Invalid __global__ read of size 8 bytes
=========     at void at::native::elementwise_kernel<(int)128>(int)+0x10
=========     by thread (0,0,0) in block (0,0,0)
=========     Saved host backtrace up to driver entry point at kernel launch time
=========     Host Frame: retinanet_fast::nms(at::Tensor const&) [0x1230] in _C.so
=========
3 cases on cuda: float32
========= ERROR SUMMARY: 2 errors
"""


def pretend(folder: Path, lacking: str = "", cores: int = 16) -> dict[str, Any]:
    """What stands in for this machine: every tool is one executable."""
    tool = folder / "stand-in"
    script = shlex.join([sys.executable, str(HERE / "gpu_check_stand_in.py")])
    tool.write_text(f'#!/bin/sh\nexec {script} "$@"\n')
    tool.chmod(0o755)
    return {
        "machine.find_gpu": lambda: {"name": "a GPU", "capability": "9.0", "driver": "1", "memory": "2"},
        "machine.versions": lambda: dict.fromkeys(("python", "torch", "nvcc", "commit", "cores"), "some"),
        "parts.find_tool": lambda name: None if name == lacking else str(tool),
        "parts.find_module": lambda name: name != lacking,
        "parts.cores": lambda: cores,
        "parts.PYTHON": str(tool),
        "built": lambda result: result["parts"].get("build", {}).get("ok") is not False,
    }


def replace(pretended: dict[str, Any], put: Callable[..., None]) -> None:
    for name, value in pretended.items():
        module, _, attribute = name.rpartition(".")
        put(getattr(program, module) if module else program, attribute, value)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Runs the program with stand-ins; its exit code, gpu_check.json and summary.md."""

    def run(
        *words: str, lacking: str = "", wrong: str = "", cores: int = 16
    ) -> tuple[int, dict[str, Any], str]:
        replace(pretend(tmp_path, lacking, cores), monkeypatch.setattr)
        monkeypatch.setenv("STAND_IN", wrong)
        monkeypatch.setenv("STAND_IN_PID", str(tmp_path / "pid"))
        out = tmp_path / "out"
        status = program.main(["--out", str(out), *words])
        assert process.ALL == []
        assert {path.name for path in out.iterdir()} <= set(program.FILES)
        return status, json.loads((out / "gpu_check.json").read_text()), (out / "summary.md").read_text()

    return run


def verdicts(result: dict[str, Any]) -> dict[str, bool | None]:
    return {name: part["ok"] for name, part in result["parts"].items()}


@pytest.mark.parametrize("cores", [2, 16])
def test_the_whole(run: Callable[..., Any], cores: int, tmp_path: Path) -> None:
    status, result, page = run(cores=cores)
    assert status == 0
    assert verdicts(result) == dict.fromkeys(NAMES, True)
    assert page.startswith("# gpu-check: pass\n")
    assert (
        "| nms/uniform/1000 | 100 us | 80 us, 2 |  | 300 us | 3x | >= 2x torchvision: 3x; **<= 0.05 ms: 100 us** |"
        in page
    )
    assert "| training_steps | ok | eager 301.5 images/s, cuda_graph 310 images/s |" in page
    log = (tmp_path / "out" / "log.txt").read_text()
    began = re.findall(r"^\w+\| stand-in for (\w+) begins", log, re.M)
    assert set(began) == {*NAMES, *parts.FIRST_SANITIZERS, *parts.LAST_SANITIZERS} - set(PROCESSES)
    # With the cores for it, sanitizers run beside the tests; without, after them.
    assert ("-n 8" in log) == (cores == 16)
    commands = [line for line in log.splitlines() if "| + " in line]
    order = [line.split("|")[0] for line in commands]
    assert (order.index("memcheck") < order.index("tests")) == (cores == 16)


@pytest.mark.parametrize("tool", [*TOOLS, *MODULES])
def test_a_missing_tool_leaves_out_its_own_part(run: Callable[..., Any], tool: str) -> None:
    status, result, page = run(lacking=tool)
    needing = {name for name in NAMES if tool in parts.TOOLS.get(name, ()) + parts.MODULES.get(name, ())}
    assert bool(needing) == (tool != "xdist")  # without it the tests run in one process
    assert status == 0
    assert verdicts(result) == {name: None if name in needing else True for name in NAMES}
    for name in needing:
        assert result["parts"][name]["why"] == f"there is no {tool} here"
        assert f"| {name} | left out | there is no {tool} here |" in page


@pytest.mark.parametrize("how", ["kill", "fail"])
@pytest.mark.parametrize("name", NAMES)
def test_a_part_that_dies_fails_alone(run: Callable[..., Any], name: str, how: str) -> None:
    status, result, page = run(wrong=f"{PROCESSES.get(name, name)}:{how}")
    assert status == 1
    found = verdicts(result)
    if name == "build":  # then there is nothing to run
        assert found == {other: False if other == name else None for other in NAMES}
    elif (name, how) in (("sanitizers", "fail"), ("last_sanitizers", "fail")):
        assert found[name] is False
    else:
        assert found == {other: other != name for other in NAMES}
    assert page.startswith(f"# gpu-check: FAILED ({name})")


def test_a_part_that_hangs_ends_with_its_time(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had saved by then counts; the parts after it have theirs."""
    order = [
        program.Part(part.run, most=3 if part.name == "timings" else 60, least=0) for part in program.ORDER
    ]
    monkeypatch.setattr(program, "ORDER", order)
    monkeypatch.setattr(program, "LEAST", 1.0)
    status, result, _ = run("--budget", "100", wrong="timings:hang")
    assert status == 0
    assert result["parts"]["timings"]["status"] == process.OUT_OF_TIME
    assert result["parts"]["timings"]["rows"] == 2
    assert verdicts(result) == dict.fromkeys(NAMES, True)


def test_without_time_parts_are_left_out(run: Callable[..., Any]) -> None:
    _, result, page = run("--budget", "1")
    assert set(verdicts(result).values()) == {None}
    assert page.startswith("# gpu-check: pass, left out: build, smoke,")


def test_the_budget_holds_and_the_first_parts_have_it() -> None:
    assert (
        sum(part.least for part in program.ORDER[1:]) + 60 <= 240
    )  # 60 s of build on the machine that was had
    assert all(part.least <= part.most for part in program.ORDER)


DRIVER = """\
import sys
import test_gpu_check
from pathlib import Path
test_gpu_check.replace(test_gpu_check.pretend(Path({folder!r})), setattr)
sys.exit(test_gpu_check.program.main(["--out", {out!r}]))
"""


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("build", signal.SIGINT),
        ("tests", signal.SIGKILL),
        ("timings", signal.SIGTERM),
        ("never_tried", signal.SIGKILL),
    ],
)
def test_a_killed_check_has_kept_what_was_known(name: str, sent: signal.Signals, tmp_path: Path) -> None:
    out, pid = tmp_path / "out", tmp_path / "pid"
    code = DRIVER.format(folder=str(tmp_path), out=str(out))
    environment = child_environment(STAND_IN=f"{name}:hang", STAND_IN_PID=str(pid))
    check = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=HERE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while not (pid.exists() and pid.read_text()) and time.monotonic() < end:
            assert check.poll() is None
            time.sleep(0.05)
        check.send_signal(sent)
        check.wait(60)
        result = json.loads((out / "gpu_check.json").read_text())
        found = verdicts(result)
        assert list(found) == NAMES[: NAMES.index(name) + 1]
        assert found == {other: None if other == name else True for other in found}
        page = (out / "summary.md").read_text()
        assert f"| {name} | left out | was running when the check was stopped |" in page
        assert f"| stand-in for {name} begins" in (out / "log.txt").read_text()
        assert (out / "bench.json").exists() == (NAMES.index(name) >= NAMES.index("timings"))
        if sent != signal.SIGKILL:  # which leaves no time to end what runs
            with pytest.raises(ProcessLookupError):
                os.kill(int(pid.read_text()), 0)
    finally:
        check.kill()
        check.wait()
        if pid.exists():
            with suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "gpu-check: torch finds no GPU here, and nothing was run\n"


def test_a_dry_run_names_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--dry-run"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == NAMES


def test_only_one_part(run: Callable[..., Any]) -> None:
    status, result, _ = run("--only", "kernel_times")
    assert status == 0
    assert verdicts(result) == {"kernel_times": True}


# ---- the parts themselves --------------------------------------------------------------------------------------


def test_reports_of_our_kernels_are_told_from_those_of_torch() -> None:
    assert parts.sanitizer_errors(MEMCHECK) == (2, 1)
    assert parts.sanitizer_errors("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n") == (
        0,
        0,
    )


@pytest.mark.parametrize(
    ("report", "ok"), [("3 cases on cuda: float32\n", True), (MEMCHECK, False), ("crashed", False)]
)
def test_the_sanitizers_verdict(
    report: str, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        f"#!/bin/sh\ncat <<'END'\n{report}END\n" if report != "crashed" else "#!/bin/sh\necho crashed\n"
    )
    tool.chmod(0o755)
    monkeypatch.setattr(parts, "find_tool", lambda name: str(tool))
    result = parts.sanitizers(parts.Setting(tmp_path, tmp_path, "9.0"), 60)
    assert result["ok"] == ok
    assert [name for name in result if name != "ok"] == list(parts.FIRST_SANITIZERS)
    if report is MEMCHECK:
        assert "gather_kernel" in result["memcheck"]["first_failure"]


def test_a_sanitizer_that_runs_out_of_time_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\necho '========= COMPUTE-SANITIZER'\nsleep 100\n")
    tool.chmod(0o755)
    monkeypatch.setattr(parts, "find_tool", lambda name: str(tool))
    result = parts.last_sanitizers(parts.Setting(tmp_path, tmp_path, "9.0"), 1)
    assert result["ok"] is None
    assert {result[name]["status"] for name in parts.LAST_SANITIZERS} == {process.OUT_OF_TIME}


def test_pytests_report_is_read(tmp_path: Path) -> None:
    """A failure with its traceback, a skip with its reason, and a file that cannot be imported stops nothing."""
    (tmp_path / "test_good.py").write_text(
        "import pytest\n"
        "def test_right(): pass\n"
        "def test_wrong(): assert 1 + 1 == 3, 'sum'\n"
        "@pytest.mark.skip(reason='no need')\ndef test_skipped(): pass\n"
    )
    (tmp_path / "test_bad.py").write_text("import no_such_module\n")
    setting = parts.Setting(tmp_path, tmp_path, "9.0")
    files = ["-o", "addopts=", f"--rootdir={tmp_path}", str(tmp_path)]
    result = parts.pytest("tests", setting, 120, files, tmp_path / "tests.xml")
    assert result["ok"] is False
    assert (result["passed"], result["failed"], result["skipped"]) == (1, 2, 1)
    assert result["skips"] == ["no need"]
    assert any("test_wrong" in name for name in result["failures"])
    assert "no_such_module" in result["first_failure"]


def test_a_run_that_skips_every_test_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "test_all.py").write_text("import pytest\ndef test(): pytest.skip('no GPU was seen')\n")
    setting = parts.Setting(tmp_path, tmp_path, "9.0")
    files = ["-o", "addopts=", f"--rootdir={tmp_path}", str(tmp_path)]
    result = parts.pytest("tests", setting, 60, files, tmp_path / "tests.xml")
    assert (result["ok"], result["status"], result["skipped"]) == (False, 0, 1)
    assert "no GPU was seen" in result["first_failure"]


def test_tests_that_run_out_of_time_still_report(tmp_path: Path) -> None:
    (tmp_path / "test_slow.py").write_text(
        "import time\ndef test_right(): pass\ndef test_slow(): time.sleep(100)\n"
    )
    setting = parts.Setting(tmp_path, tmp_path, "9.0")
    files = ["-o", "addopts=", f"--rootdir={tmp_path}", str(tmp_path)]
    result = parts.pytest("tests", setting, 12, files, tmp_path / "tests.xml")
    assert (result["ok"], result["status"]) == (None, process.OUT_OF_TIME)  # incomplete, no failure
    assert result["passed"] >= 1


def test_the_files_with_cuda_cases_exist() -> None:
    files = parts.op_tests()
    assert {"tests/test_kernels.py", "tests/test_nms.py", "tests/test_retinanet_loss.py"} <= set(files)
    assert "tests/test_gpu_check.py" not in files


def test_the_benchmarks_commands_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def keep(name: str, command: list[str], log: Path, limit: float) -> tuple[int, str]:
        seen.append(command)
        return 0, ""

    monkeypatch.setattr(parts, "run", keep)
    setting = parts.Setting(tmp_path, tmp_path, "9.0")
    for part in (parts.timings, parts.compiled):
        assert part(setting, 60)["ok"] is False  # nothing was measured
    for command in seen:
        options = cli.parser().parse_args(command[3:])
        chosen = cli.choose_workloads(torch.device("cuda"), options.filter, growth=False)
        assert {bar.workload for bar in BARS["cuda"]} & {workload.name for workload in chosen[:5]}
        assert cli.choose_providers(options.providers)
        assert options.seconds < 60
    timed = cli.choose_workloads(
        torch.device("cuda"), cli.parser().parse_args(seen[0][3:]).filter, growth=False
    )
    barred = {bar.workload for bar in BARS["cuda"]}
    assert {workload.name for workload in timed[: len(barred)]} == barred
    assert len(timed) > len(barred)


def test_the_smoke_calls_agree_on_one_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main("cpu") == 0
    ops = re.findall(r"^smoke (\w+): ok$", capsys.readouterr().out, re.M)
    assert {"nms", "retinanet_loss", "retinanet_detect", "sigmoid_focal_loss"} <= set(ops)


@pytest.mark.parametrize(
    ("got", "verdict"),
    [
        (torch.ones(3), "ok"),
        (torch.tensor([1.0, 1.0, 1.1]), "result 0 differs by 0.1"),
        (torch.tensor([1.0, 1.0, float("nan")]), "result 0 differs by nan"),
        (torch.ones(2), r"result 0 is torch.float32\[2\], expected torch.float32\[3\]"),
        (torch.ones(3).long(), "result 0 is torch.int64"),
    ],
)
def test_smoke_differences(got: torch.Tensor, verdict: str) -> None:
    assert re.match(verdict, smoke.difference([got], [torch.ones(3)]))
    assert "1 of 3 indices" in smoke.difference([torch.tensor([1, 2, 3])], [torch.tensor([1, 2, 4])])


def test_predictions_are_shown_beside_what_was_measured() -> None:
    report = json.loads((page.RESULTS / "kernel_report.json").read_text())
    names = ("retinanet_loss/16x800/bf16/channels_last", "nms/uniform/1000")
    calls = [call for call in report["calls"] if call["workload"] in names]
    measured = {}
    for call in calls:
        parts = [(part.kernel, 2 * part.time) for part in parts_on(call, "H100")]
        torchs = [("at::native::fill", 1000.0)]  # not ours: not in the prediction
        measured[call["workload"]] = {"kernels": [{"kernel": name, "us": us} for name, us in parts + torchs]}
    text = "\n".join(page.prediction_table("NVIDIA H100 80GB HBM3", measured))
    rows = re.findall(r"^\| (\S+/\S+) \| (\d+) \| (\d+) \| ([\d.]+)x \|", text, re.M)
    assert [row[0] for row in rows] == [call["workload"] for call in calls]
    assert {row[3] for row in rows} == {"2.00"}
    assert text.count("focal_kernel") == 1
    # Kernels that have changed since the prediction, and GPUs that are not predicted, are left out.
    measured["nms/uniform/1000"]["kernels"].pop(0)
    assert "nms/" not in "\n".join(page.prediction_table("NVIDIA H100 80GB HBM3", measured))
    assert page.prediction_table("Tesla T4", measured) == []


def test_kernel_times_know_the_workloads_and_go_on_after_a_failure(tmp_path: Path) -> None:
    assert set(kernel_times.WORKLOADS) <= set(REGISTRY)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: nothing fails")
    path = tmp_path / "kernels.json"
    assert kernel_times.main(["--json", str(path), "tiny/nms", "tiny/focal"]) == 1
    measured = json.loads(path.read_text())
    assert list(measured) == ["tiny/nms", "tiny/focal"]
    assert all("error" in found for found in measured.values())


def test_training_steps_run(tmp_path: Path) -> None:
    """On the CPU, of a tiny model: with what a GPU is given but its waits."""
    path = tmp_path / "training.json"
    command = ["--json", str(path), "--device", "cpu", "--small", "--steps", "3"]
    assert training_steps.main(command) == 0
    measured = json.loads(path.read_text())
    assert list(measured) == ["eager"]
    assert measured["eager"]["steps"] == 3
    assert measured["eager"]["images_per_s"] > 0


def test_tools_are_looked_for_beside_python() -> None:
    assert str(Path(sys.executable).parent) in machine.search_path()
    assert machine.first_line("no-such-program") == "unknown"
