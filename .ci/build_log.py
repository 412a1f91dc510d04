"""Reads a build's log: fails on compiler warnings and on register spills, counts the kernels."""

import re
import sys

log = open(sys.argv[1], errors="replace").read()
lines = {line.strip() for line in log.splitlines()}
warnings = sorted(line for line in lines if re.search(r"csrc/.*\bwarning\b|ptxas warning", line))
usage = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", log)
registers = [int(n) for n in re.findall(r"Used (\d+) registers", log)]
spilling = [frame for frame in usage if frame[1] != "0" or frame[2] != "0"]
stacks = [frame for frame in usage if frame[0] != "0"]
print(
    f"ptxas: {len(registers)} kernels over all architectures, at most {max(registers, default=0)} "
    f"registers, {len(spilling)} with spills, {len(stacks)} with a stack frame"
)
if not registers:
    sys.exit("no CUDA kernel was compiled")
if warnings or spilling:
    sys.exit("\n".join(["the build is not clean:", *warnings, *map(str, spilling)]))
