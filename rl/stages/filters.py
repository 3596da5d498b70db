"""What is kept of sampled answers: right, in the right format, and readable (R1 §2.3.1, §2.3.3)."""

from rl.language import target_language, thinking_language_share
from rl.reflection import thinking_of
from rl.stages.config import FilterConfig
from rl.types import Question

CODE_FENCE = "```"


def unreadable(text: str, question: Question, cfg: FilterConfig) -> str | None:
    """Why the thinking of a response is left out: mixed_language, code_block, long_paragraph; None: it is readable.

    R1 §2.3.3: "filtered out chain-of-thought with mixed languages, long paragraphs, and code blocks".
    """
    share = thinking_language_share(text, target_language(question))
    if share is not None and share < cfg.language_share:
        return "mixed_language"
    thinking = thinking_of(text)
    if CODE_FENCE in thinking:
        return "code_block"
    if max(map(len, thinking.splitlines()), default=0) > cfg.max_paragraph:
        return "long_paragraph"
    return None
