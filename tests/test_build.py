"""The build plan's table, tried with stand-ins for nvcc, and what the compiled objects may contain."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from retinanet_fast import build_info

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ["cpu_x86_64_v2", "cpu_x86_64_v3", "cpu_x86_64_v4"]
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def fake_nvcc(folder: Path, version: str) -> Path:
    """A wrapper outside of its toolkit's folder that answers what the build asks."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f'  --version) echo "Cuda compilation tools, release {version}, V{version}.1" ;;\n'
        f'  --dryrun) echo "#\\$ TOP={folder}/toolkit/bin/.." >&2 ;;\n'
        "  --list-gpu-arch) echo compute_80; echo compute_90 ;;\n"
        "esac\n"
    )
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
    (folder / "toolkit" / "bin").mkdir(parents=True)
    return nvcc


def plan(
    tmp_path: Path, *, torch_cuda: str, nvcc: str | None, option: str = "auto", architectures: str = ""
) -> subprocess.CompletedProcess[str]:
    if CMAKE is None:
        pytest.skip("no cmake on PATH or beside this Python")
    script = tmp_path / "plan.cmake"
    script.write_text(
        f'set(RETINANET_FAST_CUDA "{option}")\n'
        'set(CUDA_DEFAULT_HOME "/nonexistent")\n'
        "set(DEFAULT_CUDA_ARCHITECTURES 8.0 9.0+PTX 12.0)\n"
        f'include("{ROOT}/cmake/cuda.cmake")\n'
        f'retinanet_fast_cuda_plan("{torch_cuda}" text linked compiled)\n'
        'message("${text}|linked=${linked}|compiled=${compiled}|${CUDA_ARCHITECTURES}")\n'
    )
    # An empty PATH but for the stand-in: whatever nvcc this machine has must not be found.
    environment = {"PATH": "/nonexistent", "TORCH_CUDA_ARCH_LIST": architectures}
    if nvcc is not None:
        environment["CUDACXX"] = str(fake_nvcc(tmp_path, nvcc))
    return subprocess.run([CMAKE, "-P", script], env=environment, capture_output=True, text=True)


def test_cuda_torch_and_nvcc_of_the_same_major_version_link(tmp_path: Path) -> None:
    result = plan(tmp_path, torch_cuda="13.2", nvcc="13.0")
    assert "CPU and CUDA ops (torch for CUDA 13.2, nvcc 13.0)|linked=ON|compiled=ON" in result.stderr
    assert "8.0 9.0+PTX" in result.stderr, "12.0 is unknown to this nvcc and must be left out"
    assert "12.0" not in result.stderr


def test_other_major_version_stops_and_prints_both(tmp_path: Path) -> None:
    result = plan(tmp_path, torch_cuda="12.8", nvcc="13.0")
    assert result.returncode != 0
    assert "CUDA 12.8" in result.stderr
    assert "CUDA 13.0" in result.stderr


def test_cuda_torch_without_nvcc_is_loud(tmp_path: Path) -> None:
    result = plan(tmp_path, torch_cuda="13.2", nvcc=None)
    assert result.returncode == 0
    assert "CMake Warning" in result.stderr
    assert "linked=OFF|compiled=OFF" in result.stderr
    refused = plan(tmp_path, torch_cuda="13.2", nvcc=None, option="on")
    assert refused.returncode != 0
    assert "no nvcc" in refused.stderr


def test_cpu_torch_with_nvcc_compiles_but_does_not_link(tmp_path: Path) -> None:
    result = plan(tmp_path, torch_cuda="", nvcc="12.8")
    assert "linked=OFF|compiled=ON" in result.stderr


def test_cpu_torch_without_nvcc(tmp_path: Path) -> None:
    assert (
        "CPU ops (CPU build of torch, no nvcc)|linked=OFF" in plan(tmp_path, torch_cuda="", nvcc=None).stderr
    )


def test_switched_off(tmp_path: Path) -> None:
    result = plan(tmp_path, torch_cuda="12.8", nvcc="13.0", option="off")
    assert "linked=OFF|compiled=OFF" in result.stderr


def test_architectures_are_taken_from_the_environment(tmp_path: Path) -> None:
    result = plan(tmp_path, torch_cuda="13.0", nvcc="13.0", architectures="8.6;9.0a+PTX")
    assert result.stderr.strip().endswith("8.6 9.0a+PTX")
    (tmp_path / "again").mkdir()
    refused = plan(tmp_path / "again", torch_cuda="13.0", nvcc="13.0", architectures="Hopper")
    assert refused.returncode != 0
    assert "got Hopper" in " ".join(refused.stderr.split())


def run_with_level(level: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RETINANET_FAST_CPU_LEVEL": level}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not build_info()["cpu_level"].startswith("cpu_x86_64"), reason="levels are x86-64's")
def test_iou_has_the_same_bits_on_every_cpu_level() -> None:
    code = (
        "import torch, hashlib; from retinanet_fast import ops, build_info\n"
        "g = torch.Generator().manual_seed(0)\n"
        "b = torch.rand(300, 4, generator=g) * 50; b[:, 2:] += b[:, :2]\n"
        "print(build_info()['cpu_level'], hashlib.sha256(ops.box_iou(b, b).numpy().tobytes()).hexdigest())\n"
    )
    digests = {}
    for level in LEVELS:
        result = run_with_level(level, code)
        if "does not support it" in result.stderr:
            continue
        used, digests[level] = result.stdout.split()
        assert used == level
    assert len(digests) >= 1
    assert len(set(digests.values())) == 1, digests


def test_unknown_cpu_level_is_an_error() -> None:
    result = run_with_level("cpu_x86_64_v9", "from retinanet_fast import build_info; build_info()")
    assert result.returncode != 0
    assert "expected one of" in result.stderr


@pytest.mark.default_environment
def test_levels_share_no_function() -> None:
    """A weak function compiled for a newer level could be the copy that the linker keeps for all of them."""
    objects = sorted(ROOT.glob("build/*/CMakeFiles/kernels_cpu_*.dir/**/*.o"))
    if not objects or shutil.which("nm") is None:
        pytest.skip("no build folder beside the tests, or no nm")
    for path in objects:
        symbols = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout
        weak = [line for line in symbols.splitlines() if line[17:18] in "WVu" and "::cpu_" not in line]
        assert weak == [], path.name
