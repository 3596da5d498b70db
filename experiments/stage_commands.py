"""The commands cold_start, reasoning, rejection, sft, all_scenarios and distill: R1 after R1-Zero (R1 §2.3, §2.4).

Each `<name>_stage(cfg, parents..., folder)` takes checkpoints and gives one, with its lineage; what is done already is
not done again. `r1 r1` runs them in order (experiments/r1_graph.py).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import lineage
from experiments.config import Config, to_dict
from experiments.lineage import Lineage
from experiments.stages import stage_run
from experiments.summary import write_json
from infra.progress import say
from modeling.tokenizer import Tokenizer
from rl.stages import all_scenarios as all_scenarios_module
from rl.stages import cold_start as cold_start_module
from rl.stages import reasoning as reasoning_module
from rl.stages import rejection as rejection_module
from rl.stages.sampling import Sampler
from rl.tasks.base import Task, prompter
from rl.tasks.mix import build_task
from training import checkpoint, distill, parallel
from training import sft as sft_module
from training.data import chat

DATA = "data.parquet"


def cold_start(cfg: Config) -> None:
    """`r1 cold_start`."""
    _done(cold_start_stage(cfg, Path(cfg.sft.checkpoint), _optional(cfg.cold_start.zero), Path(cfg.run.dir)))


def reasoning(cfg: Config) -> None:
    """`r1 reasoning`."""
    _done(reasoning_stage(cfg, Path(cfg.rl.checkpoint), Path(cfg.run.dir)))


def rejection(cfg: Config) -> None:
    """`r1 rejection`."""
    data = rejection_stage(cfg, Path(cfg.rl.checkpoint), Path(cfg.run.dir))
    if parallel.is_main():
        say(f"set: {data}; r1 sft sft.checkpoint=BASE sft.data={data}")


def sft(cfg: Config) -> None:
    """`r1 sft`."""
    _done(sft_stage(cfg, Path(cfg.sft.checkpoint), Path(cfg.sft.data), Path(cfg.run.dir)))


def all_scenarios(cfg: Config) -> None:
    """`r1 all_scenarios`."""
    _done(all_scenarios_stage(cfg, Path(cfg.rl.checkpoint), Path(cfg.run.dir)))


def distillation(cfg: Config) -> None:
    """`r1 distill`."""
    _done(sft_stage(cfg, Path(cfg.sft.checkpoint), Path(cfg.sft.data), Path(cfg.run.dir), stage="distill"))


def _done(model: Path) -> None:
    if parallel.is_main():
        evaluate = f"r1 evaluate evaluate.checkpoint={model} reward.summary=true"
        say(f"trained model: {model}; {evaluate}; r1 lineage checkpoint={model}")


def _optional(path: str) -> Path | None:
    return Path(path) if path else None


def cold_start_stage(cfg: Config, base: Path, zero: Path | None, folder: Path) -> Path:
    """The cold start's set, then SFT of the base on it; -> the model's folder."""
    parents = (lineage.require("cold_start", "sft.checkpoint", base),)
    parents += (lineage.require("cold_start", "cold_start.zero", zero, ("zero",)),) if zero else ()
    origin = lineage.born(
        "cold_start",
        folder,
        seed=cfg.run.seed,
        settings=_settings(cfg, "cold_start", "filter", "sft", "task", *(("sampling",) if zero else ())),
        parents=parents,
    )
    with stage_run(cfg, "cold_start", folder, origin) as (done, tracker, config):
        if done:
            return folder / "model"
        data = folder / DATA
        if not parallel.broadcast_object(data.exists()):
            _cold_start_set(cfg, base, zero, folder)
        return sft_module.run(base, data, **_sft(cfg, "cold_start", folder, tracker, config))


def _cold_start_set(cfg: Config, base: Path, zero: Path | None, folder: Path) -> None:
    """Write folder/data.parquet: R1-Zero's part first, the solver fills up."""
    task = _task(cfg, base)
    wanted = cfg.cold_start.examples
    rows, counts = [], {}
    if zero is not None:
        share = round(wanted * (1 - cfg.cold_start.solver_share))
        questions = [task.train_question(cfg.rejection.first_question + i) for i in range(share + share // 2)]
        sampler = _sampler(cfg, zero, folder / "sampled", summary=False)
        answers = sampler.answers("zero", questions, cfg.cold_start.samples, task, chunk=cfg.rejection.chunk)
        sampler.close()
        rows, counts = cold_start_module.zero_rows(questions, answers, cfg.filter, share)
    rows += cold_start_module.solver_rows(cfg.cold_start, task, wanted - len(rows), seed=cfg.run.seed)
    _keep_set(cfg, task, rows, folder, {"zero": counts, "solver": sum(row["source"] == "solver" for row in rows)})


def reasoning_stage(cfg: Config, start: Path, folder: Path) -> Path:
    """Reasoning RL from the cold start; -> the model's folder."""
    reasoning_module.check(cfg.reward)
    origin = _rl_origin(cfg, "reasoning", start, folder)
    with stage_run(cfg, "reasoning", folder, origin) as (done, tracker, config):
        return folder / "model" if done else reasoning_module.run(start, **_rl(cfg, folder, tracker, config))


def all_scenarios_stage(cfg: Config, start: Path, folder: Path) -> Path:
    """RL for all scenarios from the SFT of stage 3; -> the model's folder."""
    origin = _rl_origin(cfg, "all_scenarios", start, folder, "all_scenarios")
    with stage_run(cfg, "all_scenarios", folder, origin) as (done, tracker, config):
        if done:
            return folder / "model"
        make_task = all_scenarios_module.tasks(cfg.all_scenarios, cfg.rl)
        return all_scenarios_module.run(start, **_rl(cfg, folder, tracker, config), make_task=make_task)


def rejection_stage(cfg: Config, start: Path, folder: Path) -> Path:
    """The set of R1 §2.3.3, sampled from the model in `start`; -> folder/data.parquet, with its counts beside it."""
    origin = lineage.born(
        "rejection",
        folder,
        seed=cfg.run.seed,
        settings=_settings(cfg, "rejection", "filter", "task", "reward", "sampling"),
        parents=(lineage.require("rejection", "rl.checkpoint", start),),
    )
    with stage_run(cfg, "rejection", folder, origin, product=DATA) as (done, _, _):
        if not done:
            _rejection_set(cfg, start, folder)
        return folder / DATA


def _rejection_set(cfg: Config, start: Path, folder: Path) -> None:
    own, template = cfg.rejection, prompter(cfg.task.template, _tokenizer(start))
    task = _task(cfg, start)
    sampler = _sampler(cfg, start, folder / "sampled", summary=True)
    questions = [task.train_question(own.first_question + i) for i in range(own.questions)]
    answers = sampler.answers("reasoning", questions, own.samples, task, chunk=own.chunk)
    reasoning_rows, counts = rejection_module.reasoning_rows(questions, answers, own, cfg.filter, template)
    general_rows: list[dict[str, Any]] = []
    told: dict[str, Any] = {"reasoning": counts}
    if own.general:
        general = build_task(replace(cfg.task, names=own.general, weights=[]), _tokenizer(start))
        asked = [general.train_question(i) for i in range(own.general_questions)]
        written: list[list[Any]] = [[] for _ in asked]
        if own.general_samples:
            written = sampler.answers("general", asked, own.general_samples, general, chunk=own.chunk)
        general_rows, told["general"] = rejection_module.general_rows(asked, written, own, cfg.filter, template)
    sampler.close()
    ratio = own.reasoning_per_general
    rows = rejection_module.mixture(
        reasoning_rows, general_rows, ratio, seed=cfg.run.seed, only_reasoning=not own.general
    )
    told["right"] = [sum(s.accuracy for s in row) / len(row) for row in answers]
    _keep_set(cfg, task, rows, folder, told)


def sft_stage(cfg: Config, start: Path, data: Path, folder: Path, stage: str = "sft") -> Path:
    """Supervised fine-tuning of `start` on the conversations in `data`; -> the model's folder.

    stage: sft or distill.
    """
    parents = (lineage.require(stage, "sft.checkpoint", start),)
    made_by = lineage.read(data)
    origin = lineage.born(
        stage,
        folder,
        seed=cfg.run.seed,
        settings=_settings(cfg, "sft"),
        parents=(*parents, *((made_by,) if made_by else ())),
        data={data.name: chat.file_hash(data)} if data.is_file() else {},
    )
    with stage_run(cfg, stage, folder, origin) as (done, tracker, config):
        if done:
            return folder / "model"
        run = distill.run if stage == "distill" else sft_module.run
        held_out = _held_out(cfg, _task(cfg, start))
        template = prompter(cfg.task.template, _tokenizer(start))
        asked = [rejection_module.question_in(prompt, template) for prompt in held_out]
        own = _sft(cfg, stage, folder, tracker, config)
        return run(start, data, **own, held_out=[*held_out, *asked], test_questions=asked)


def _keep_set(cfg: Config, task: Task, rows: list[dict[str, Any]], folder: Path, counts: dict[str, Any]) -> None:
    """Write a set and what was counted on the way. Raises R1Error where a test question is in it."""
    chat.refuse_held_out(rows, _held_out(cfg, task))

    def write() -> None:
        write_json(folder / "counts.json", counts | {"rows": len(rows)})
        chat.write(folder / DATA, rows)

    parallel.on_main(write)


def _held_out(cfg: Config, task: Task) -> list[str]:
    """The prompts that evaluation asks."""
    return [question.prompt for question in task.test_questions(cfg.evaluate.questions)]


def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.load(checkpoint.resolve(path))


def _task(cfg: Config, path: Path) -> Task:
    return build_task(cfg.task, _tokenizer(path))


def _sampler(cfg: Config, start: Path, folder: Path, *, summary: bool) -> Sampler:
    """Asks the model in `start`; its answers are judged in the format of its stage."""
    return Sampler(
        start=start,
        cfg=cfg.rl,
        parallel_cfg=cfg.parallel,
        sampling=cfg.sampling,
        reward=replace(cfg.reward, summary=summary),
        folder=folder,
        seed=cfg.run.seed,
        modules=cfg.model.modules,
    )


def _rl_origin(cfg: Config, stage: str, start: Path, folder: Path, *more: str) -> Lineage:
    models = [Path(folder) for folder in (cfg.reward.helpful, cfg.reward.harmless) if folder]
    return lineage.born(
        stage,
        folder,
        seed=cfg.run.seed,
        settings=_settings(cfg, "rl", "task", "reward", "sampling", *more),
        parents=(lineage.require(stage, "rl.checkpoint", start), *map(lineage.of, models)),
    )


def _settings(cfg: Config, *sections: str) -> dict[str, Any]:
    return {name: to_dict(getattr(cfg, name)) for name in sections}


def _rl(cfg: Config, folder: Path, tracker: Any, config: dict[str, Any]) -> dict[str, Any]:
    """What zero.run takes besides the model."""
    return dict(
        parallel_cfg=cfg.parallel,
        task_cfg=cfg.task,
        reward=cfg.reward,
        sampling=cfg.sampling,
        evaluation=cfg.evaluate,
        cfg=cfg.rl,
        fp8=cfg.model.fp8,
        modules=cfg.model.modules,
        run_dir=folder,
        seed=cfg.run.seed,
        tracker=tracker,
        config=config,
    )


def _sft(cfg: Config, stage: str, folder: Path, tracker: Any, config: dict[str, Any]) -> dict[str, Any]:
    """What sft.run takes besides model and data."""
    return dict(
        parallel_cfg=cfg.parallel,
        cfg=cfg.sft,
        run_dir=folder,
        seed=cfg.run.seed,
        tracker=tracker,
        config=config,
        stage=stage,
        modules=cfg.model.modules,
        fp8=cfg.model.fp8,
    )


RUNS: dict[str, Callable[[Config], None]] = {
    "cold_start": cold_start,
    "reasoning": reasoning,
    "rejection": rejection,
    "sft": sft,
    "all_scenarios": all_scenarios,
    "distill": distillation,
}
