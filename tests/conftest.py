import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
# Modules that tests share (cases.py) are imported by name, whichever folder pytest was started in; the project's
# folder comes last, for `benchmarks`, so that an installed retinanet_fast is not hidden by the source tree.
sys.path.insert(0, str(HERE))
sys.path.append(str(HERE.parent))
torch.manual_seed(0)
collect_ignore = ["added_op"]  # test_adding_an_op.py runs it, where it belongs
