"""A supervisor and three specialists as a LangGraph: research, retrieval, and SQL from plain words.

The supervisor reads the question and the reports so far, and names who is next or gives the answer. Everything passes
as text and JSON in it, so that any served model will do: no server has to know how to call tools.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from agents import sql
from agents.budget import Budget, LimitReached
from agents.config import AgentsConfig
from agents.endpoint import UNREADABLE, Endpoint, tokens_of
from agents.extra import need
from agents.hostile import RULE, SHORT_RULE, as_data, clean, json_in, visible
from agents.retrieval import Index
from rl.sandbox.session import ToolError

SPECIALISTS = {
    "research": "reads the corpus in several searches and reports with sources",
    "retrieval": "finds one passage of the corpus and reads the answer off it",
    "sql": "asks the database of countries and visits",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What each is told; the last sentence says that data is data."""

    supervise: str
    research: str
    report: str
    retrieve: str
    sql: str


LONG = Rules(
    supervise=f"""You lead specialists: {"; ".join(f"{name} {what}" for name, what in SPECIALISTS.items())}.
Reply with one line of JSON: {{"next": "research", "task": "what to find out"}} to ask one of them, or
{{"answer": "..."}} with the answer alone. {RULE}""",
    research=f"""You research a question. Reply with one line of JSON: {{"search": "words"}} to look into the corpus, or
{{"report": "..."}} with what you found and its sources. {RULE}""",
    report=f"Report what answers the question, with sources. {RULE}",
    retrieve=f"Answer from the passages alone, with the source. Say so if they do not tell. {RULE}",
    sql=f"Write one SELECT for SQLite that answers the question. Reply with SQL alone. Tables:\n{sql.SCHEMA}\n{RULE}",
)
SHORT = Rules(
    supervise=f'JSON: {{"next": "{"|".join(SPECIALISTS)}"}} or {{"answer": ""}}. {SHORT_RULE}',
    research=f'JSON: {{"search": ""}} or {{"report": ""}}. {SHORT_RULE}',
    report=f"Report. {SHORT_RULE}",
    retrieve=f"Answer. {SHORT_RULE}",
    sql=f"SQL. {' '.join(sql.SCHEMA.split())} {SHORT_RULE}",
)
SEARCHES, ATTEMPTS = 3, 3
"Searches of one research, and tries at one query of SQL."


class State(TypedDict):
    """What the nodes of the graph share."""

    question: str
    reports: Annotated[list[str], operator.add]
    "Of the specialists, fenced."
    next: str
    "Who is asked; empty: the answer is there."
    task: str
    turns: int
    answer: str


def answer(question: str, endpoint: Endpoint, budget: Budget, cfg: AgentsConfig, index: Index, database: Path) -> str:
    """The supervisor's answer. Raises LimitReached, and R1Error where the endpoint fails."""
    ask, close = asker(endpoint, budget)
    try:
        graph = build(ask, index, database, cfg.steps, SHORT if cfg.short else LONG)
        start = {"question": question, "reports": [], "next": "", "task": "", "turns": 0, "answer": ""}
        return graph.invoke(start, {"recursion_limit": 2 * cfg.steps + 5})["answer"]
    finally:
        close()


def build(ask: Callable[[str, str], str], index: Index, database: Path, steps: int, rules: Rules = LONG) -> Any:
    """The compiled graph. ask: (rule, prompt) -> what the model says after its thinking."""
    graphs = need("langgraph.graph")

    def supervisor(state: State) -> dict[str, Any]:
        if state["turns"] >= steps:
            raise LimitReached(f"the limit of {steps} steps is reached; set steps higher")
        reports = "\n".join(state["reports"]) or "There is no report yet."
        said = ask(rules.supervise, f"Question: {state['question']}\n\n{reports}")
        decided = json_in(said, dict) or {}
        if decided.get("next") in SPECIALISTS:
            task = decided.get("task")
            task = clean(task, 1000) if isinstance(task, str) and task.strip() else state["question"]
            return {"next": decided["next"], "task": task, "turns": state["turns"] + 1}
        given = decided.get("answer", said)  # a model that knows no JSON has said its answer in words
        return {"next": "", "answer": str(given), "turns": state["turns"] + 1}

    def specialist(name: str, work: Callable[[str], str]) -> Callable[[State], dict[str, Any]]:
        return lambda state: {"reports": [as_data(work(state["task"]), name)]}

    graph = graphs.StateGraph(State)
    graph.add_node("supervisor", supervisor)
    works = {
        "research": lambda task: research(ask, index, task, rules),
        "retrieval": lambda task: retrieve(ask, index, task, rules),
        "sql": lambda task: ask_database(ask, database, task, rules),
    }
    for name, work in works.items():
        graph.add_node(name, specialist(name, work))
        graph.add_edge(name, "supervisor")
    graph.add_edge(graphs.START, "supervisor")
    graph.add_conditional_edges("supervisor", lambda state: state["next"] or graphs.END, [*works, graphs.END])
    return graph.compile()


