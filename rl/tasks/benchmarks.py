"""Public sets of questions as tasks: GSM8K, SVAMP, MATH-500, AIME 2024, AMC 2023, GPQA, and mathematics of one's own.

Where task.path says nothing the set comes from the Hub; else from a .jsonl or .parquet file, or from a folder that has
the set's files: train and test in it, in a folder of the set's name, or one file of that name.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from infra.errors import ConfigError
from infra.progress import say
from rl.language import language_of
from rl.rewards.accuracy import answer_of
from rl.tasks.base import Prompter, Template, for_training, shortage
from rl.tasks.math import MAX_CHARACTERS, numbers_equal, shared_checker
from rl.tasks.problem_rows import parse_problem
from rl.tasks.rows import Row, column, read_file, read_hub
from rl.types import Question
from training.data.rows import SUFFIXES, BadRow
from training.data.split import in_test_split


def _problem(row: dict) -> Row:
    """question or problem, with answer, or with a solution that ends in a box."""
    question = column(row, "problem", "question")
    if not question:
        raise BadRow("has no question")
    answer = column(row, "answer", "final_answer", "expected_answer") or boxed(column(row, "solution"))
    if not answer:
        raise BadRow("has no answer")
    return Row(question, answer, column(row, "id", "unique_id", "question_id"))


def _gsm8k(row: dict) -> Row:
    """The answer stands behind the last ####."""
    found = _problem(row)
    _, mark, found.answer = found.answer.rpartition("####")
    found.answer = found.answer.strip()
    if not mark or not found.answer:
        raise BadRow("has no answer behind ####")
    return found


def _svamp(row: dict) -> Row:
    """A body and a question."""
    question, answer = column(row, "question"), column(row, "answer")
    if not question:
        raise BadRow("has no question")
    if not answer:
        raise BadRow("has no answer")
    body = column(row, "body")
    body += "" if not body or body.endswith((".", "?", "!")) else "."
    return Row(f"{body} {question}".strip(), answer, column(row, "id"))


