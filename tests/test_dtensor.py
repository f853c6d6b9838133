"""The ops on DTensors, in two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import retinanet_fast
from retinanet_fast import ops

PROCESS = Path(__file__).with_name("dtensor_process.py")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    command = [sys.executable, str(PROCESS), str(tmp_path / "store")]
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output


def test_importing_the_ops_does_not_import_dtensor() -> None:
    code = "import sys, retinanet_fast.ops; sys.exit('torch.distributed.tensor' in sys.modules)"
    before = "import sys, torch; sys.exit('torch.distributed.tensor' in sys.modules)"
    if subprocess.run([sys.executable, "-c", before], check=False).returncode:
        pytest.skip("this torch imports torch.distributed.tensor itself")
    root = Path(retinanet_fast.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_the_function_is_public() -> None:
    assert "register_dtensor" in retinanet_fast.__all__
    assert "register_dtensor" not in ops.__all__
