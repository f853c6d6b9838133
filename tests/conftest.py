import sys
from pathlib import Path

import torch

# Modules that tests share (cases.py) are imported by name, whichever folder pytest was started in.
sys.path.insert(0, str(Path(__file__).parent))
torch.manual_seed(0)
