"""The graph of `make r1` (R1 fig. 2 of the Nature version; §2.3, §2.4): base to distilled student, a table, a page.

    base ──> zero ─(answers)─┐
     ├──> cold_start <───────┘
     │        └──> reasoning ──> rejection (a set) ──┬──────────────┐
     ├──────────────────────────────────────> sft <──┘              │
     │                helpful, harmless <──────┤                    │
     │          (reward models) └──────────────┴─> all_scenarios    │
    student base ──────────────────────────────────────> distill <──┘
     └──> student_rl (RL alone, for contrast)

Every stage is the command of that name with the settings of its own file in conf/stage; what was typed goes to all.
Cut short, the same command goes on at the stage and step it was at. A stage whose inputs have changed is done again,
and with it those that follow; what it had made is moved aside.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments import lineage, overrides, r1_page
from experiments import stage_commands as stages
from experiments.chat import RELEASED_BASE
from experiments.config import GROUPS, Config, compose
from experiments.preferences import reward_model_stage
from experiments.reads import FOLDERS
from experiments.reproduce import Journal
from experiments.stages import OtherInputs, evaluate_model, pretrain_stage, zero_stage
from experiments.summary import write_json
from infra.hardware import peak_memory_gib
from infra.progress import say
from training import parallel

SUMMARY = "summary.json"
_OWN = ("run.dir", "run.name", "r1.", "stage", "model", "model.", *FOLDERS.values(), "sft.data", "cold_start.zero")
"Settings that a stage of the graph gets from the graph."


def run(cfg: Config, given: Sequence[str]) -> None:
    """Run or resume the graph in cfg.run.dir; every rank calls it. given: the settings as typed.

    Prints the table and writes summary.json and r1.png.
    """
    parallel.init(cfg.parallel, cfg.run.seed)
    graph = Graph(cfg, given)
    base = Path(cfg.r1.base) if cfg.r1.base else RELEASED_BASE
    graph.report("base", base, like="zero")

    zero = None
    if cfg.r1.zero:
        zero = graph.stage("zero", lambda c, folder: zero_stage(c, base, folder), start=base)
    more = [f"cold_start.zero={zero}", "cold_start.solver_share=0.5"] if zero else []
    cold = graph.stage("cold_start", lambda c, f: stages.cold_start_stage(c, base, zero, f), start=base, more=more)
    reasoning = graph.stage("reasoning", lambda c, folder: stages.reasoning_stage(c, cold, folder), start=cold)
    data = graph.stage("rejection", lambda c, f: stages.rejection_stage(c, reasoning, f), start=reasoning)
    more = [f"sft.data={data}"]
    sft = graph.stage("sft", lambda c, folder: stages.sft_stage(c, base, data, folder), start=base, more=more)
    graph.stage(
        "all_scenarios",
        lambda c, folder: stages.all_scenarios_stage(c, sft, folder),
        start=sft,
        more=_reward_models(graph, sft) if cfg.r1.preferences else (),
    )

    if cfg.r1.student:
        shape = [f"model={cfg.r1.student}", "stage=student"]
        student = graph.stage("student", pretrain_stage, command="pretrain", more=shape, like="zero")
        graph.stage(
            "distill",
            lambda c, folder: stages.sft_stage(c, student, data, folder, stage="distill"),
            start=student,
            more=more,
        )
        if cfg.r1.contrast:
            graph.stage("student_rl", lambda c, f: zero_stage(c, student, f), command="zero", start=student)
    graph.finish()


def _reward_models(graph: "Graph", start: Path) -> list[str]:
    """Train both reward models (R1 §2.3.4); -> the settings that name them."""
    given = []
    for name, reads in (("helpful", "summary"), ("harmless", "response")):
        own = [f"reward_model.reads={reads}"]
        made = graph.stage(name, reward_model_stage, command="reward_model", start=start, more=own, evaluated=False)
        given.append(f"reward.{name}={made}")
    return given


@dataclass(frozen=True, slots=True)
class Row:
    """One stage in summary.json."""

    stage: str
    seconds: float
    figures: dict[str, Any]


class Graph:
    """The stages of one run folder, each in its own: timed, evaluated, and done once for the same inputs."""

    def __init__(self, cfg: Config, given: Sequence[str]) -> None:
        self.cfg, self.folder = cfg, Path(cfg.run.dir)
        self.given = [item for item in overrides.full(given, "r1", Config, GROUPS) if not _is_own(item)]
        self.journal = Journal(self.folder / "journal.json")
        self.rows: list[Row] = []

    def stage(
        self,
        name: str,
        run: Callable[[Config, Path], Path],
        *,
        command: str = "",
        start: Path | None = None,
        more: Sequence[str] = (),
        like: str = "",
        evaluated: bool = True,
    ) -> Path:
        """Do a stage in its folder, then evaluate it; -> what it made.

        command: whose settings it takes, its own name by default; start: the model it starts from; more: settings
        beside those typed; like: the command whose reward and format it is evaluated by, by default its own.
        evaluated: whether what it made answers questions, and has a row; a reward model does not.
        """
        command, folder = command or name, self.folder / name
        cfg = self._settings(command, folder, start, more)
        try:
            with self.journal.part(name):
                made = run(cfg, folder)
        except OtherInputs as other:
            _move_aside(folder, other.id)
            self.journal.facts["seconds"][name] = 0.0
            with self.journal.part(name):
                made = run(cfg, folder)
        if not evaluated:
            return made
        if made.is_dir():
            self.report(name, made, like=like or command)
        else:
            self._report_set(name, folder)
        return made

    def report(self, name: str, model: Path, *, like: str) -> None:
        """Evaluate a model on the held-out questions, or read what was found before; a row of the summary."""
        cfg = self._settings(like, self.folder / name, model, self._data(like))
        path = self.folder / "evaluations" / f"{name}.json"
        origin, asked = lineage.of(model), [cfg.evaluate.questions, cfg.evaluate.samples, cfg.reward.summary]
        figures = parallel.broadcast_object(_read(path) if parallel.is_main() else None)
        if figures is None or (figures["id"], figures["asked"]) != (origin.id, asked):
            answers = path.with_suffix(".parquet")
            with self.journal.part("evaluate"):  # every stage is asked in the same way
                figures = evaluate_model(replace(cfg, sampling=self.cfg.sampling), model, answers)
            figures |= {"id": origin.id, "asked": asked}
            if parallel.is_main():
                figures["language_consistency"] = r1_page.language_consistency(answers)
                write_json(path, figures)
        parents = [f"{parent.stage} {parent.id}" for parent in origin.parents]
        seconds = self.journal.facts["seconds"].get(name, 0.0)
        self.rows.append(Row(name, seconds, {"parents": parents} | figures))

    def finish(self) -> None:
        """summary.json, the page, and what the user reads."""
        self.journal.memory(sum(parallel.gather_objects(peak_memory_gib())))
        if not parallel.is_main():
            return
        summary = [r1_page.entry(row.stage, row.seconds, row.figures) for row in self.rows]
        write_json(self.folder / SUMMARY, summary)
        page = r1_page.draw(self.folder, summary, self.folder / "r1.png")
        seconds = self.journal.facts["seconds"]
        print("\n" + r1_page.table(summary))
        print(f"\nSeconds: {sum(seconds.values()):.0f} in all, {seconds.get('evaluate', 0.0):.0f} of them evaluations")
        print(f"Page: {page}\nSummary: {self.folder / SUMMARY}")

    def _report_set(self, name: str, folder: Path) -> None:
        """The row of a stage that makes a set: figures of the answers it drew and kept."""
        origin = lineage.read(folder)
        figures = parallel.broadcast_object(r1_page.set_figures(folder) if parallel.is_main() else None)
        parents = [f"{parent.stage} {parent.id}" for parent in origin.parents] if origin else []
        self.rows.append(Row(name, self.journal.facts["seconds"].get(name, 0.0), {"parents": parents} | figures))

    def _settings(self, command: str, folder: Path, start: Path | None, more: Sequence[str]) -> Config:
        """What the command would be given: typed settings that it reads, its folder, its start."""
        given = [*self.given, *more, f"run.dir={folder}"]
        if start is not None:
            given.append(f"{FOLDERS[command]}={start}")
        return compose(command, given)

    def _data(self, command: str) -> list[str]:
        """sft and distill cannot do without a set, not even to say how they are evaluated."""
        return [f"sft.data={self.folder / 'rejection' / stages.DATA}"] if command in ("sft", "distill") else []


def _is_own(item: str) -> bool:
    key = item.partition("=")[0]
    return any(key == own or (own.endswith(".") and key.startswith(own)) for own in _OWN)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _move_aside(folder: Path, identity: str) -> None:
    """Keep what other inputs made, under its id."""

    def move() -> None:
        target = folder.with_name(f"{folder.name}.{identity}")
        number = 1
        while target.exists():
            number += 1
            target = folder.with_name(f"{folder.name}.{identity}.{number}")
        folder.rename(target)
        say(f"{folder.name}: its inputs have changed; what they had made is kept in {target}")

    parallel.on_main(move)
