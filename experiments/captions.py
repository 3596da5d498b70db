"""The command captions: a language model gets eyes (Kimi k1.5, small)."""

from pathlib import Path

from experiments import lineage
from experiments.config import Config, to_dict
from experiments.stages import stage_run
from infra.progress import say
from rl.stages import captions
from training import parallel


def run(cfg: Config) -> None:
    """`r1 captions`."""
    model = captions_stage(cfg, Path(cfg.sft.checkpoint), Path(cfg.run.dir))
    if parallel.is_main():
        say(f"a model that sees: {model}; r1 zero task=countdown_image rl.checkpoint={model}")


def captions_stage(cfg: Config, start: Path, folder: Path) -> Path:
    """An encoder of images for the model in `start`, and SFT of both on captions; -> the model's folder."""
    origin = lineage.born(
        "captions",
        folder,
        seed=cfg.run.seed,
        settings={name: to_dict(getattr(cfg, name)) for name in ("captions", "corpus", "sft", "task")},
        parents=(lineage.of(start),),
    )
    with stage_run(cfg, "captions", folder, origin) as (done, tracker, config):
        if done:
            return folder / "model"
        return captions.run(
            start,
            parallel_cfg=cfg.parallel,
            task_cfg=cfg.task,
            corpus=cfg.corpus,
            captions=cfg.captions,
            cfg=cfg.sft,
            run_dir=folder,
            seed=cfg.run.seed,
            tracker=tracker,
            config=config,
            modules=cfg.model.modules,
        )