def research(ask: Callable[[str, str], str], index: Index, task: str, rules: Rules) -> str:
    """Searches, as the model words them, until it reports; then what was found."""
    found: list[str] = []
    for _ in range(SEARCHES):
        said = ask(rules.research, f"Question: {task}\n\n" + ("\n".join(found) or "Nothing was looked up yet."))
        decided = json_in(said, dict) or {}
        if isinstance(decided.get("report"), str):
            return decided["report"]
        words = decided.get("search")
        found.append(passages(index, words if isinstance(words, str) else task))
    return ask(rules.report, f"Question: {task}\n\n" + "\n".join(found))


def retrieve(ask: Callable[[str, str], str], index: Index, task: str, rules: Rules) -> str:
    """The model reads the answer off the best passages."""
    return ask(rules.retrieve, f"Question: {task}\n\n{passages(index, task)}")


def passages(index: Index, words: str) -> str:
    """The best passages of the corpus, fenced."""
    best = index.search(words)
    return (
        "\n".join(as_data(passage.text, passage.source, 1500) for passage in best) or "The corpus has nothing about it."
    )


def ask_database(ask: Callable[[str, str], str], database: Path, task: str, rules: Rules) -> str:
    """SQL by the model, read-only; a mistake is told to it and tried again."""
    prompt = f"Question: {task}"
    problem = ""
    for _ in range(ATTEMPTS):
        text = statement(ask(rules.sql, prompt))
        try:
            return f"{text}\n{sql.query(database, text)}"
        except ToolError as error:
            problem = str(error)
            prompt = f"Question: {task}\n\n{as_data(f'{text}\n{problem}', 'the attempt before')}"
    return f"no answer: {problem}"


def statement(said: str) -> str:
    """The SQL in a reply, out of its fence of code."""
    fenced = said.split("```")
    text = fenced[1].removeprefix("sqlite").removeprefix("sql") if len(fenced) >= 3 else said
    return text.strip().rstrip(";")


def asker(endpoint: Endpoint, budget: Budget) -> tuple[Callable[[str, str], str], Callable[[], None]]:
    """LangChain's client of OpenAI's protocol under the budget, as a function, and what closes it."""
    need("langgraph.graph")
    langchain, openai = need("langchain_openai"), need("openai")
    client = endpoint.openai_client()
    llm = langchain.ChatOpenAI(
        model=endpoint.model,
        base_url=endpoint.cfg.url,
        api_key=endpoint.key or "none",
        temperature=endpoint.cfg.temperature,
        **client,
    )

    def ask(rule: str, prompt: str) -> str:
        messages = [("system", rule), ("user", prompt)]
        with budget.call(endpoint.cfg.max_tokens, endpoint.cfg.timeout_s) as call:
            timeout_s = call.timeout_s / (endpoint.cfg.retries + 1)
            try:
                said = llm.invoke(messages, max_tokens=call.max_tokens, timeout=timeout_s)
            except (openai.OpenAIError, *UNREADABLE) as error:
                raise endpoint.told(error) from error
            text = said.content if isinstance(said.content, str) else ""
            call.tokens = tokens_of(said.usage_metadata, [{"content": rule + prompt}], text)
        return visible(text)

    return ask, client["http_client"].close
