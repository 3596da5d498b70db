"""Errors a user can act on. The command line prints their one line and leaves with 2, without a stack trace."""


class R1Error(Exception):
    """Anything a user can mend: the message says what is wrong and what to do."""


class ConfigError(R1Error):
    """A setting that cannot work, found before any work: key, value, why, and the remedy."""

    def __init__(self, key: str, value: object, problem: str, remedy: str) -> None:
        super().__init__(f"{key}={value}: {problem}; {remedy}")
        self.key, self.value = key, value


class CheckpointError(R1Error):
    """A checkpoint that cannot be read, written or fitted to the model."""


class SandboxError(R1Error):
    """Code of a model cannot be shut in, so it is not run."""


class RunLocked(R1Error):
    """Another process works in the run folder."""


class TrainingDiverged(R1Error):
    """The loss or the gradient stopped being a number; weights and optimiser were left as they were before the step."""

    SAID = "training diverged"
    "Part of its message, for who reads a log."

    def __init__(self, step: int, loss: float, grad_norm: float, last_good: object | None = None) -> None:
        resume = f"resume from {last_good}" if last_good else "there is no checkpoint yet"
        super().__init__(
            f"step {step}: loss={loss}, grad_norm={grad_norm}: {self.SAID} before the weights moved; "
            f"{resume} with a lower learning rate or another seed"
        )
        self.step = step
