"""What a benchmark gives, and how two sides are timed in turn."""

import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.summary import write_json
from infra.errors import R1Error
from infra.hardware import machine
from infra.tracking import git_state


@dataclass(kw_only=True, slots=True)
class Result:
    """Medians over the rounds; ratio is the median of ours / peer, round by round."""

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, unit: str, ours: list[float], peer: list[float], peer_name: str, **details: Any) -> "Result":
        """From the figures of each round, in which both sides were timed in turn."""
        ratios = [a / b for a, b in zip(ours, peer, strict=True)]
        middle = statistics.median
        return cls(
            name=name,
            unit=unit,
            ours=middle(ours),
            peer=middle(peer),
            peer_name=peer_name,
            ratio=middle(ratios),
            details=details | {"ours": ours, "peer": peer, "ratios": ratios},
        )

    def __str__(self) -> str:
        ratios = self.details["ratios"]
        return (
            f"{self.name}: {self.ours:,.4g} {self.unit}, {self.peer_name}: {self.peer:,.4g}; "
            f"ratio {self.ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds)"
        )

    def write(self, path: Path) -> None:
        """As JSON, with commit and machine."""
        state = git_state()
        write_json(path, asdict(self) | {"commit": state["commit"], "dirty": state["dirty"], "machine": machine()})


class Worker:
    """Processes that time something each time they are told to: a line in, a JSON line out from the first of them."""

    def __init__(self, module: str, *args: str, ranks: list[dict[str, str]]) -> None:
        command = [sys.executable, "-W", "ignore", "-m", module, *args]
        self._processes = [
            subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for env in ranks
        ]

    def measure(self) -> dict[str, float]:
        """One round. Raises R1Error where the processes have died."""
        try:
            for process in self._processes:
                print("go", file=process.stdin, flush=True)
            lines = [process.stdout.readline() for process in self._processes]
            return json.loads(lines[0])
        except (OSError, ValueError) as error:
            raise R1Error(
                f"{self._processes[0].args[4]} ended before it was measured; its own error is above"
            ) from error

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
