"""The language reward (R1 §2.3.2): the share of words in the thinking that are in the question's language."""

from rl.language import Language, language_of, language_share
from rl.rewards.format import thinking_of
from rl.types import Question


def language_reward(question: Question, text: str) -> float:
    """0 to 1. The target is question.meta["language"] ("english" or "chinese"), else the language of the prompt."""
    return language_share(thinking_of(text), target_of(question))


def target_of(question: Question) -> Language:
    """The language an answer is asked in."""
    named = question.meta.get("language")
    return Language[named] if named in Language.__members__ else language_of(question.prompt)
