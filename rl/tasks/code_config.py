"""Settings of tasks whose answers are programs."""

from dataclasses import dataclass, field

from infra.errors import ConfigError
from rl.sandbox.config import SandboxConfig


@dataclass(kw_only=True, slots=True)
class CodeConfig:
    """Answers that are programs: how they are tried."""

    max_tests: int = 0
    "Most tests of a problem that are run, its public ones first; 0: all."
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    "What a program may use."

    def __post_init__(self) -> None:
        if self.max_tests < 0:
            raise ConfigError("task.code.max_tests", self.max_tests, "cannot be negative", "set 0 for all")
