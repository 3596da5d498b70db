"""Small whole stages for tests: a base pre-trained for a few steps, R1-Zero and DPO on it."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeling.config import Fp8
from modeling.sampling import SamplingConfig
from rl.config import GRPOConfig, RLConfig
from rl.dpo_config import DPOConfig
from rl.evaluate import EvaluateConfig
from rl.rewards.base import RewardConfig
from rl.stages import dpo, zero
from rl.tasks.base import TaskConfig
from tests.training import tiny
from training import parallel, pretrain, sft
from training.config import OptimizerConfig, OptimizerName, ParallelConfig, PretrainConfig, SFTConfig
from training.data.corpus import CorpusConfig


class Log:
    """A tracker that keeps metrics in a file, which outlives the process, and may kill it."""

    def __init__(self, path: Path, die_after: int | None = None) -> None:
        self.path, self.die_after = path, die_after

    def log(self, metrics: dict[str, float], *, step: int, tokens: int) -> None:
        with open(self.path, "a") as file:
            print(json.dumps({"step": step, "tokens": tokens, **metrics}), file=file)
        if "train/grad_norm" in metrics and step == self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def samples(self, step: int, rows: list[dict]) -> None:
        with open(self.path.with_suffix(".samples"), "a") as file:
            print(json.dumps({"step": step, "texts": [row["text"] for row in rows]}), file=file)
        with open(self.path.with_suffix(".rows"), "a") as file:
            for row in rows:
                print(json.dumps(row), file=file)

    def finish(self, status: str = "FINISHED") -> None: ...


def _in_folder(
    folder: str, die_after: int | None, stage: Callable[[Path, Log], Path], layout: ParallelConfig | None = None
) -> str:
    parallel.init(layout or ParallelConfig(), 0)
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    return str(stage(out, Log(out / f"metrics_{parallel.rank()}.jsonl", die_after)))


def run_pretrain(folder: str, die_after: int | None = None, tokens: int = 3000) -> str:
    """Some steps of 500 tokens, with Muon and MTP at every second step."""
    cfg = PretrainConfig(
        tokens=tokens,
        batch_tokens=500,
        tokenizer_vocab=300,
        tokenizer_documents=50,
        optimizer=OptimizerConfig(name=OptimizerName.muon),
        save_every=2,
        evaluate_every=3,
        evaluate_documents=8,
    )
    cfg.schedule.mtp_share = 0.5

    def stage(out: Path, log: Log) -> Path:
        return pretrain.run(
            model_cfg=tiny.model_config(max_position_embeddings=1024),
            parallel_cfg=ParallelConfig(),
            corpus=CorpusConfig(),
            cfg=cfg,
            run_dir=out,
            seed=0,
            tracker=log,
            config={},
        )

    return _in_folder(folder, die_after, stage)


def run_zero(
    base: str,
    folder: str,
    die_after: int | None = None,
    rl: dict[str, Any] | None = None,
    layout: dict[str, int] | None = None,
    sampling: dict[str, Any] | None = None,
    fp8: Fp8 = Fp8.none,
    stage_name: str = "zero",
) -> str:
    """Six steps of 4 x 4 answers of up to 24 tokens, with a reference that is refreshed on the way."""
    parallel_cfg = ParallelConfig(**(layout or {}))
    settings = dict(
        steps=6,
        questions_per_step=4,
        group_size=4,
        objective=GRPOConfig(kl_coef=0.01),
        optimizer=OptimizerConfig(lr=3e-3),
        reference_every=3,
        drop_zero_variance=False,
        save_every=2,
        evaluate_every=3,
    )

    def stage(out: Path, log: Log) -> Path:
        return zero.run(
            Path(base),
            parallel_cfg=parallel_cfg,
            task_cfg=TaskConfig(),
            # Length, because nothing else tells the answers of so weak a base apart.
            reward=RewardConfig(length=0.5, language=0.0 if stage_name == "zero" else 0.5),
            stage=stage_name,
            sampling=SamplingConfig(**(dict(max_response_tokens=24) | (sampling or {}))),
            evaluation=EvaluateConfig(curve_questions=4, curve_samples=2),
            cfg=RLConfig(**(settings | (rl or {}))),
            fp8=fp8,
            run_dir=out,
            seed=0,
            tracker=log,
            config={},
        )

    return _in_folder(folder, die_after, stage, parallel_cfg)


def run_dpo(
    base: str,
    folder: str,
    die_after: int | None = None,
    settings: dict[str, Any] | None = None,
    layout: dict[str, int] | None = None,
    *,
    pairs: int = 16,
) -> str:
    """Two epochs of `pairs` pairs, 4 a step: a short sum preferred to a wrong one."""
    data = Path(base).parent / f"pairs_{pairs}.jsonl"
    if not data.exists():
        rows = [
            {"prompt": f"Make {i + 2} from {i}, 2.", "chosen": f" {i}+2={i + 2}", "rejected": f" {i}*2"}
            for i in range(pairs)
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = dict(data=str(data), epochs=2, pairs_per_step=4, optimizer=OptimizerConfig(lr=3e-3), save_every=2)
    parallel_cfg = ParallelConfig(**(layout or {}))

    def stage(out: Path, log: Log) -> Path:
        return dpo.run(
            Path(base),
            parallel_cfg=parallel_cfg,
            task_cfg=TaskConfig(),
            reward=RewardConfig(),
            sampling=SamplingConfig(max_response_tokens=24),
            evaluation=EvaluateConfig(curve_questions=2, curve_samples=2),
            cfg=DPOConfig(**(own | dict(evaluate_every=4) | (settings or {}))),
            run_dir=out,
            seed=0,
            tracker=log,
            config={},
        )

    return _in_folder(folder, die_after, stage, parallel_cfg)


def run_sft(base: str, folder: str, data: str, die_after: int | None = None, sft_: dict[str, Any] | None = None) -> str:
    """Two epochs of a file in steps of four conversations."""
    settings = dict(batch_size=4, row_tokens=256, save_every=2, evaluate_every=3, evaluate_rows=4)

    def stage(out: Path, log: Log) -> Path:
        return sft.run(
            Path(base),
            Path(data),
            parallel_cfg=ParallelConfig(),
            cfg=SFTConfig(**(settings | (sft_ or {}))),
            run_dir=out,
            seed=0,
            tracker=log,
            config={},
        )

    return _in_folder(folder, die_after, stage)


def logged(folder: Path, *names: str) -> dict[int, list[list[float]]]:
    """step -> the named metrics each time that the step was done."""
    rows = [json.loads(line) for line in (Path(folder) / "metrics_0.jsonl").read_text().splitlines()]
    found: dict[int, list[list[float]]] = {}
    for row in rows:
        if names[0] in row:
            found.setdefault(row["step"], []).append([row[name] for name in names])
    return found


def metrics(folder: Path, *names: str) -> dict[int, list[float]]:
    """step -> the named metrics, as rank 0 logged them; the later value of a step that was done twice."""
    return {step: times[-1] for step, times in logged(folder, *names).items()}
