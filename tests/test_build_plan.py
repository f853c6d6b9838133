"""What CMake decides about CUDA kernels, from torch's CUDA version and an nvcc that only names itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLAN = Path(__file__).parents[1] / "cmake" / "cuda.cmake"
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
LINKED, CHECKED, NEITHER = "ON ON", "OFF ON", "OFF OFF"

pytestmark = [
    pytest.mark.skipif(CMAKE is None, reason="no cmake here"),
    pytest.mark.skipif(not PLAN.exists(), reason="the tests lie outside the source tree"),
]


def fake_nvcc(folder: Path, version: str = "13.0", known: tuple[str, ...] = ("80", "90")) -> Path:
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(
        f"""#!/bin/sh
case "$1" in
  --dryrun) echo "#\\$ TOP={folder}" >&2 ;;
  --version) echo "Cuda compilation tools, release {version}, V{version}.1" ;;
  --list-gpu-arch) printf 'compute_%s\\n' {" ".join(known)} ;;
esac
"""
    )
    nvcc.chmod(0o755)
    return nvcc


def decide(
    tmp_path: Path, torch_cuda: str, choice: str = "auto", **environment: str
) -> tuple[subprocess.CompletedProcess[str], str]:
    """How CMake ended, and `linked compiled` of the plan."""
    lists = re.search(
        r"set\(DEFAULT_CUDA_ARCHITECTURES.*?\)", PLAN.parents[1].joinpath("CMakeLists.txt").read_text()
    )
    assert lists is not None
    script = tmp_path / "plan.cmake"
    script.write_text(
        f"include({PLAN})\n"
        f"{lists[0]}\n"
        f"set(CUDA_DEFAULT_HOME {tmp_path / 'default'})\n"
        f"set(RETINANET_FAST_CUDA {choice})\n"
        f'retinanet_fast_cuda_plan("{torch_cuda}" plan linked compiled)\n'
        'file(WRITE decision "${linked} ${compiled}")\n'
        'message(STATUS "${plan} ${CUDA_ARCHITECTURES} ${CUDA_GENCODE} ${CUDA_COMPRESSION}")\n'
    )
    assert CMAKE is not None
    done = subprocess.run(
        [CMAKE, "-P", str(script)],
        cwd=tmp_path,
        env={"PATH": "/nowhere"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    decision = tmp_path / "decision"
    return done, decision.read_text() if decision.exists() else ""


@pytest.mark.parametrize(
    ("torch_cuda", "with_nvcc", "choice", "decision", "plan"),
    [
        ("", False, "auto", NEITHER, "CPU ops (CPU build of torch, no nvcc)"),
        ("", True, "auto", NEITHER, "CPU ops (CPU build of torch)"),
        (
            "",
            True,
            "compile",
            CHECKED,
            "CUDA kernels compiled by nvcc 13.0 as a check, not linked 8.0 9.0+PTX",
        ),
        ("13.2", True, "auto", LINKED, "CPU and CUDA ops (torch for CUDA 13.2, nvcc 13.0) 8.0 9.0+PTX"),
        ("13.2", True, "ON", LINKED, "CPU and CUDA ops (torch for CUDA 13.2, nvcc 13.0) 8.0 9.0+PTX"),
        ("13.2", True, "compile", LINKED, "CPU and CUDA ops (torch for CUDA 13.2, nvcc 13.0) 8.0 9.0+PTX"),
        ("13.2", True, "off", NEITHER, "CPU ops (CUDA kernels switched off)"),
        ("12.8", True, "OFF", NEITHER, "CPU ops (CUDA kernels switched off)"),
    ],
)
def test_plans(
    tmp_path: Path, torch_cuda: str, with_nvcc: bool, choice: str, decision: str, plan: str
) -> None:
    environment = {"CUDACXX": str(fake_nvcc(tmp_path / "cuda"))} if with_nvcc else {}
    done, actual = decide(tmp_path, torch_cuda, choice, **environment)
    assert done.returncode == 0, done.stderr
    assert actual == decision
    assert plan in done.stdout
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("known", "built"),
    [
        (("75", "80", "86", "89", "90", "100", "110", "120", "121"), "7.5 8.0 8.6 9.0 10.0 11.0 12.0+PTX"),
        (("50", "75", "80", "86", "90", "100", "120"), "7.5 8.0 8.6 9.0 10.0 12.0+PTX"),  # CUDA 12.8
        (("50", "75", "80", "86", "90"), "7.5 8.0 8.6 9.0+PTX"),  # CUDA 12.4
    ],
)
def test_architectures_are_those_that_nvcc_knows_and_the_newest_has_ptx(
    tmp_path: Path, known: tuple[str, ...], built: str
) -> None:
    done, _ = decide(tmp_path, "13.2", CUDACXX=str(fake_nvcc(tmp_path / "cuda", known=known)))
    newest = built.split()[-1].removesuffix("+PTX").replace(".", "")
    assert f" {built} " in done.stdout
    assert done.stdout.count("code=sm_") == len(built.split())
    assert re.findall(r"code=compute_(\d+)", done.stdout) == [newest]


@pytest.mark.parametrize(
    ("version", "flags"),
    [("12.4", "-Xfatbin;-compress-all"), ("12.8", "-compress-mode=size"), ("13.0", "-compress-mode=size")],
)
def test_machine_code_is_compressed(tmp_path: Path, version: str, flags: str) -> None:
    nvcc = fake_nvcc(tmp_path / "cuda", version)
    done, _ = decide(tmp_path, version, CUDACXX=str(nvcc))
    assert done.stdout.rstrip().endswith(flags)


def test_an_nvcc_that_knows_none_of_the_architectures_is_an_error(tmp_path: Path) -> None:
    done, decision = decide(tmp_path, "13.2", CUDACXX=str(fake_nvcc(tmp_path / "cuda", known=("50",))))
    assert (done.returncode, decision) == (1, "")
    assert "nvcc compiles for none of 7.5;8.0" in " ".join(done.stderr.split())


def test_torch_for_cuda_without_nvcc_is_a_loud_notice(tmp_path: Path) -> None:
    done, decision = decide(tmp_path, "13.2")
    assert (done.returncode, decision) == (0, NEITHER)
    assert "CMake Warning" in done.stderr
    assert "ops on CUDA tensors will raise" in done.stderr


@pytest.mark.parametrize("how", ["CUDACXX", "CUDA_HOME", "CUDA_PATH", "PATH", "default"])
def test_where_nvcc_is_found(tmp_path: Path, how: str) -> None:
    folder = tmp_path / ("default" if how == "default" else "elsewhere")
    nvcc = fake_nvcc(folder)
    value = {"CUDACXX": nvcc, "PATH": f"{nvcc.parent}:/usr/bin:/bin"}.get(how, folder)
    done, decision = decide(tmp_path, "13.2", **({} if how == "default" else {how: str(value)}))
    assert (done.returncode, decision) == (0, LINKED), done.stderr


@pytest.mark.parametrize(
    ("torch_cuda", "nvcc", "choice", "variables", "message"),
    [
        ("12.8", "13.0", "auto", {}, "torch is built for CUDA 12.8, but .* is CUDA 13.0"),
        ("13.2", None, "on", {}, "RETINANET_FAST_CUDA=on, .* there is no nvcc"),
        ("", "13.0", "on", {}, "RETINANET_FAST_CUDA=on, .* there is a CPU build of torch"),
        ("", None, "compile", {}, "RETINANET_FAST_CUDA=compile, .* there is no nvcc"),
        ("13.2", None, "compile", {}, "RETINANET_FAST_CUDA=compile, .* there is no nvcc"),
        ("13.2", "13.0", "yes", {}, "RETINANET_FAST_CUDA: expected auto, on, off or compile, got yes"),
        ("13.2", None, "auto", {"CUDACXX": "/nowhere/nvcc"}, "CUDACXX: .* no file /nowhere/nvcc"),
        (
            "13.2",
            "13.0",
            "auto",
            {"TORCH_CUDA_ARCH_LIST": "sm_90"},
            "expected entries such as 8.0, .* got sm_90",
        ),
    ],
)
def test_errors(
    tmp_path: Path, torch_cuda: str, nvcc: str | None, choice: str, variables: dict[str, str], message: str
) -> None:
    environment = {"CUDACXX": str(fake_nvcc(tmp_path / "cuda", nvcc))} if nvcc else {}
    done, decision = decide(tmp_path, torch_cuda, choice, **(environment | variables))
    assert done.returncode != 0
    assert decision == ""
    assert re.search(message, " ".join(done.stderr.split())), done.stderr
