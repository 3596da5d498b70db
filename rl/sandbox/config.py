"""What a program in the sandbox may use."""

import os
from dataclasses import dataclass

from infra.errors import ConfigError


@dataclass(kw_only=True, slots=True, unsafe_hash=True)
class SandboxConfig:
    """Limits of one run of a program, and how many run at a time."""

    memory_mib: int = 512
    "Address space of the program in MiB, Python's own 40 included."
    cpu_s: int = 2
    "Processor seconds of one run."
    wall_s: float = 10.0
    "Seconds of one run by the clock, for programs that wait; far above cpu_s, as a busy machine is not their fault."
    threads: int = 32
    "Threads that it may have; other processes it has none."
    output_kib: int = 64
    "What it may print, in KiB; one that prints more is ended."
    disk_mib: int = 16
    "Room in its own folder, in MiB, which is memory as well."
    workers: int = 0
    "Programs run at a time; 0: one for each core of this process' share of the machine."

    def __post_init__(self) -> None:
        ranges = {
            "memory_mib": (64, 65536, 512),
            "cpu_s": (1, 3600, 2),
            "wall_s": (0.1, 7200, 10.0),
            "threads": (1, 1000, 32),
            "output_kib": (1, 65536, 64),
            "disk_mib": (1, 4096, 16),
            "workers": (0, 1024, 0),
        }
        for key, (low, high, usual) in ranges.items():
            value = getattr(self, key)
            if not low <= value <= high:
                raise ConfigError(
                    f"task.code.sandbox.{key}", value, f"has to be from {low} to {high}", f"set it to {usual}"
                )

    @property
    def number(self) -> int:
        """Programs run at a time."""
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return self.workers or max(1, len(os.sched_getaffinity(0)) // ranks)

    def limits(self) -> dict[str, int]:
        """What a cell is told."""
        return {
            "memory_bytes": self.memory_mib << 20,
            "cpu_s": self.cpu_s,
            "disk_bytes": self.disk_mib << 20,
            "threads": self.threads,
            "files": 1024,
        }
