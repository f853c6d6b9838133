"""AOTInductor packages: in Python, and in a C++ program without Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from export_model import make_detector, pictures
from PIL import Image

import retinanet_fast
from retinanet_fast.engine.data.dataset import read_image
from retinanet_fast.export import compare, export_model, load_exported
from retinanet_fast.models import BatchDetector

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "cpp"
SIZE = (150, 190)

# Inductor compiles the model with the C++ compiler, for about a minute.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++, which Inductor compiles with"),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For any batch, of one size."""
    file = tmp_path_factory.mktemp("aoti") / "model.pt2"
    export_model(make_detector(), file, "aoti", size=SIZE)
    return file


@pytest.mark.parametrize("batch", [1, 3])
def test_a_package_detects_what_the_model_does(package: Path, batch: int) -> None:
    model, images = make_detector(), pictures(batch, *SIZE)
    run = load_exported(package, "aoti")
    with torch.inference_mode():
        expected = BatchDetector(model)(images)
        for given in (images, images.to(memory_format=torch.channels_last)):
            found = compare(expected, run(given), model.score_thresh)
            assert found.pairs > 100 * batch
            assert found.within_bounds, str(found)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ example, built."""
    if shutil.which("cmake") is None:
        pytest.skip("no cmake, which builds the example")
    folder = tmp_path_factory.mktemp("cpp")
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    for command in (
        ["cmake", "-S", str(EXAMPLE), "-B", str(folder), prefix],
        ["cmake", "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "detect"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True)


@pytest.mark.skipif(
    torch.version.cuda is not None, reason="find_package(Torch) of a CUDA build needs the CUDA toolkit"
)
def test_the_cpp_example_prints_the_models_detections(package: Path, program: Path, tmp_path: Path) -> None:
    pixels = (pictures(1, *SIZE)[0] * 255).byte()
    picture = tmp_path / "picture.ppm"
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(picture)
    assert torch.equal(read_image(picture), pixels)
    assert "libpython" not in run("ldd", program).stdout
    assert "libpython" not in run("ldd", retinanet_fast.ops_library()).stdout
    done = run(program, retinanet_fast.ops_library(), package, picture, 0.5)
    assert done.returncode == 0, done.stderr
    rows = torch.tensor([[float(word) for word in line.split()] for line in done.stdout.splitlines()])
    with torch.inference_mode():
        expected = BatchDetector(make_detector())(pixels[None].float() / 255).unpack()[0]
    above = expected["scores"] >= 0.5
    assert len(rows) == above.sum() > 10
    # Printed with four and two digits; scores that are equal but for the last bits may be in another order.
    torch.testing.assert_close(rows[:, 1], expected["scores"][above], atol=2e-4, rtol=0)
    for label, score, *box in rows.tolist():
        near = (expected["boxes"] - torch.tensor(box)).abs().amax(1) < 0.016
        near &= (expected["scores"] - score).abs() < 2e-4
        assert (expected["labels"][near] == label).any()


def test_the_cpp_example_says_what_is_wrong(program: Path, tmp_path: Path) -> None:
    assert run(program).stderr.startswith("detect: usage: detect OPS_LIBRARY")
    missing = run(program, tmp_path / "ops.so", "model.pt2", "picture.ppm")
    assert missing.returncode == 1
    assert "ops.so: cannot open shared object file" in missing.stderr
