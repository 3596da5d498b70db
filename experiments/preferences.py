"""The commands reward_model and rlaif: preferences learnt, and preferences written by a judge."""

from pathlib import Path

from experiments import lineage, stages
from experiments.config import Config, to_dict
from infra.progress import say
from rl import rlaif as rlaif_module
from rl.rewards.card import read_card
from rl.rewards.judge import Judge
from rl.rollout.local import LocalEngine
from rl.stages import reward_model as reward_model_module
from rl.tasks.mix import build_task
from training import parallel
from training.data.chat import file_hash


def reward_model(cfg: Config) -> None:
    """`r1 reward_model`."""
    model = reward_model_stage(cfg, Path(cfg.run.dir))
    if parallel.is_main():
        _, card = read_card(model, "run.dir")
        share = f"{card.pair_accuracy:.3f} of {card.held_out_pairs} held-out pairs are ranked right"
        use = "helpful" if card.reads.name == "summary" else "harmless"
        say(f"reward model: {model}; {share}; r1 zero reward.{use}={cfg.run.dir}")


def reward_model_stage(cfg: Config, folder: Path) -> Path:
    """Train a reward model in `folder`; -> the model's folder. Done already: nothing is trained again."""
    pairs = Path(cfg.reward_model.pairs)
    origin = lineage.born(
        "reward_model",
        folder,
        seed=cfg.run.seed,
        settings={"reward_model": to_dict(cfg.reward_model)},
        parents=(lineage.of(Path(cfg.reward_model.checkpoint)),),
        data={pairs.name: file_hash(pairs)} if pairs.is_file() else {},
    )
    with stages.stage_run(cfg, "reward_model", folder, origin) as (done, tracker, config):
        if done:
            reward_model_module.finish(folder)
            return folder / "model"
        return reward_model_module.run(
            parallel_cfg=cfg.parallel,
            cfg=cfg.reward_model,
            run_dir=folder,
            seed=cfg.run.seed,
            tracker=tracker,
            config=config,
            modules=cfg.model.modules,
        )


def rlaif(cfg: Config) -> None:
    """`r1 rlaif`: run.dir/pairs.jsonl."""
    model, model_cfg, tokenizer = stages.load_model(cfg, Path(cfg.rlaif.checkpoint))
    judge = Judge(cfg.rlaif.judge)
    engine = LocalEngine(model, model_cfg, tokenizer, cfg.sampling, seed=cfg.run.seed, max_rows=cfg.rl.rollout_rows)
    task = build_task(cfg.task, tokenizer)
    path = rlaif_module.run(task, engine, judge, cfg.rlaif, Path(cfg.run.dir), seed=cfg.run.seed)
    if parallel.is_main():
        say(f"pairs: {path}; r1 reward_model reward_model.pairs={path}")