def _gpqa(row: dict) -> Row:
    """Four choices in an order that the question itself decides."""
    question = column(row, "question")
    if not question:
        raise BadRow("has no question")
    right = column(row, "correct_answer")
    choices = [right, *(column(row, f"incorrect_answer_{i}") for i in (1, 2, 3))]
    if not all(choices):
        raise BadRow("has no answer" if not right else "has fewer than four choices")
    random.Random(question).shuffle(choices)
    listed = "\n".join(f"{letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    text = f"{question}\n{listed}\nThe answer is one letter."
    return Row(text, "ABCD"[choices.index(right)], column(row, "record_id", "id"))


def _letter(gold: str, answer: str) -> bool:
    """B, b, (B), B), B."""
    match = re.fullmatch(r"\(?([A-D])\)?\.?", answer.strip().upper())
    return match is not None and match[1] == gold


def _symbolic(gold: str, answer: str) -> bool:
    return len(answer) <= MAX_CHARACTERS and shared_checker().check(gold, answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One set."""

    parse: Callable[[dict], Row] = _problem
    "A row as a question. Raises BadRow."
    right: Callable[[str, str], bool] = _symbolic
    "(gold, answer) -> whether it is right. Never raises."
    hub: tuple[str, str | None] | None = None
    "Its name on the Hub, with its configuration."
    splits: tuple[str | None, str | None] = (None, "test")
    "The Hub's splits to train on and to test with."
    folders: tuple[str, ...] = ()
    "Other names of its folder or file."


BENCHMARKS = {
    "gsm8k": Benchmark(parse=_gsm8k, right=numbers_equal, hub=("openai/gsm8k", "main"), splits=("train", "test")),
    "svamp": Benchmark(parse=_svamp, right=numbers_equal, hub=("ChilleD/SVAMP", None), splits=("train", "test")),
    "math500": Benchmark(hub=("HuggingFaceH4/MATH-500", None), folders=("math_500", "math-500")),
    "aime2024": Benchmark(hub=("HuggingFaceH4/aime_2024", None), splits=(None, "train"), folders=("aime24",)),
    "amc2023": Benchmark(hub=("math-ai/amc23", None), folders=("amc23",)),
    "gpqa": Benchmark(parse=_gpqa, right=_letter, hub=("Idavidrein/gpqa", "gpqa_diamond"), splits=(None, "train")),
    "math": Benchmark(),
    "livecodebench": Benchmark(parse=parse_problem, folders=("lcb", "code_generation_lite")),  # rl/tasks/problems.py
}


def boxed(text: str) -> str:
    """What stands in the last \\boxed{...} of a solution; empty where there is none that is closed."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return ""
    depth, begin = 0, start + len(r"\boxed")
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin + 1 : at].strip()
    return ""


def same_question(question: str) -> str:
    """What two wordings of one question share: its words and marks, without case and spaces."""
    return " ".join(re.findall(r"\w+|[^\w\s]", question.lower()))


class BenchmarkTask:
    """Questions of a set. Rows are read at the first question.

    A set with a test part is tested on that, and training leaves out what stands in it; in a set without one, a tenth
    of the questions, by hash, are the tests'.
    """

    def __init__(
        self, name: str, *, path: str = "", bad_share: float = 0.0, seed: int = 0, template: Prompter = Template.short
    ) -> None:
        """Raises ConfigError where task.path has no such set, and where there is no other place to look."""
        self.name, self.path, self.bad_share, self.seed = name, path, bad_share, seed
        self.template, self.benchmark = template, BENCHMARKS[name]
        if path:
            self.files = find_files(name, Path(path).expanduser())
        elif self.benchmark.hub is None:
            raise ConfigError("task.names", name, "has no home on the Hub", "set task.path to a file or folder of it")

    def train_question(self, i: int) -> Question:
        """Question i of the training part, in an order drawn anew for each time through it."""
        rows = self._parts[0]
        if not rows:
            raise ConfigError(
                "task.names", self.name, "has tests only, nothing to train on", "leave it out of training"
            )
        epoch, at = divmod(i, len(rows))
        order = list(range(len(rows)))
        random.Random(f"{self.name}/{self.seed}/{epoch}").shuffle(order)
        row = rows[order[at]]
        held = same_question(row.question) in self._held
        return for_training(self._question(f"{self.name}/train/{i}", row), held=held)

    def test_questions(self, n: int) -> list[Question]:
        """n of the tests' questions, in an order drawn once."""
        rows = list(self._parts[1])
        random.Random(f"{self.name}/test").shuffle(rows)
        if n > len(rows):
            raise shortage(self.name, n, len(rows))
        return [self._question(f"{self.name}/test/{i}", row) for i, row in enumerate(rows[:n])]

    def score(self, question: Question, text: str) -> float:
        """1.0 where the answer is right by the set's rule."""
        answer = answer_of(text)
        if answer is None or len(answer) > MAX_CHARACTERS:
            return 0.0
        return float(self.benchmark.right(question.answer, answer))

    def prepare(self, answers: Sequence[tuple[Question, str]]) -> None:
        """Judge a batch of (question, response) by all workers at once, where it is algebra; score then remembers."""
        if self.benchmark.right is _symbolic:
            said = [(question.answer, answer_of(text) or "") for question, text in answers]
            shared_checker().check_all([pair for pair in said if len(pair[1]) <= MAX_CHARACTERS])

    def _question(self, name: str, row: Row) -> Question:
        meta = {**row.meta, "language": language_of(row.question)}
        return Question(name, self.name, self.template.prompt(row.question), row.answer, meta)

    @cached_property
    def _parts(self) -> tuple[list[Row], list[Row]]:
        """(to train on, to test with)."""
        train, test = self._read()
        if not test:
            return [r for r in train if not in_test_split(r.question)], [r for r in train if in_test_split(r.question)]
        held = {same_question(row.question) for row in test}
        kept = [row for row in train if same_question(row.question) not in held]
        if len(kept) < len(train):
            say(f"{self.name}: {len(train) - len(kept)} training questions stand in the test part and are left out")
        return kept, test

    @cached_property
    def _held(self) -> set[str]:
        return {same_question(row.question) for row in self._parts[1]}

    def _read(self) -> tuple[list[Row], list[Row]]:
        parse, share = self.benchmark.parse, self.bad_share
        if self.path:
            return tuple(read_file(file, parse, bad_share=share) if file else [] for file in self.files)
        name, config = self.benchmark.hub
        return tuple(
            read_hub(name, config, split, parse, bad_share=share) if split else [] for split in self.benchmark.splits
        )


Files = tuple[Path | None, Path | None]
"(to train on, to test with)"


def find_files(name: str, path: Path) -> Files:
    """The files of a set at task.path. Raises ConfigError where there are none.

    A single file is a test part, unless it is called train, or holds mathematics of one's own.
    """
    if path.is_file():
        return _one_file(name, path)
    if not path.is_dir():
        raise ConfigError("task.path", path, "is not there", "give a .jsonl or .parquet file, or a folder of them")
    found = files_by_name(name, path) or _parts_in(path)
    if not any(found):
        remedy = f"put it there as {name}/test.jsonl, or choose from what is there"
        raise ConfigError("task.path", path, f"holds no file of {name}", remedy)
    return found


def files_by_name(name: str, folder: Path) -> Files | None:
    """The files that a folder of many sets has under this one's name; None where it has none."""
    names = (name, *BENCHMARKS[name].folders)
    for inside in (folder / n for n in names):
        if any(_parts_in(inside)):
            return _parts_in(inside)
    single = (folder / f"{n}{suffix}" for n in names for suffix in SUFFIXES)
    return next((_one_file(name, one) for one in single if one.is_file()), None)


def _one_file(name: str, path: Path) -> Files:
    trains = path.stem == "train" or (name == "math" and path.stem != "test")
    return (path, None) if trains else (None, path)


def _parts_in(folder: Path) -> Files:
    return tuple(
        next((folder / f"{part}{suffix}" for suffix in SUFFIXES if (folder / f"{part}{suffix}").is_file()), None)
        for part in ("train", "test")
    )
