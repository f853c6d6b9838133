"""`python -m benchmarks.kernel_report`: the CUDA kernels as compiled, what whole calls do, and how long that takes.

`compiled.py` has the kernels compiled as for the extension, `sass.py` reads their machine code, `account.py` counts and
predicts the streaming ones. `counting.py` has the emulator count the calls of `calls.py`, and the host's instructions
that `x86.py` reads; `model.py` predicts the calls' times on the GPUs of `gpu.py`. `page.py` writes it all. No GPU is
needed. benchmarks/results/kernel_report.md says how the numbers come about.
"""
