"""The Task protocol, and the settings that say which tasks are asked."""

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from infra.errors import ConfigError
from rl.tasks.code_config import CodeConfig
from rl.types import Question
from training.data.countdown import SHORT_TEMPLATE

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer

# R1 table 1, word for word.
R1_ZERO_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: {question} Assistant:"
)


# What a chat model is asked, as its user: R1's two tags, which its own template may know nothing of.
CHAT_TEMPLATE = (
    "{question} Show your thinking in <think> </think> tags, then give the answer alone in <answer> </answer> tags."
)


class Template(Enum):
    """How a question becomes a prompt."""

    auto = "auto"
    short = "short"
    r1_zero = "r1_zero"
    chat = "chat"

    def prompt(self, question: str) -> str:
        """The text that the model reads; its response follows without a space. auto is short here."""
        templates = {Template.r1_zero: R1_ZERO_TEMPLATE, Template.chat: CHAT_TEMPLATE}
        return templates.get(self, SHORT_TEMPLATE).replace("{question}", question)

    @property
    def in_words(self) -> bool:
        """Whether a question states its rules: to a model that has not been trained on its short form."""
        return self in (Template.r1_zero, Template.chat)


class Prompter(Protocol):
    """Makes prompts of questions: a Template, or one with a model's own marks around it."""

    in_words: bool

    def prompt(self, question: str) -> str:
        """The text that the model reads."""
        ...


class ModelPrompter:
    """A template as a model from elsewhere reads it: inside its chat template, or behind its start token."""

    def __init__(self, template: Template, tokenizer: "Tokenizer") -> None:
        self.template, self.tokenizer, self.in_words = template, tokenizer, template.in_words

    def prompt(self, question: str) -> str:
        """The text that the model reads, its special tokens written out."""
        text = self.template.prompt(question)
        return self.tokenizer.chat(text) if self.template is Template.chat else self.tokenizer.start + text


def prompter(template: Template, tokenizer: "Tokenizer") -> Prompter:
    """The template for a model. auto: short for one made here, else its chat template, else R1-Zero's.

    Raises ConfigError for chat with a model that has no chat template.
    """
    if template is Template.auto:
        template = Template.chat if tokenizer.has_chat else Template.r1_zero
        template = Template.short if tokenizer.is_own else template
    if template is Template.chat and not tokenizer.has_chat:
        raise ConfigError("task.template", "chat", "the model's tokenizer has no chat template", "set r1_zero")
    return template if tokenizer.is_own else ModelPrompter(template, tokenizer)


class Task(Protocol):
    """Questions, and a rule that judges answers to them. No question is in both splits."""

    name: str
    "As in the metric eval/<name>/pass_at_1."

    def train_question(self, i: int) -> Question:
        """The i-th training question; depends on (seed, i) only."""
        ...

    def test_questions(self, n: int) -> list[Question]:
        """n different held-out questions, the same at every call and for every seed.

        Raises ConfigError where there are fewer.
        """
        ...

    def score(self, question: Question, text: str) -> float:
        """1.0 where the response `text` ends in a right answer, else 0.0. Never raises, never runs the text."""
        ...


def difficulty(task: Task, question: Question) -> float:
    """How hard the task says its question is; larger is harder. Raises ConfigError where it says nothing."""
    of = getattr(task, "difficulty", None)
    if of is None:
        remedy = "set rl.questions.order=prioritised"
        raise ConfigError("rl.questions.order", "curriculum", f"{task.name} does not grade its questions", remedy)
    return of(question)


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """What is asked."""

    names: list[str] = field(default_factory=lambda: ["countdown"])
    """Tasks: countdown, countdown_image (in pictures, for a model of r1 captions), chain_sum, products, gcd,
    spell_backward, basic_arithmetic, simple_equations, derivatives;
    number_words, facts, writing, refusal; gsm8k, svamp, math500, aime2024, amc2023, gpqa, math; code, livecodebench."""
    weights: list[float] = field(default_factory=list)
    "Share of each task, in the order of names; empty for equal shares."
    template: Template = Template.auto
    "short (the tiny corpus'), r1_zero (R1 table 1) or chat (the model's own); auto takes what fits the model."
    seed: int = 0
    "Seed of the training questions."
    path: str = ""
    "Data of gsm8k and its like: a .jsonl or .parquet file, or a folder with <name>/test.jsonl; empty: from the Hub."
    bad_rows: float = 0.0
    "Share of a data set's rows that may be unusable; they are counted and left out."
    code: CodeConfig = field(default_factory=CodeConfig)
    "Answers that are programs (code, livecodebench): how they are tried."

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError("task.names", self.names, "there is nothing to ask", "set task.names=[countdown]")
        if len(set(self.names)) != len(self.names):
            raise ConfigError("task.names", self.names, "names a task twice", "use task.weights for shares")
        if self.weights and len(self.weights) != len(self.names):
            raise ConfigError(
                "task.weights", self.weights, f"there are {len(self.names)} tasks", "give one weight for each"
            )
        if any(not 0 < w < float("inf") for w in self.weights):
            raise ConfigError("task.weights", self.weights, "a share has to be positive", "leave the task out instead")
        if self.seed < 0:
            raise ConfigError("task.seed", self.seed, "cannot be negative", "set 0")
        if not 0 <= self.bad_rows < 1:
            raise ConfigError("task.bad_rows", self.bad_rows, "is a share of all rows", "set 0, or as much as 0.01")

    @property
    def label(self) -> str:
        """The name of the task built from this: its only one, or "mix"."""
        return self.names[0] if len(self.names) == 1 else "mix"


def for_training(question: Question, *, held: bool) -> Question:
    """The question, which is about to be trained on. held: whether it belongs to the tests: then AssertionError."""
    if held:
        raise AssertionError(f"{question.id} is a test question: {question.prompt}")
    return question


class Shortage(ConfigError):
    """More test questions are wanted than a task has."""

    def __init__(self, name: str, wanted: int, there: int) -> None:
        super().__init__("evaluate.questions", wanted, f"{name} has {there} held-out questions", f"set at most {there}")
        self.there = there


def shortage(name: str, wanted: int, there: int) -> ConfigError:
    """The error for more test questions than a task has."""
    return Shortage(name, wanted, there)


def at_most(task: Task, n: int) -> list[Question]:
    """n of a task's test questions, or all where it has fewer."""
    try:
        return task.test_questions(n)
    except Shortage as error:
        return task.test_questions(error.there)
