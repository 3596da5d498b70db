"""The commands pretrain, zero, ppo, dpo and evaluate: config -> run folder, tracker -> stage."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from experiments import evaluation, forecast, lineage
from experiments.config import Config, to_dict
from experiments.figures import draw
from experiments.lineage import Lineage
from experiments.summary import as_summary
from infra.errors import ConfigError
from infra.files import read_json
from infra.hardware import peak_memory_gib
from infra.progress import say
from infra.stopping import Stopped
from infra.tracking import Tracker
from modeling.config import ModelConfig
from modeling.tokenizer import Tokenizer
from rl.evaluate import evaluate as evaluate_groups
from rl.evaluate import write_answers
from rl.rollout.local import LocalEngine
from rl.stages import dpo as dpo_module
from rl.stages import zero as zero_module
from rl.tasks.mix import build_task
from training import checkpoint, parallel
from training import pretrain as pretrain_module
from training.data.chat import file_hash
from training.data.corpus import corpus_hash
from training.whole import build_whole


def pretrain(cfg: Config) -> None:
    """`r1 pretrain`."""
    model = pretrain_stage(cfg, Path(cfg.run.dir))
    if parallel.is_main():
        say(f"base model: {model}")


def zero(cfg: Config) -> None:
    """`r1 zero`."""
    model = zero_stage(cfg, Path(cfg.rl.checkpoint), Path(cfg.run.dir))
    if parallel.is_main():
        _say_how_it_came(Path(cfg.run.dir))
        say(f"trained model: {model}; figures: {cfg.run.dir}/figures; r1 evaluate evaluate.checkpoint={cfg.run.dir}")


def ppo(cfg: Config) -> None:
    """`r1 ppo`."""
    model = zero_stage(cfg, Path(cfg.rl.checkpoint), Path(cfg.run.dir), stage="ppo")
    if parallel.is_main():
        _say_how_it_came(Path(cfg.run.dir))
        say(f"trained model: {model}; figures: {cfg.run.dir}/figures; r1 evaluate evaluate.checkpoint={cfg.run.dir}")


def dpo(cfg: Config) -> None:
    """`r1 dpo`."""
    model = dpo_stage(cfg, Path(cfg.dpo.checkpoint), Path(cfg.run.dir))
    if parallel.is_main():
        say(f"trained model: {model}; r1 evaluate evaluate.checkpoint={cfg.run.dir}")


def evaluate(cfg: Config) -> None:
    """`r1 evaluate`: a table, or JSON; what is written into run.dir, experiments/evaluation.py says."""
    engine, tokenizer = _engine(cfg, Path(cfg.evaluate.checkpoint))
    report = evaluation.run(cfg, engine, tokenizer, Path(cfg.run.dir))
    if parallel.is_main():
        print(json.dumps(report.to_dict(), indent=1) if cfg.evaluate.json else report.table())


def pretrain_stage(cfg: Config, folder: Path) -> Path:
    """Pre-train in `folder`; -> the model's folder. Done already: nothing is trained again."""
    before = (lineage.of(Path(cfg.pretrain.checkpoint)),) if cfg.pretrain.checkpoint else ()
    origin = lineage.born(
        "pretrain",
        folder,
        seed=cfg.run.seed,
        settings={name: to_dict(getattr(cfg, name)) for name in ("model", "corpus", "pretrain")},
        parents=before,
        data={"corpus": corpus_hash(cfg.corpus, cfg.run.seed)},
    )
    with stage_run(cfg, "pretrain", folder, origin) as (done, tracker, config):
        if done:
            return folder / "model"
        return pretrain_module.run(
            model_cfg=cfg.model,
            parallel_cfg=cfg.parallel,
            corpus=cfg.corpus,
            cfg=cfg.pretrain,
            run_dir=folder,
            seed=cfg.run.seed,
            tracker=tracker,
            config=config,
        )


def zero_stage(cfg: Config, base: Path, folder: Path, base_scores: dict | None = None, *, stage: str = "zero") -> Path:
    """R1-Zero from `base` in `folder`; -> the model's folder. Done already: nothing is trained again.

    stage: its name, where rl.objective makes another of it.
    Its figures are drawn into folder/figures and logged; base_scores: the base's evaluation, drawn beside.
    """
    origin = lineage.born(
        stage,
        folder,
        seed=cfg.run.seed,
        settings={name: to_dict(getattr(cfg, name)) for name in ("rl", "task", "reward", "sampling")},
        parents=(lineage.of(base),),
    )
    with stage_run(cfg, stage, folder, origin) as (done, tracker, config):
        model = folder / "model"
        if not done:
            model = zero_module.run(
                base,
                parallel_cfg=cfg.parallel,
                task_cfg=cfg.task,
                reward=cfg.reward,
                sampling=cfg.sampling,
                evaluation=cfg.evaluate,
                cfg=cfg.rl,
                fp8=cfg.model.fp8,
                run_dir=folder,
                seed=cfg.run.seed,
                tracker=forecast.FirstSteps(tracker, cfg, folder, parallel.world()),
                config=config,
                modules=cfg.model.modules,
                stage=stage,
            )
            if parallel.is_main():
                forecast.compare(folder, peak_memory_gib())
        if parallel.is_main() and not (folder / "figures" / "reflection.png").exists():  # the one drawn last
            for figure in draw(folder, folder / "figures", task=cfg.task.label, base=base_scores):
                tracker.artifact(figure)
        return model


