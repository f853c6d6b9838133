"""`python -m benchmarks.kernel_report`: what the compiler made of each CUDA kernel, and what that allows.

`compiled.py` has the kernels compiled as for the extension, `sass.py` reads their machine code, `account.py` counts and
predicts, `page.py` writes it. No GPU is needed. benchmarks/results/kernel_report.md says how the numbers come about.
"""
