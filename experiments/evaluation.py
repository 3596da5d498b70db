"""`r1 evaluate`: tasks asked one by one, thinking budgets where they are wanted; table, JSON, Parquet, figure."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from experiments import lineage
from experiments.checks import ANSWER_TOKENS
from experiments.config import Config, to_dict
from experiments.figures import draw_budgets
from experiments.summary import as_summary, budgets_table, evaluation_table, intervals, tasks_table, write_json
from infra.errors import ConfigError
from modeling.tokenizer import Tokenizer
from rl.evaluate import Evaluation, Suite, evaluate_budgets, evaluate_tasks, together, write_answers
from rl.evaluate_kept import Kept
from rl.rollout.engine import RolloutEngine
from rl.tasks.base import Task, at_most
from rl.tasks.mix import build_tasks, suite
from training import checkpoint, parallel

SO_FAR = "answers_so_far"
"Where answers are until the evaluation is done."


@dataclass(slots=True)
class Report:
    """What an evaluation found."""

    tasks: dict[str, Evaluation]
    all: Evaluation
    budgets: dict[int, dict[str, Evaluation]]
    "Empty where none was asked for."

    def to_dict(self) -> dict:
        """evaluation.json: the figures of all questions, as summary.json has them; intervals; tasks; budgets."""
        found = as_summary(self.all) | {"intervals": intervals(self.all)}
        found["tasks"] = {name: as_summary(e) | {"intervals": intervals(e)} for name, e in self.tasks.items()}
        if self.budgets:
            found["budgets"] = [_budget(budget, by_task) for budget, by_task in self.budgets.items()]
        return found

    def table(self) -> str:
        """For people."""
        scores = self.to_dict()
        parts = [evaluation_table(as_summary(self.all))]
        if len(self.tasks) > 1:
            parts.append(tasks_table(scores["tasks"], self.all.samples))
        if self.budgets:
            parts.append(budgets_table(scores["budgets"]))
        return "\n\n".join(parts)


def run(cfg: Config, engine: RolloutEngine, tokenizer: Tokenizer, folder: Path) -> Report:
    """Ask all that cfg wants and write it into `folder`; every rank calls it.

    evaluation.json, answers.parquet, and with budgets budgets/answers_<budget>.parquet, budget.json and budget.png. One
    cut short goes on, by the same command, with the answers that it has.
    """
    wanted = cfg.task if cfg.evaluate.suite is Suite.task else suite(cfg.task, cfg.evaluate.suite.name)
    tasks = build_tasks(wanted, tokenizer)
    _check_room(cfg, tasks, engine)
    ask = dict(questions=cfg.evaluate.questions, samples=cfg.evaluate.samples)
    kept = Kept(folder / SO_FAR / parallel.broadcast_object(_identity(cfg) if parallel.is_main() else None))
    found = evaluate_tasks(engine, tasks, cfg.reward, **ask, kept=kept)
    budgets = evaluate_budgets(engine, tokenizer, tasks, cfg.reward, found, cfg.evaluate.budget, kept)
    report = Report(found, together(found), budgets)

    def write() -> None:
        _write(report, tokenizer, folder)
        shutil.rmtree(folder / SO_FAR)

    parallel.on_main(write)
    return report


def _identity(cfg: Config) -> str:
    """A name for what decides the answers to a question: the weights, and how they are drawn."""
    model = lineage.fingerprint(checkpoint.resolve(Path(cfg.evaluate.checkpoint)))
    decides = [model, to_dict(cfg.sampling), cfg.evaluate.samples, cfg.model.modules.name]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def _check_room(cfg: Config, tasks: list[Task], engine: RolloutEngine) -> None:
    """Raise ConfigError, before anything is asked, for a task with a question that the network cannot read whole."""
    context = cfg.model.max_position_embeddings
    for task in tasks:
        longest = max(len(engine.prompt_ids(q)) for q in at_most(task, cfg.evaluate.questions))
        if longest + ANSWER_TOKENS > context:
            problem = f"has a question of {longest} tokens, and the network reads {context}, its answer included"
            remedy = "leave it out of task.names (or its files out of task.path), or take a model that reads more"
            raise ConfigError("task.names", task.name, problem, remedy)


def _write(report: Report, tokenizer: Tokenizer, folder: Path) -> None:
    scores = report.to_dict()
    write_json(folder / "evaluation.json", scores)
    write_answers(folder / "answers.parquet", report.all, 0, tokenizer)
    for budget, by_task in report.budgets.items():
        write_answers(folder / "budgets" / f"answers_{budget}.parquet", together(by_task), 0, tokenizer)
    if report.budgets:
        write_json(folder / "budget.json", {"points": scores["budgets"], "free": as_summary(report.all)})
        draw_budgets(scores["budgets"], as_summary(report.all), folder / "budget.png")


def _budget(budget: int, by_task: dict[str, Evaluation]) -> dict:
    """One point of the curve, with its tasks'."""
    every = together(by_task)
    point = {"budget": budget, **as_summary(every), "intervals": intervals(every)}
    return point | {"tasks": {name: as_summary(evaluation) for name, evaluation in by_task.items()}}
