"""The settings of `r1 agents` and `r1 datagen`; without torch."""

from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

from infra.errors import ConfigError
from rl.sandbox.session import SessionConfig


class Kind(Enum):
    """What answers a question."""

    plain = "the model alone"
    code = "smolagents' CodeAgent"
    supervisor = "LangGraph: a supervisor with three specialists"
    chain = "one step after another"
    route = "whoever is named for it"
    orchestrate = "a plan, its parts, one answer of them"
    improve = "a draft, an evaluation, a better one"
    parallel = "several at a time, the majority"


class Export(Enum):
    """What accepted samples become."""

    tests = "JSONL, one sample a line"
    few_shot = "a text of examples for a prompt"


@dataclass(kw_only=True, slots=True)
class EndpointConfig:
    """A server that speaks OpenAI's chat completions."""

    url: str = ""
    "Address up to the version, as in http://127.0.0.1:8000/v1; may be typed as url=."
    model: str = ""
    "The model's name on that server; empty: the first that it lists."
    key_variable: str = ""
    "Environment variable that holds the server's key; empty: it wants none."
    temperature: float = 0.0
    "Of what agents ask; 0 takes the likeliest token."
    max_tokens: int = 512
    "Longest answer to one call, thinking included."
    timeout_s: float = 120.0
    "Seconds until one answer has to be there."
    retries: int = 2
    "Further attempts where there was no connection, or the server had an error."

    def __post_init__(self) -> None:
        if self.url and (not self.url.startswith(("http://", "https://")) or "@" in urlsplit(self.url).netloc):
            problem = "is no address without a name and password in it"
            raise ConfigError("endpoint.url", "...", problem, "set it as in http://127.0.0.1:8000/v1")
        for key in ("max_tokens", "timeout_s"):
            if not 0 < getattr(self, key) < 1e9:
                raise ConfigError(f"endpoint.{key}", getattr(self, key), "has to be positive", "set 100 or more")
        if not 0 <= self.temperature <= 2:
            raise ConfigError("endpoint.temperature", self.temperature, "is out of range", "set it from 0 to 2")
        if not 0 <= self.retries <= 20:
            raise ConfigError("endpoint.retries", self.retries, "is out of range", "set it from 0 to 20")

    def check(self) -> None:
        """Raise ConfigError where no server is named."""
        if not self.url:
            problem = "there is no model to ask"
            raise ConfigError("url", "''", problem, "set it as in url=http://127.0.0.1:8000/v1; r1 serve starts one")


@dataclass(kw_only=True, slots=True)
class BudgetConfig:
    """What may be spent on a server. Whoever goes on is stopped, and what it was doing counts as not done."""

    calls: int = 20
    "Calls of the model."
    tokens: int = 40_000
    "Tokens, read and written; a server that does not count them is counted by four characters a token."
    seconds: float = 300.0
    "Seconds by the clock."

    def __post_init__(self) -> None:
        for key in ("calls", "tokens", "seconds"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"budget.{key}", getattr(self, key), "nothing could be asked", "set 20 or more")


@dataclass(kw_only=True, slots=True)
class AgentsConfig:
    """Agents over a served model: questions with tools, scored."""

    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    "The served model."
    kinds: list[Kind] = field(default_factory=lambda: list(Kind))
    "Who answers, each all of the questions that it has the tools for."
    questions: int = 4
    "Of each sort: arithmetic, looking up, tables."
    seed: int = 0
    "Draws the questions."
    steps: int = 6
    "Turns that an agent may take: cells of code, specialists asked, drafts made better."
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    "Of one question."
    short: bool = False
    "Prompts of a few words, for a model of a few hundred tokens, as the tiny ones are; agents do worse by them."
    session: SessionConfig = field(default_factory=SessionConfig)
    "Of one question's code, which runs in the sandbox."

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ConfigError("agents.kinds", "[]", "nobody would answer", "leave it out for all")
        for key in ("questions", "steps"):
            if not 1 <= getattr(self, key) <= 1000:
                raise ConfigError(f"agents.{key}", getattr(self, key), "is out of range", "set it from 1 to 1000")

    def check(self) -> None:
        """Raise ConfigError where the command cannot start."""
        self.endpoint.check()


@dataclass(kw_only=True, slots=True)
class DatagenConfig:
    """Test and validation data made by a reasoning model, looked through by people."""

    task: str = ""
    'What is to be told apart, as in "whether a review is about the food".'
    labels: list[str] = field(default_factory=lambda: ["yes", "no"])
    "The labels that a sample may have."
    n: int = 20
    "Samples that are wanted, about as many of each label."
    per_call: int = 5
    "Samples that are asked for at a time."
    repairs: int = 2
    "How often an answer that cannot be read, or breaks the schema, is asked for again."
    rounds: int = 0
    "Calls for samples at most, repairs not counted; 0: three times as many as would do."
    near: float = 0.8
    "Share of common four-letter pieces from which on a sample is the same as another."
    query_characters: int = 2000
    "Longest sample."
    review: str = ""
    "A sheet that was looked through: it is exported, and no model is asked."
    export: Export = Export.tests
    "What the accepted samples of review become."
    endpoint: EndpointConfig = field(default_factory=lambda: EndpointConfig(temperature=0.8, max_tokens=4096))
    "The served model."
    budget: BudgetConfig = field(default_factory=lambda: BudgetConfig(calls=200, tokens=1_000_000, seconds=3600.0))
    "Of this start; a further start of the same command has as much again."

    def __post_init__(self) -> None:
        if len(set(self.labels)) < 2 or not all(label.strip() for label in self.labels):
            raise ConfigError("datagen.labels", self.labels, "have to be two or more", "set labels=[yes,no]")
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError("datagen.labels", self.labels, "one is there twice", "leave one out")
        for key, low, high in (("n", 1, 10_000), ("per_call", 1, 100), ("repairs", 0, 20), ("rounds", 0, 100_000)):
            if not low <= getattr(self, key) <= high:
                raise ConfigError(f"datagen.{key}", getattr(self, key), "is out of range", f"set {low} to {high}")
        if not 0 < self.near <= 1:
            raise ConfigError("datagen.near", self.near, "is a share", "set it above 0, up to 1")
        if not 1 <= self.query_characters <= 100_000:
            raise ConfigError("datagen.query_characters", self.query_characters, "is out of range", "set 2000")

    def check(self) -> None:
        """Raise ConfigError where the command cannot start."""
        if self.review:
            return
        if not self.task.strip():
            raise ConfigError("task", "''", "there is nothing to make data for", 'say it, as in task="is it a joke?"')
        self.endpoint.check()
