"""One arm of the laboratory: R1-Zero steps with a faulty sampler, judged by a sound one."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.mismatch.faults import FAULTS
from modeling import hf
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.config import RLConfig
from rl.evaluate import evaluate
from rl.questions import Questions
from rl.rewards.base import RewardConfig
from rl.rollout.local import LocalEngine
from rl.step import rl_step
from rl.tasks.base import Task, TaskConfig
from rl.tasks.mix import build_task
from training import parallel
from training.config import ParallelConfig
from training.schedules import Schedule
from training.state import TrainState, build_state

RELEASED = Path(__file__).parents[1] / "base"
KEPT = ("rl/", "train/loss", "train/grad_norm", "time/rollout_s", "time/update_s")


@dataclass(kw_only=True, slots=True)
class Size:
    """What an arm takes."""

    steps: int = 24
    "More than the oldest weights of a fault are steps old."
    questions: int = 8
    group: int = 8
    held_out: int = 128
    "Held-out questions at the end."
    samples: int = 4
    "Answers to each."
    tokens: int = 256
    "Longest response."


def run_arm(name: str, size: Size, *, seed: int, base: Path = RELEASED) -> dict[str, Any]:
    """-> {"steps": [metrics of each], "start", "end": pass@1 and length of a sound sampler, "seconds"}.

    The start is looked at in the arm `none` alone: it is the same in all.

    Everything but the fault is equal in all arms of a seed: weights, questions, the numbers that decide tokens.
    """
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = ParallelConfig()
    parallel.init(layout, seed)
    model_cfg, tokenizer = hf.config_from(base), Tokenizer.load(base)
    cfg = RLConfig(steps=size.steps, questions_per_step=size.questions, group_size=size.group)
    task, sampling = build_task(TaskConfig(), tokenizer), SamplingConfig(max_response_tokens=size.tokens)
    state = build_state(model_cfg, cfg.optimizer, layout, stage="mismatch", init_from=base)
    sound = LocalEngine(state.module, model_cfg, tokenizer, sampling, seed=0, max_rows=256)
    engine = FAULTS[name].build(state, tokenizer, sampling, seed)
    questions, schedule, started = Questions(task), Schedule(cfg.schedule, total=cfg.steps), time.perf_counter()

    start, steps = (judge(sound, state, task, size) if name == "none" else None), []
    while state.step < size.steps:
        now = schedule.at(state.step)
        metrics, _ = rl_step(state, engine, questions, None, task, RewardConfig(), cfg, now, seed=seed)
        state.step += 1
        steps.append({key: value for key, value in metrics.items() if key.startswith(KEPT)})
    end = judge(sound, state, task, size)
    return {"start": start, "end": end, "steps": steps, "seconds": time.perf_counter() - started}


def judge(sound: LocalEngine, state: TrainState, task: Task, size: Size) -> dict[str, Any]:
    """pass@1 with its interval over held-out questions, and the mean response, of the network as it is."""
    sound.load_weights(state.module, version=state.updates)
    found = evaluate(sound, task, RewardConfig(), questions=size.held_out, samples=size.samples)
    one = found.pass_at_1
    accuracy = {"mean": one.mean, "low": one.low, "high": one.high}
    return {"pass_at_1": accuracy, "response_tokens": found.response_tokens.all.mean}
