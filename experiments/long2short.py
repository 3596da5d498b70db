"""`r1 long2short method=merge|rejection|dpo|rl` (K §2.4): each gives a model that thinks shorter, with its lineage.

rejection and dpo first make a set in run.dir/set, a parent of the model that is then trained on it.
"""

from dataclasses import replace
from pathlib import Path

from experiments import lineage, stages
from experiments.config import Config, to_dict
from experiments.stage_commands import sft_stage
from infra.errors import CheckpointError
from infra.files import read_json
from infra.progress import say
from modeling import hf_merge
from rl.long2short import Long2ShortMethod
from rl.rollout.local import LocalEngine
from rl.stages import long2short
from rl.tasks.mix import build_task
from training import parallel

STAGE = "long2short"
_DECIDES = {
    Long2ShortMethod.merge: ("method", "share"),
    Long2ShortMethod.rejection: ("method", "questions", "samples"),
    Long2ShortMethod.dpo: ("method", "questions", "samples", "longer"),
}
"Settings of long2short that decide what the method makes."


def run(cfg: Config) -> None:
    """`r1 long2short`."""
    folder, long, method = Path(cfg.run.dir), Path(cfg.long2short.checkpoint), cfg.long2short.method
    lineage.require(STAGE, "long2short.checkpoint", long)
    if method is Long2ShortMethod.merge:
        model = _merge_stage(cfg, folder)
    elif method is Long2ShortMethod.rl:
        sampling = replace(cfg.sampling, max_response_tokens=cfg.long2short.response_tokens)
        model = stages.zero_stage(replace(cfg, sampling=sampling), long, folder, stage=STAGE)
    else:
        data = _set_stage(cfg, long, folder / "set")
        if method is Long2ShortMethod.rejection:
            model = sft_stage(cfg, long, data, folder, stage=STAGE)
        else:
            model = stages.dpo_stage(replace(cfg, dpo=replace(cfg.dpo, data=str(data))), long, folder, stage=STAGE)
    if parallel.is_main():
        say(f"model: {model}; r1 evaluate evaluate.checkpoint={model}; r1 lineage checkpoint={model}")


def _merge_stage(cfg: Config, folder: Path) -> Path:
    """The average of both models; -> its folder."""
    sources = [_model_folder(key, getattr(cfg.long2short, key)) for key in ("checkpoint", "short")]
    parents = (lineage.of(sources[0]), lineage.require(STAGE, "long2short.short", sources[1]))
    origin = lineage.born(STAGE, folder, seed=cfg.run.seed, settings=_told(cfg), parents=parents)
    out = folder / "model"
    with stages.stage_run(cfg, STAGE, folder, origin) as (done, _, _):
        if not done:
            parallel.on_main(lambda: hf_merge.merge(*sources, out, cfg.long2short.share))
    return out


def _set_stage(cfg: Config, long: Path, folder: Path) -> Path:
    """What the long model answers, as a set for SFT or DPO; -> its file, with figures in long2short.json beside it."""
    own = cfg.long2short
    path = folder / long2short.FILES[own.method]
    settings = _told(cfg) | {name: to_dict(getattr(cfg, name)) for name in ("task", "reward", "sampling")}
    origin = lineage.born(STAGE, folder, seed=cfg.run.seed, settings=settings, parents=(lineage.of(long),))
    with stages.stage_run(cfg, STAGE, folder, origin, product=path.name) as (done, tracker, _):
        if not done:
            model, model_cfg, tokenizer = stages.load_model(cfg, long)
            more = dict(seed=cfg.run.seed, max_rows=cfg.rl.rollout_rows)
            engine = LocalEngine(model, model_cfg, tokenizer, cfg.sampling, **more)
            long2short.run(engine, build_task(cfg.task, tokenizer), cfg.reward, own, folder)
            figures = read_json(folder / "long2short.json")
            tracker.log({f"long2short/{name}": value for name, value in figures.items()}, step=0, tokens=0)
    return path


def _told(cfg: Config) -> dict[str, dict]:
    own = to_dict(cfg.long2short)
    return {STAGE: {name: own[name] for name in _DECIDES[cfg.long2short.method]}}


def _model_folder(key: str, given: str) -> Path:
    """The Hugging Face folder itself, or the finished model of a run. Raises CheckpointError for anything else."""
    for path in (Path(given), Path(given) / "model"):
        if (path / "config.json").exists():
            return path
    raise CheckpointError(
        f"long2short.{key}={given}: is neither a Hugging Face folder nor a finished run; write a checkpoint as one by "
        "r1 export"
    )
