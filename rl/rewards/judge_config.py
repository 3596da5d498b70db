"""The settings of a generative judge; without torch."""

from dataclasses import dataclass

from infra.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class JudgeConfig:
    """Who judges: a server that speaks OpenAI's chat completions, or a model of ours."""

    url: str = ""
    "Address of the server up to its version, as in http://10.0.0.1:8000/v1."
    model: str = ""
    "The model's name on that server."
    key_variable: str = ""
    "Environment variable that holds the server's key; empty: it wants none."
    checkpoint: str = ""
    "A model to judge in process instead: a run, a checkpoint or a Hugging Face folder."
    cache: str = "runs/judge"
    "Folder of the verdicts, each under a hash of judge and question: none is asked for twice."
    max_tokens: int = 512
    "Longest verdict in tokens, its reasons included."
    timeout_s: float = 120.0
    "Seconds until a verdict has to be there."
    retries: int = 4
    "Further attempts, at growing distance, at a request that failed for want of a connection or by the server's error."
    requests: int = 8
    "Verdicts asked for at the same time."
    max_unread: float = 0.5
    "Largest share of verdicts that cannot be read; more of them stop the stage."

    def __post_init__(self) -> None:
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ConfigError("judge.url", self.url, "is no address", "set it as in http://10.0.0.1:8000/v1")
        for key in ("max_tokens", "timeout_s", "requests"):
            if not 0 < getattr(self, key) < float("inf"):
                raise ConfigError(f"judge.{key}", getattr(self, key), "has to be positive", "set 1 or more")
        if self.retries < 0:
            raise ConfigError("judge.retries", self.retries, "cannot be negative", "set 0 for none")
        if not 0 <= self.max_unread <= 1:
            raise ConfigError("judge.max_unread", self.max_unread, "is a share", "set it from 0 to 1")
        if not self.cache:
            raise ConfigError("judge.cache", "''", "verdicts are kept so that a stage can go on", "set runs/judge")

    def check(self, key: str) -> None:
        """Raise ConfigError where the section `key` does not name one judge; settings of one field are judged above."""
        if not (self.url or self.checkpoint):
            raise ConfigError(f"{key}.url", "''", "there is no judge", f"set {key}.url and {key}.model, or .checkpoint")
        if self.url and self.checkpoint:
            raise ConfigError(f"{key}.checkpoint", self.checkpoint, f"{key}.url names a judge, too", "set one of them")
        if self.url and not self.model:
            raise ConfigError(f"{key}.model", "''", "the server has to be told which model judges", "set its name")
