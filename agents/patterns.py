"""Five simple patterns of work with a model. `ask` takes a prompt and gives an answer; each is a page's worth of plan.

Whatever the model says goes on as data of the next prompt, fenced (agents/hostile.py).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from agents.hostile import as_data, json_in

type Ask = Callable[[str], str]


def chain(ask: Ask, steps: Sequence[str], text: str) -> str:
    """Each step is an instruction for what the step before has made, the first one for the text itself.

    Example: chain(ask, ["List the numbers.", "Add them."], "3 apples and 4 pears")
    """
    for step in steps:
        text = ask(f"{step}\n\n{as_data(text, 'the step before')}")
    return text


def route(ask: Ask, text: str, routes: Mapping[str, Callable[[str], str]]) -> tuple[str, str]:
    """The model names who should answer; -> (name, answer). One that names nobody gets the first of them."""
    said = ask(f"Who should answer? Reply with one word of {', '.join(routes)}.\n\n{as_data(text, 'question')}")
    words = [word.strip(".,:;!\"'`*()").casefold() for word in said.split()]
    name = next((name for name in routes if name.casefold() in words), next(iter(routes)))
    return name, routes[name](text)


def orchestrate(ask: Ask, text: str, *, parts: int = 4) -> str:
    """The model splits a task, each part is answered alone, and one answer is made of all. No plan: the task is all."""
    plan = json_in(ask(f"Split this into at most {parts} parts: reply with a JSON list of strings.\n\n{text}"), list)
    todo = [part for part in plan or [] if isinstance(part, str) and part.strip()][:parts] or [text]
    done = parallel(ask, [f"{text}\n\nAnswer this part only.\n{as_data(part, 'part')}" for part in todo])
    reports = "\n".join(as_data(answer, f"part {i}") for i, answer in enumerate(done, 1))
    return ask(f"{text}\n\nThese are answers to parts of it. Reply with the answer alone.\n{reports}")


def improve(ask: Ask, text: str, *, rounds: int = 3) -> str:
    """Evaluate and improve: a draft is judged and written again until the judge says PASS, or the rounds are over."""
    draft = ask(text)
    for _ in range(rounds):
        shown = as_data(draft, "draft")
        verdict = ask(f"{text}\n\nIs this answer right? Reply PASS if it is, else say what is wrong.\n{shown}")
        if verdict.strip().strip('."*').casefold() == "pass":
            break
        criticism = as_data(verdict, "criticism")
        draft = ask(
            f"{text}\n\nAn answer and what is wrong with it. Reply with a better answer alone.\n{shown}\n{criticism}"
        )
    return draft


def parallel(ask: Ask, prompts: Sequence[str], *, at_a_time: int = 4) -> list[str]:
    """All prompts, some at a time; -> answers in their order."""
    with ThreadPoolExecutor(at_a_time) as pool:
        return list(pool.map(ask, prompts))


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer, letters' case and spaces aside; of equals the first."""
    counts = Counter(" ".join(answer.casefold().split()) for answer in answers)
    best = max(counts.values())
    return next(a for a in answers if counts[" ".join(a.casefold().split())] == best)
