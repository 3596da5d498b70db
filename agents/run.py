"""`r1 agents`: questions with tools, answered by each kind of agent over a served model; scores as they are."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from agents import code, patterns, sql, supervisor
from agents.budget import Budget, LimitReached
from agents.config import AgentsConfig, Kind
from agents.corpus import passages
from agents.endpoint import Endpoint, RequestRefused
from agents.extra import need
from agents.hostile import RULE, SHORT_RULE
from agents.questions import Question, Sort, is_right, questions
from agents.retrieval import Index
from infra.files import write_json
from infra.progress import Progress, say
from rl.sandbox.session import Session

EXTRAS = {Kind.code: ("smolagents", "openai"), Kind.supervisor: ("langgraph.graph", "langchain_openai")}
TOOLS = (Kind.code, Kind.supervisor)
"Kinds that have the database; the others answer what the model and the corpus can."
ALONE = "Reply with the answer alone, a number or a name."
VOTES = 3


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one question."""

    id: str
    sort: str
    question: str
    expected: str
    answer: str
    "The model's words; empty where a limit came first."
    right: bool
    stopped: str
    "The limit that ended it, or why the server refused a request, as one too long; empty: nothing."
    calls: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class World:
    """What there is to ask."""

    index: Index
    database: Path


def run(cfg: AgentsConfig, folder: Path) -> int:
    """Ask, score, print a table, write folder/agents.json; -> 0.

    Raises R1Error where the endpoint fails or a package is missing, SandboxError where code cannot be shut in.
    """
    for kind in cfg.kinds:
        for name in EXTRAS.get(kind, ()):
            need(name)
    if Kind.code in cfg.kinds:
        with Session({}) as session:  # where code cannot be shut in, it is said before anything is asked
            session.run("0")
    endpoint = Endpoint(cfg.endpoint)
    folder.mkdir(parents=True, exist_ok=True)
    world = World(Index(passages()), sql.make_database(folder / "world.db"))
    asked = {kind: [q for q in questions(cfg.questions, cfg.seed) if _can(kind, q)] for kind in cfg.kinds}
    results: dict[Kind, list[Result]] = {kind: [] for kind in cfg.kinds}
    with Progress("agents", sum(map(len, asked.values())), "question") as progress:
        for kind, own in asked.items():
            for question in own:
                results[kind].append(one(kind, question, endpoint, cfg, world))
                progress.advance(1)
                _write(folder / "agents.json", cfg, endpoint.model, results)
    print(table(results))
    say(f"agents: answers and what they cost: {folder / 'agents.json'}")
    return 0


def one(kind: Kind, question: Question, endpoint: Endpoint, cfg: AgentsConfig, world: World) -> Result:
    """One question under a budget of its own; an agent that meets a limit, or is refused, has not answered."""
    budget, text, stopped = Budget(cfg.budget), "", ""
    try:
        text = answer(kind, question, endpoint, budget, cfg, world)
    except (LimitReached, RequestRefused) as why:
        stopped = str(why)
    return Result(
        id=question.id,
        sort=question.sort.name,
        question=question.text,
        expected=question.answer,
        answer=text[:2000],
        right=not stopped and is_right(text, question.answer),
        stopped=stopped,
        calls=budget.calls,
        tokens=budget.tokens,
        seconds=round(budget.seconds, 3),
    )


def answer(kind: Kind, question: Question, endpoint: Endpoint, budget: Budget, cfg: AgentsConfig, world: World) -> str:
    """The answer of one kind of agent."""

    rule = "" if kind is Kind.plain else SHORT_RULE if cfg.short else RULE

    def ask(prompt: str) -> str:
        return endpoint.ask(prompt, budget, rule)

    def search(text: str) -> str:
        return "\n".join(f"[{p.source}] {p.text}" for p in world.index.search(str(text)[:1000]))

    def read(text: str) -> str:
        return str(sql.query(world.database, text))

    if kind is Kind.code:
        tools = {
            "search": ("Looks words up in a corpus of facts; returns passages with their sources.", search),
            "sql": (f"Runs one SELECT on a SQLite database. Tables:\n{sql.SCHEMA}", read),
        }
        return code.answer(question.text, endpoint, budget, cfg, tools)
    if kind is Kind.supervisor:
        return supervisor.answer(question.text, endpoint, budget, cfg, world.index, world.database)
    given = f"{question.text} {ALONE}"
    if question.sort is Sort.lookup and kind is not Kind.plain:
        given = f"{given}\n\n{supervisor.passages(world.index, question.text)}"
    return _PATTERNS[kind](ask, given, cfg)


def _route(ask: patterns.Ask, text: str, cfg: AgentsConfig) -> str:
    return patterns.route(
        ask,
        text,
        {
            "reckoner": lambda given: ask(f"You reckon step by step, then say the number alone.\n\n{given}"),
            "reader": lambda given: ask(f"You read the passages and say what they tell, in one word.\n\n{given}"),
        },
    )[1]


_STEPS = ["Say how to find the answer, and find it.", f"Take the answer out of this. {ALONE}"]
_PATTERNS: dict[Kind, Callable[[patterns.Ask, str, AgentsConfig], str]] = {
    Kind.plain: lambda ask, text, cfg: ask(text),
    Kind.chain: lambda ask, text, cfg: patterns.chain(ask, [f"{_STEPS[0]}\n\n{text}", _STEPS[1]], text),
    Kind.route: _route,
    Kind.orchestrate: lambda ask, text, cfg: patterns.orchestrate(ask, text),
    Kind.improve: lambda ask, text, cfg: patterns.improve(ask, text, rounds=cfg.steps),
    Kind.parallel: lambda ask, text, cfg: patterns.majority(patterns.parallel(ask, [text] * VOTES)),
}


def table(results: dict[Kind, list[Result]]) -> str:
    """One line a kind. Nothing in it is a model's text."""
    lines = [f"{'kind':12}{'right':>9}  {'score':>5}  {'stopped':>7}  {'calls':>5}  {'tokens':>7}  {'seconds':>7}"]
    for kind, own in results.items():
        right, number = sum(r.right for r in own), len(own)
        sums = f"{sum(r.calls for r in own):5}  {sum(r.tokens for r in own):7}  {sum(r.seconds for r in own):7.1f}"
        share = f"{f'{right} of {number}':>9}  {right / max(1, number):5.2f}"
        lines.append(f"{kind.name:12}{share}  {sum(bool(r.stopped) for r in own):7}  {sums}")
    return "\n".join(lines)


def _can(kind: Kind, question: Question) -> bool:
    return kind in TOOLS or question.sort is not Sort.table


def _write(path: Path, cfg: AgentsConfig, model: str, results: dict[Kind, list[Result]]) -> None:
    kinds = {
        kind.name: {
            "questions": len(own),
            "right": sum(r.right for r in own),
            "stopped": sum(bool(r.stopped) for r in own),
            "answers": [asdict(r) for r in own],
        }
        for kind, own in results.items()
    }
    write_json(path, {"url": cfg.endpoint.url, "model": model, "seed": cfg.seed, "kinds": kinds})
