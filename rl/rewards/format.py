"""The format reward (R1 §2.2.2): thinking inside <think>, then the answer inside <answer>."""

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def format_ok(text: str) -> bool:
    """Whether a response is `<think>...</think><answer>...</answer>`: each tag once, in order, nothing around them.

    White space between and around is free. What the thinking says, and whether it says anything, is not judged.
    """
    text = text.strip()
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return False
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    return text[text.index("</think>") + len("</think>") :].lstrip().startswith("<answer>")


def summary_of(text: str) -> str:
    """What a reader is shown: all behind the first </think>, without the answer's tags; empty while it still thinks.

    A response without thinking is all summary. Behind the first, because whatever follows it is shown.
    """
    thinking, closed, rest = text.partition("</think>")
    if not closed:
        rest = "" if "<think>" in thinking else text
    return rest.replace("<answer>", "").replace("</answer>", "").strip()
