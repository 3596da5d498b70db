"""An engine that says what a function tells it to, with a token a character."""

from collections.abc import Callable

from rl.types import Completion, Question


class Letters:
    """A tokenizer with a token a character."""

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


class FakeEngine:
    """A RolloutEngine; say(question, index in the group) -> the response, cut after `limit` characters."""

    version, pad_id = 0, 0

    def __init__(self, say: Callable[[Question, int], str], limit: int = 1000) -> None:
        self.say, self.limit = say, limit
        self.asked: list[Question] = []

    def prompt_ids(self, question: Question) -> list[int]:
        return Letters().encode(question.prompt)

    def generate(self, questions: list[Question], group_size: int, *, step: int) -> list[list[Completion]]:
        self.asked += questions
        return [[self._completion(self.say(q, g)) for g in range(group_size)] for q in questions]

    def _completion(self, text: str) -> Completion:
        stopped, text = len(text) <= self.limit, text[: self.limit]
        thinking = text.partition("<think>")[2].partition("</think>")[0]
        zeros = [0.0] * len(text)
        ids = Letters().encode(text)
        return Completion(ids, text, zeros, zeros, stopped=stopped, thinking_tokens=len(thinking))
