"""Programming problems from files (rl/tasks/problem_rows.py), tried in the sandbox."""

from rl.tasks.base import Prompter
from rl.tasks.benchmarks import BenchmarkTask
from rl.tasks.code_config import CodeConfig
from rl.tasks.programs import Tested

PROBLEMS = ("livecodebench",)
"Sets of rl/tasks/benchmarks.py whose answers are programs."


class Problems(Tested, BenchmarkTask):
    """Problems of a file, tried in the sandbox."""

    def __init__(
        self, name: str, cfg: CodeConfig, *, path: str, bad_share: float, seed: int, template: Prompter, ready: bool
    ) -> None:
        """Raises SandboxError where programs are to be run and cannot be, ConfigError as BenchmarkTask does."""
        BenchmarkTask.__init__(self, name, path=path, bad_share=bad_share, seed=seed, template=template)
        Tested.__init__(self, cfg, ready=ready)
