"""Long2short (K §2.4) by sampling: a long model's answers become SFT rows or preference pairs. Resumable.

Merging is modeling/hf_merge.py; long2short RL is zero's loop with reward.length and a lower limit.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.errors import R1Error
from infra.files import read_json, write_json
from infra.progress import Progress
from rl.long2short import Answer, Long2ShortConfig, Long2ShortMethod, pair_rows, sft_rows, shortest_right
from rl.rewards.base import RewardConfig, score_groups
from rl.rollout.engine import RolloutEngine
from rl.tasks.base import Task
from rl.types import Group
from training import parallel

CHUNK = 32
"Questions that are asked at once; what is asked is kept."
FILES = {Long2ShortMethod.rejection: "sft.jsonl", Long2ShortMethod.dpo: "pairs.jsonl"}

Asked = list[tuple[str, list[Answer]]]


def run(engine: RolloutEngine, task: Task, reward: RewardConfig, cfg: Long2ShortConfig, run_dir: Path) -> Path:
    """Ask cfg.questions training questions; -> run_dir/sft.jsonl {prompt, response} or run_dir/pairs.jsonl
    {prompt, chosen, rejected}, a line each, with counts and lengths in run_dir/long2short.json.

    Every rank calls it. A run cut short keeps the chunks it has. Raises R1Error where no row comes out.
    """
    asked = sample(engine, task, reward, cfg, run_dir / "answers")
    rows = sft_rows(asked) if cfg.method is Long2ShortMethod.rejection else pair_rows(asked, cfg.longer)
    path = run_dir / FILES[cfg.method]
    if not rows:
        raise R1Error(
            f"{path}: not one of {len(asked)} questions gave a row; set more long2short.questions and samples, "
            "or start from a model that answers some right"
        )

    def write() -> None:
        _write_lines(path, rows)
        write_json(run_dir / "long2short.json", figures(asked) | {"rows": len(rows)})

    parallel.on_main(write)
    return path


def sample(engine: RolloutEngine, task: Task, reward: RewardConfig, cfg: Long2ShortConfig, folder: Path) -> Asked:
    """(prompt, answers) of training questions 0 to cfg.questions; those of finished chunks are read from folder."""
    parallel.on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    asked: Asked = []
    with Progress("samples", cfg.questions, "question") as progress:
        for start in range(0, cfg.questions, CHUNK):
            count = min(CHUNK, cfg.questions - start)
            path = folder / f"{start:07d}_{count}x{cfg.samples}.json"
            stored = parallel.broadcast_object(read_json(path) if parallel.is_main() else None)
            if not stored:
                questions = [task.train_question(start + i) for i in range(count)]
                answers = engine.generate(questions, cfg.samples, step=0)
                groups = [Group(question=q, completions=c) for q, c in zip(questions, answers, strict=True)]
                score_groups(groups, task, reward)
                stored = {"asked": [[group.question.prompt, _answers(group)] for group in groups]}
                parallel.on_main(lambda path=path, stored=stored: write_json(path, stored))
            asked += [(prompt, [Answer(**answer) for answer in answers]) for prompt, answers in stored["asked"]]
            progress.advance(count, right=figures(asked)["right"])
    return asked


def _answers(group: Group) -> list[dict[str, Any]]:
    """In plain types. What a limit cut is not right, whatever it says."""
    return [
        asdict(Answer(c.text, len(c.tokens), right=c.stopped and c.breakdown["accuracy"] == 1.0))
        for c in group.completions
    ]


def figures(asked: Asked) -> dict[str, float]:
    """Questions, the share that has a right answer, the share of right answers; tokens of right ones and of the
    shortest right ones, over the questions that have one."""
    answers = [answer for _, group in asked for answer in group]
    solved = [[a.tokens for a in group if a.right] for _, group in asked if shortest_right(group)]
    found = {
        "questions": len(asked),
        "solved": len(solved) / len(asked),
        "right": sum(answer.right for answer in answers) / len(answers),
    }
    if solved:
        found["tokens_of_right"] = sum(sum(tokens) / len(tokens) for tokens in solved) / len(solved)
        found["tokens_of_shortest"] = sum(map(min, solved)) / len(solved)
    return found


def _write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """JSON lines, whole or not there."""
    scratch = path.with_suffix(".tmp")
    with open(scratch, "w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(scratch, path)
