"""Side-by-side measurements of the ops, their eager twins, `torch.compile` and torchvision. See README.md."""
