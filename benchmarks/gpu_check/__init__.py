"""`python -m benchmarks.gpu_check`: build on a machine with a GPU, compare with the CPU, measure, and say so on a page.

For a machine that is had for minutes: what matters most comes first, everything is in the folder `--out` from the
moment that it is known, and nothing runs past `--budget` seconds. It needs a CUDA build of torch (>= 2.6), and no
network; what a part needs beside it (nvcc, pytest, compute-sanitizer, torchvision) leaves out that part alone.

`__main__.py` says what runs when, `parts.py` what each part does, `process.py` runs a command and `page.py` writes the
summary. `smoke.py`, `kernel_times.py` and `training_steps.py` run on the GPU, in processes of their own.
"""
