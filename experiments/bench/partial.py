"""Partial rollouts (K §2.6.2) against plain ones: steps a second of the whole RL step, answers of long-tailed length.

Random weights draw nearly uniform tokens, and a few of them stop an answer: lengths are geometric, and the longest of a
step's answers is five times the mean. The weights stay (a learning rate of nothing), so that the lengths do. Both sides
do the same: ask, write, score, read, update; partial steps train on as many groups in the mean. Taken in turn in one
process, once the buffer has filled.
"""

import dataclasses
import os
import time
import zlib
from typing import Any

from experiments.bench.result import Result

ROUNDS, STEPS, FILL = 4, 2, 5
"Rounds, steps of each side in a round, and steps before the first until the buffer is full."
QUESTIONS, GROUP, LONGEST, BUDGET = 8, 8, 900, 96
VOCAB, STOPS = 320, 5
"An answer ends with probability 5 / 320 after each token: 64 tokens in the mean."


def run() -> Result:
    """Time both in turn."""
    import numpy as np
    import torch

    from modeling.config import ModelConfig
    from modeling.sampling import SamplingConfig
    from modeling.tokenizer import Tokenizer
    from rl.config import RLConfig, RolloutConfig
    from rl.questions import Questions
    from rl.rewards.base import RewardConfig
    from rl.rollout.local import LocalEngine
    from rl.rollout.partial import PartialRollouts
    from rl.step import rl_step
    from rl.tasks.countdown import Countdown
    from rl.types import Group, Question
    from training import parallel
    from training.config import OptimizerConfig, ParallelConfig
    from training.data.corpus import CorpusConfig, document
    from training.schedules import Now
    from training.state import build_state

    class Coin(Countdown):
        """Judged by a coin: random weights answer nothing right, and equal rewards teach nothing."""

        def score(self, question: Question, text: str) -> float:
            return float(zlib.crc32(f"{question.id}{text}".encode()) % 2)

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = ParallelConfig()
    parallel.init(layout, 0)
    tokenizer = Tokenizer.train((document(CorpusConfig(), 0, i) for i in range(200)), VOCAB)
    model_cfg = dataclasses.replace(
        ModelConfig.preset("tiny").for_vocab(tokenizer.num_tokens),
        num_nextn_predict_layers=0,
        max_position_embeddings=LONGEST + 100,
    )
    sampling = SamplingConfig(max_response_tokens=LONGEST)
    optimizer = OptimizerConfig(lr=1e-12, weight_decay=0.0)

    def side(budget: int) -> Any:
        """A function that does a step -> its metrics and groups."""
        cfg = RLConfig(
            questions_per_step=QUESTIONS,
            group_size=GROUP,
            steps=10**6,
            optimizer=optimizer,
            rollout=RolloutConfig(partial_tokens=budget),
        )
        state = build_state(model_cfg, cfg.optimizer, layout, stage="bench")
        engine = LocalEngine(state.module, model_cfg, tokenizer, sampling, seed=0, max_rows=2 * QUESTIONS * GROUP)
        engine.stop_ids = set(range(tokenizer.num_tokens - STOPS, tokenizer.num_tokens))
        task = Coin()
        questions = Questions(task)
        partial = PartialRollouts(engine, cfg.rollout) if budget else None

        def step() -> tuple[dict[str, float], list[Group]]:
            given = (state, engine, questions, None, task, RewardConfig(), cfg, Now(lr_scale=1.0))
            done = rl_step(*given, seed=0, partial=partial)
            state.step += 1
            return done

        return step

    told: dict[str, list[tuple[float, dict[str, float], list[Group]]]] = {"partial": [], "plain": []}

    def timed(name: str, step: Any) -> float:
        """Steps a second over STEPS steps."""
        start = time.perf_counter()
        for _ in range(STEPS):
            begun = time.perf_counter()
            metrics, groups = step()
            told[name].append((time.perf_counter() - begun, metrics, groups))
        return STEPS / (time.perf_counter() - start)

    ours, plain = side(BUDGET), side(0)
    for _ in range(FILL):
        ours()
    plain()
    figures = [(timed("partial", ours), timed("plain", plain)) for _ in range(ROUNDS)]
    lengths = [len(c.tokens) for _, _, groups in told["plain"] for g in groups for c in g.completions]

    def per_step(name: str) -> dict[str, float]:
        rows = told[name]
        return {
            "step_s": float(np.mean([seconds for seconds, _, _ in rows])),
            "rollout_s": float(np.mean([metrics["time/rollout_s"] for _, metrics, _ in rows])),
            "groups": float(np.mean([len(groups) for _, _, groups in rows])),
            "tokens": float(
                np.mean([sum(len(c.tokens) for g in groups for c in g.completions) for *_, groups in rows])
            ),
        }

    return Result.of(
        "partial_rollouts",
        "steps/s",
        *map(list, zip(*figures, strict=True)),
        "plain rollouts",
        budget_tokens=BUDGET,
        lengths={"mean": float(np.mean(lengths)), "p99": float(np.quantile(lengths, 0.99)), "longest": max(lengths)},
        carried=float(np.mean([metrics["rl/partial_carried_frac"] for _, metrics, _ in told["partial"]])),
        partial=per_step("partial"),
        plain=per_step("plain"),
    )