def _say_how_it_came(folder: Path) -> None:
    """The forecast beside what came, where there was one."""
    found = read_json(folder / forecast.CHECK)
    if found:
        print(forecast.compare_table(found))


def dpo_stage(cfg: Config, base: Path, folder: Path, *, stage: str = "dpo") -> Path:
    """DPO from `base` in `folder` on cfg.dpo.data; -> the model's folder. Done already: nothing is trained again."""
    data = Path(cfg.dpo.data)
    made_by = lineage.read(data)
    origin = lineage.born(
        stage,
        folder,
        seed=cfg.run.seed,
        settings={"dpo": to_dict(cfg.dpo)},
        parents=(lineage.of(base), *((made_by,) if made_by else ())),
        data={data.name: file_hash(data)} if data.is_file() else {},
    )
    with stage_run(cfg, stage, folder, origin) as (done, tracker, config):
        if done:
            return folder / "model"
        return dpo_module.run(
            base,
            parallel_cfg=cfg.parallel,
            task_cfg=cfg.task,
            reward=cfg.reward,
            sampling=cfg.sampling,
            evaluation=cfg.evaluate,
            cfg=cfg.dpo,
            fp8=cfg.model.fp8,
            run_dir=folder,
            seed=cfg.run.seed,
            tracker=tracker,
            config=config,
            modules=cfg.model.modules,
        )


class OtherInputs(ConfigError):
    """A folder holds the work of a stage on other inputs than those that are given now."""

    def __init__(self, there: Lineage, now: Lineage, folder: Path) -> None:
        problem = f"holds a {there.stage} made from other inputs or settings (id {there.id}, now {now.id})"
        super().__init__("run.dir", folder, problem, "choose another run.dir")
        self.id = there.id


@contextmanager
def stage_run(
    cfg: Config, stage: str, folder: Path, origin: Lineage | None = None, *, product: str = "model/config.json"
) -> Iterator[tuple[bool, Tracker, dict[str, Any]]]:
    """Seeds and tracker of a stage -> (whether it is done, tracker, config); what became of it ends the tracker.

    config.yaml is the command line's. origin: written beside the checkpoints, and in the end beside the model.
    product: the file that is there when the stage is done. Raises OtherInputs where the folder holds the work of the
    same stage on other parents or data, or, once it is done, with other settings.
    """
    parallel.init(cfg.parallel, cfg.run.seed)
    config = to_dict(cfg)
    done = parallel.broadcast_object((folder / product).exists())
    if origin is not None:
        # Rank 0 looks for all: another might look when it has written already, and go another way.
        there = parallel.broadcast_object(lineage.read(folder) if parallel.is_main() and folder.is_dir() else None)
        if there is not None and there.id != origin.id and (done or there.sources != origin.sources):
            raise OtherInputs(there, origin, folder)
        if there is None or there.id != origin.id:
            parallel.on_main(lambda: origin.keep(folder))
    tracker = Tracker(
        folder,
        experiment=cfg.tracking.experiment,
        name=cfg.run.name or str(folder),
        config=config,
        uri=(cfg.tracking.uri or None) if cfg.tracking.enabled else None,
        seed=cfg.run.seed,
        tags={"stage": stage, "scale": cfg.scale, "task": cfg.task.label} | (origin.tags() if origin else {}),
        enabled=not done and parallel.is_main(),
    )
    try:
        yield done, tracker, config
    except SystemExit:  # told to stop: the loop has saved, and finished the tracker
        raise
    except Stopped:
        tracker.finish("KILLED")
        raise
    except BaseException:
        tracker.finish("FAILED")
        raise
    if origin is not None and product.startswith("model/") and not done:
        parallel.on_main(lambda: origin.keep(folder / "model"))
    tracker.finish()


def evaluate_model(cfg: Config, path: Path, answers: Path | None = None) -> dict:
    """Ask the held-out questions; -> the figures as summary.json holds them. Answers are kept where `answers` says."""
    engine, tokenizer = _engine(cfg, path)
    ask = dict(questions=cfg.evaluate.questions, samples=cfg.evaluate.samples)
    result = evaluate_groups(engine, build_task(cfg.task, tokenizer), cfg.reward, **ask)
    if answers is not None:
        parallel.on_main(lambda: write_answers(answers, result, 0, tokenizer))
    return as_summary(result)


def _engine(cfg: Config, path: Path) -> tuple[LocalEngine, Tokenizer]:
    """What writes a model's answers; the same seeds for every model."""
    model, model_cfg, tokenizer = load_model(cfg, path)
    return LocalEngine(model, model_cfg, tokenizer, cfg.sampling, seed=0, max_rows=cfg.rl.rollout_rows), tokenizer


def load_model(cfg: Config, path: Path) -> tuple[nn.Module, ModelConfig, Tokenizer]:
    """-> (bare network in evaluation mode, its shape, its tokenizer), from a run, a checkpoint or an HF folder.

    The network is whole on every rank, whatever layout the checkpoint had or cfg has. Every rank calls it.
    """
    parallel.init(cfg.parallel, cfg.run.seed)
    found = checkpoint.resolve(path)
    model_cfg, tokenizer = checkpoint.model_config(found, cfg.model.modules), Tokenizer.load(found)
    model = build_whole(model_cfg)
    checkpoint.load_weights(model, model_cfg, found)
    return model.eval(), model_cfg, tokenizer
