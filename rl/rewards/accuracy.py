"""The accuracy reward (R1 §2.2.2): whether the final answer is right. The task judges; this finds the answer."""

OPEN, CLOSE = "<answer>", "</answer>"


def answer_of(text: str) -> str | None:
    """What stands in the last well-formed <answer>...</answer>, stripped; None where there is none.

    Thinking is not asked for here: an answer without <think> can be right. Time is linear in the text.

    answer_of("<answer>1</answer> no: <answer> 2 </answer>") is "2"; answer_of("<answer>1") is None.
    """
    start = text.rfind(OPEN, 0, max(text.rfind(CLOSE), 0))
    if start < 0:
        return None
    return text[start + len(OPEN) : text.index(CLOSE, start)].strip()
