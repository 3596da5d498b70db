"""Tests for problems without: `python -m rl.tasks.make_cases IN.jsonl OUT.jsonl` (K §2.3.5, rl/sandbox/cases.py).

A row of IN has a problem (question_content, question_id; metadata with func_name where a function is asked for), its
known solutions (a list of programs) and a generator: a program that reads a number and prints an input, for a function
one JSON argument a line. OUT gets the rows that the quorum keeps, as rl/tasks/problem_rows.py reads them, and
OUT.dropped the others with the reason. What is in either is not done again.
"""

import json
import sys
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, R1Error
from infra.progress import say
from rl.sandbox.cases import CasesConfig, Filtered, filter_problem, generate_by_program
from rl.sandbox.runner import Sandbox
from rl.tasks.problem_rows import function_of
from rl.tasks.rows import Row, column, read_file
from training.data.rows import BadRow

DROPPED = ".dropped"


def make_cases(sandbox: Sandbox, source: Path, out: Path, cfg: CasesConfig | None = None) -> tuple[int, int]:
    """Judge each problem of source that out does not hold; -> (kept, dropped) in all.

    Raises ConfigError for a row that is no problem with solutions and a generator, by file and line.
    """
    cfg = cfg or CasesConfig()
    rows = read_file(source, _parse, bad_share=0.0)
    dropped = out.with_name(out.name + DROPPED)
    done = _ids(out) | _ids(dropped)
    for number, row in enumerate(rows, 1):
        if row.id in done:
            continue
        found, why = _judge(sandbox, row.meta, cfg)
        whole = row.meta["row"]
        kept = {key: value for key, value in whole.items() if key not in ("solutions", "generator")}
        tests = {"public_test_cases": [], "private_test_cases": _tests(found, row.meta["function"])}
        _append(out if found.kept else dropped, kept | tests if found.kept else {"question_id": row.id, "why": why})
        say(f"{number} of {len(rows)}: {row.id} {'kept' if found.kept else 'dropped'}: {why}")
    return len(_ids(out)), len(_ids(dropped))


def _judge(sandbox: Sandbox, problem: dict[str, Any], cfg: CasesConfig) -> tuple[Filtered, str]:
    inputs: list[Any] = generate_by_program(sandbox, problem["generator"], cfg.inputs)
    function = problem["function"]
    if function:
        inputs = [arguments for text in inputs if (arguments := _arguments(text)) is not None]
    found = filter_problem(sandbox, inputs, problem["solutions"], cfg, function=function)
    passed = f"{found.passed} of {cfg.solutions} solutions pass them"
    if len(problem["solutions"]) < cfg.solutions:
        passed = f"there are {len(problem['solutions'])} solutions, not {cfg.solutions}"
    return found, f"{len(found.cases)} of {len(inputs)} inputs became cases; {passed}"


def _arguments(text: str) -> list[Any] | None:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        return None


def _tests(found: Filtered, function: str) -> list[dict[str, str]]:
    if not function:
        return [{"input": c.stdin, "output": c.expected, "testtype": "stdin"} for c in found.cases]
    return [
        {
            "input": "\n".join(map(json.dumps, c.arguments or ())),
            "output": json.dumps(c.expected),
            "testtype": "functional",
        }
        for c in found.cases
    ]


def _parse(row: dict) -> Row:
    name, text = column(row, "question_id", "id"), column(row, "question_content", "question", "problem")
    solutions, generator = row.get("solutions"), row.get("generator")
    if not name or not text:
        raise BadRow(f"has no {'question' if name else 'question_id'}")
    if not isinstance(solutions, list) or not all(isinstance(each, str) for each in solutions):
        raise BadRow("has no list of solutions")
    if not isinstance(generator, str) or not generator.strip():
        raise BadRow("has no generator")
    function = function_of(row) if row.get("metadata") else ""
    return Row(text, "", name, {"row": row, "solutions": solutions, "generator": generator, "function": function})


def _ids(path: Path) -> set[str]:
    """Ids in a file of ours, of which the last line may have been cut off."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = set()
    for line in lines:
        try:
            found.add(column(json.loads(line), "question_id", "id"))
        except ValueError:
            continue
    return found


def _append(path: Path, row: dict) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def main(args: list[str]) -> None:
    """Raises ConfigError where the files are not named."""
    if len(args) != 2:
        raise ConfigError("make_cases", " ".join(args), "takes two files", "give IN.jsonl OUT.jsonl")
    with Sandbox() as sandbox:
        kept, dropped = make_cases(sandbox, Path(args[0]), Path(args[1]))
    print(f"{kept} problems kept, {dropped} dropped: {args[1]}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except R1Error as error:
        sys.exit(f"make_cases: {error}")
