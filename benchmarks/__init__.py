"""Measures the ops beside their eager twins, `torch.compile` and torchvision. See README.md."""
