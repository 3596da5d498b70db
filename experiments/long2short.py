"""`r1 long2short method=merge|rejection|dpo|rl` (K §2.4)."""

from dataclasses import replace
from pathlib import Path

from experiments import stages
from experiments.config import Config
from infra.errors import CheckpointError
from infra.progress import say
from modeling import hf_merge
from rl.long2short import Long2ShortMethod
from rl.rollout.local import LocalEngine
from rl.stages import long2short
from rl.tasks.mix import build_task
from training import parallel

NEXT = {
    Long2ShortMethod.rejection: "prompts with their shortest right answer, for SFT",
    Long2ShortMethod.dpo: "preference pairs, for DPO",
}


def run(cfg: Config) -> None:
    """`r1 long2short`."""
    folder, own = Path(cfg.run.dir), cfg.long2short
    if own.method is Long2ShortMethod.rl:
        sampling = replace(cfg.sampling, max_response_tokens=own.response_tokens)
        out = stages.zero_stage(replace(cfg, sampling=sampling), Path(own.checkpoint), folder)
        told = f"trained model: {out}"
    elif own.method is Long2ShortMethod.merge:
        parallel.init(cfg.parallel, cfg.run.seed)
        out = folder / "model"
        sources = [_model_folder(name, getattr(own, name)) for name in ("checkpoint", "short")]
        parallel.on_main(lambda: hf_merge.merge(*sources, out, own.share))
        told = f"merged model: {out}; r1 evaluate evaluate.checkpoint={out}"
    else:
        model, model_cfg, tokenizer = stages.load_model(cfg, Path(own.checkpoint))
        engine = LocalEngine(model, model_cfg, tokenizer, cfg.sampling, seed=cfg.run.seed, max_rows=cfg.rl.rollout_rows)
        out = long2short.run(engine, build_task(cfg.task, tokenizer), cfg.reward, own, folder)
        told = f"{out}: {NEXT[own.method]}; figures: {folder}/long2short.json"
    if parallel.is_main():
        say(told)


def _model_folder(key: str, given: str) -> Path:
    """The Hugging Face folder itself, or the finished model of a run. Raises CheckpointError for anything else."""
    for path in (Path(given), Path(given) / "model"):
        if (path / "config.json").exists():
            return path
    raise CheckpointError(
        f"long2short.{key}={given}: is neither a Hugging Face folder nor a finished run; write a checkpoint as one by "
        "r1 export"
    )
