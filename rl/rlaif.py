"""RLAIF: preference pairs from a judge by a written list of principles (Constitutional AI, Bai et al. 2022, §4).

For each pair of answers one principle is drawn. The judge is asked twice, with the answers in either order, and a pair
counts only where it says the same both times: judges favour a place. Departs from there: the judge's choice in words,
not its probabilities, and no principle has examples.
"""

import json
import random
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from infra.errors import ConfigError, R1Error
from infra.progress import Progress, say
from rl.rewards.judge import Judge
from rl.rewards.verdict import Choice, choice_of, comparison_prompt
from rl.rlaif_config import RLAIFConfig
from rl.rollout.engine import RolloutEngine
from rl.tasks.base import Task
from rl.types import Question
from training import parallel
from training.data.pairs import Pair, write_pairs

PRINCIPLES = Path(__file__).with_name("principles.txt")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two different answers to a question, and the principle they are compared by."""

    question_id: str
    prompt: str
    first: str
    second: str
    principle: str


@dataclass(slots=True)
class Tally:
    """What became of the comparisons."""

    compared: int = 0
    kept: int = 0
    inconsistent: int = 0
    "The judge chose the same place in either order."
    unread: int = 0
    "A verdict named no answer."

    def __str__(self) -> str:
        return (
            f"{self.kept} pairs of {self.compared} comparisons; {self.inconsistent} inconsistent, {self.unread} unread"
        )


def run(task: Task, engine: RolloutEngine, judge: Judge, cfg: RLAIFConfig, run_dir: Path, *, seed: int) -> Path:
    """-> run_dir/pairs.jsonl, for r1 dpo and r1 reward_model. Every rank calls it.

    Answers are kept by chunk in run_dir/answers and verdicts in the judge's cache: the same command goes on where it
    was. Raises R1Error where the judge is down, cannot be understood, or leaves no pair.
    """
    principles = read_principles(Path(cfg.principles) if cfg.principles else PRINCIPLES)
    tally, pairs, notes = Tally(), [], []
    with Progress("rlaif", cfg.questions, "question") as progress:
        for start in range(0, cfg.questions, cfg.questions_per_chunk):
            asked = [task.train_question(i) for i in range(start, min(start + cfg.questions_per_chunk, cfg.questions))]
            answers = _answers(engine, asked, cfg, run_dir / "answers" / f"chunk_{start:06d}.json", seed)
            compared = comparisons(asked, answers, principles, cfg.pairs_per_question, seed=seed)
            chosen = compare(judge, compared, tally)
            for comparison, choice in zip(compared, chosen, strict=True):
                if choice is not None:
                    pairs.append(_pair(comparison, choice))
                    notes.append({"principle": comparison.principle, "question_id": comparison.question_id})
            progress.advance(len(asked))
    if parallel.is_main():
        say(f"rlaif: {tally}")
    if not pairs:
        raise R1Error(f"rlaif: {tally}; take another judge, more questions or a higher sampling.temperature")
    path = run_dir / "pairs.jsonl"
    parallel.on_main(lambda: _write(path, pairs, notes, tally))
    return path


def read_principles(path: Path) -> list[str]:
    """The lines of a file, empty ones and those with # left out. Raises ConfigError where there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("rlaif.principles", path, f"cannot be read ({error})", "give a text file") from None
    principles = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not principles:
        raise ConfigError("rlaif.principles", path, "holds no principle", "write one a line")
    return principles


def comparisons(
    questions: list[Question], answers: list[list[str]], principles: list[str], count: int, *, seed: int
) -> list[Comparison]:
    """At most `count` pairs of different answers to each question, a principle each; drawn by question and seed."""
    found = []
    for question, texts in zip(questions, answers, strict=True):
        rng = random.Random(f"rlaif/{seed}/{question.id}")
        pairs = list(combinations([text for text in dict.fromkeys(texts) if text.strip()], 2))
        for first, second in rng.sample(pairs, min(count, len(pairs))):
            found.append(Comparison(question.id, question.prompt, first, second, rng.choice(principles)))
    return found


def compare(judge: Judge, compared: list[Comparison], tally: Tally) -> list[Choice | None]:
    """The better answer of each comparison; None where the judge cannot be read, or its choice hangs on the order."""
    there = [comparison_prompt(c.principle, c.prompt, c.first, c.second) for c in compared]
    back = [comparison_prompt(c.principle, c.prompt, c.second, c.first) for c in compared]
    verdicts = judge.ask(there + back)
    choices = [choice_of(verdict) for verdict in verdicts]
    judge.check_read(verdicts, sum(choice is None for choice in choices))
    kept: list[Choice | None] = []
    for one, other in zip(choices[: len(there)], choices[len(there) :], strict=True):
        read = one is not None and other is not None
        consistent = read and one is not other
        tally.compared += 1
        tally.kept += consistent
        tally.unread += not read
        tally.inconsistent += read and not consistent
        kept.append(one if consistent else None)
    return kept


def _answers(engine: RolloutEngine, asked: list[Question], cfg: RLAIFConfig, path: Path, seed: int) -> list[list[str]]:
    """The texts of a chunk, written once. Raises R1Error where the file holds answers to other questions."""
    known = parallel.broadcast_object(json.loads(path.read_text()) if path.exists() else None)
    key = {"questions": [q.id for q in asked], "samples": cfg.samples, "seed": seed}
    if known is not None and known["key"] != key:
        raise R1Error(f"{path}: holds answers to other questions; choose another run.dir")
    if known is None:
        groups = engine.generate(asked, cfg.samples, step=0)
        known = {"key": key, "answers": [[c.text for c in group] for group in groups]}

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(".tmp")
            scratch.write_text(json.dumps(known, ensure_ascii=False))
            scratch.replace(path)

        parallel.on_main(write)
    return known["answers"]


def _pair(comparison: Comparison, choice: Choice) -> Pair:
    texts = (comparison.first, comparison.second)
    return Pair(comparison.prompt, *(texts if choice is Choice.first else texts[::-1]))


def _write(path: Path, pairs: list[Pair], notes: list[dict], tally: Tally) -> None:
    write_pairs(path, pairs, notes)
    path.with_name("rlaif.json").write_text(json.dumps(asdict(tally), indent=1) + "\n")
