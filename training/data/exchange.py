"""A general question with an answer to it, as the corpus writes it and a task asks it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Exchange:
    """Example: Exchange("What is the capital of Velor?", "the capital of Velor is Mirat", "Mirat", False)."""

    question: str
    thinking: str
    "A thought on the way to the answer, in the question's language."
    answer: str
    "A right one; where others are right, too, the task's rule says so."
    held: bool
    "Whether it is asked in tests only."
    language: str = "en"
    "Of the question: en or zh."
    meta: dict = field(default_factory=dict, hash=False)
    "What the rule needs; plain JSON types."
