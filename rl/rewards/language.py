"""The language reward (R1 §2.3.2): the share of words in the thinking that are in the question's language."""

from rl.language import target_language, thinking_language_share
from rl.types import Question


def language_reward(question: Question, text: str) -> float:
    """0 to 1; 0 for thinking without words, so that saying nothing earns nothing. Target: rl/language.py."""
    return thinking_language_share(text, target_language(question)) or 0.0
