"""Run one nvcc command, keep what ptxas says about registers and spills, and print a summary in one line.

usage: compile_cuda.py REPORT NVCC ARGUMENTS...
"""

import pathlib
import re
import subprocess
import sys

report, command = sys.argv[1], sys.argv[2:]
result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
if result.returncode != 0:
    sys.exit(result.stdout)
pathlib.Path(report).write_text(result.stdout)

for line in result.stdout.splitlines():
    if "warning" in line:
        print(line)
registers = [int(count) for count in re.findall(r"Used (\d+) registers", result.stdout)]
spills = [int(count) for count in re.findall(r"(\d+) bytes spill stores", result.stdout)]
source = pathlib.Path(command[command.index("-c") + 1]).name
spilled = f"{sum(count > 0 for count in spills)} SPILL" if any(spills) else "no spills"
summary = f"{len(registers)} kernels over all architectures, at most {max(registers, default=0)} registers"
print(f"{source}: {summary}, {spilled}")
