"""The limits of the sandbox that tests share (tests/rl/conftest.py), small enough for a program to meet them soon."""

from rl.sandbox.config import SandboxConfig

LIMITS = SandboxConfig(memory_mib=256, cpu_s=1, wall_s=3.0, output_kib=16, disk_mib=4, threads=8, workers=2)
