"""A GRPO step against TRL's GRPOTrainer on CPU: response tokens a second over whole steps (ask, write, score, update).

Both sides have the released base, the same countdown questions in the same order, the same batch (QUESTIONS x GROUP
answers of exactly LENGTH tokens: neither may stop early), one AdamW update a step on all answers, DSM eq. 3 without
KL, and neither computes old logprobs. Ours is one rank a core. The peer's settings: each implementation of
transformers' experts, as one process of all cores and as a process a core; the fastest counts.
"""

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.bench.result import Result, Worker
from experiments.bench.train import IMPLEMENTATIONS, environments

ROUNDS, STEPS = 5, 2
QUESTIONS, GROUP, LENGTH = 8, 8, 96
RELEASED = Path(__file__).parents[1] / "base"


def run() -> Result:
    """Time both sides in turn, after finding the peer's fastest setting."""
    cores = len(os.sched_getaffinity(0))
    settings = {
        f"{name} experts, {ranks} x {cores // ranks} threads": (name, environments(ranks, cores // ranks))
        for name, ranks in itertools.product(IMPLEMENTATIONS, {1, cores})
    }
    found = {}
    for label, (name, ranks) in settings.items():
        with Worker("experiments.bench.grpo_step", "peer", name, ranks=ranks) as peer:
            found[label] = peer.measure()["tokens_per_s"]
    best = max(found, key=found.__getitem__)
    name, ranks = settings[best]
    ours, theirs = [], []
    with (
        Worker("experiments.bench.grpo_step", "ours", ranks=environments(cores, 1)) as us,
        Worker("experiments.bench.grpo_step", "peer", name, ranks=ranks) as them,
    ):
        for worker in (us, them):
            worker.measure()  # warm-up
        for _ in range(ROUNDS):
            ours.append(us.measure())
            theirs.append(them.measure())
    return Result.of(
        "grpo_step",
        "response tokens/s",
        [each["tokens_per_s"] for each in ours],
        [each["tokens_per_s"] for each in theirs],
        f"TRL GRPOTrainer ({best})",
        answers=QUESTIONS * GROUP,
        response_tokens=LENGTH,
        ours_step_s=[each["step_s"] for each in ours],
        peer_step_s=[each["step_s"] for each in theirs],
        peer_settings=found,
        ours_ranks=cores,
    )


def our_step(questions_per_step: int, group_size: int, length: int) -> Callable[[], None]:
    """A function that does a GRPO step of so many answers of exactly `length` tokens, on this process' ranks."""
    from modeling import hf
    from modeling.sampling import SamplingConfig
    from modeling.tokenizer import Tokenizer
    from rl.config import OldLogprobs, RLConfig
    from rl.questions import Questions
    from rl.rewards.base import RewardConfig
    from rl.rollout.local import LocalEngine
    from rl.step import rl_step
    from rl.tasks.base import TaskConfig
    from rl.tasks.mix import build_task
    from training import parallel
    from training.config import ParallelConfig
    from training.schedules import Now
    from training.state import build_state

    layout = ParallelConfig()
    parallel.init(layout, 0)
    model_cfg, tokenizer = hf.config_from(RELEASED), Tokenizer.load(RELEASED)
    cfg = RLConfig(
        questions_per_step=questions_per_step,
        group_size=group_size,
        minibatches=1,
        drop_zero_variance=False,
        old_logprobs=OldLogprobs.sampler,
    )
    state = build_state(model_cfg, cfg.optimizer, layout, stage="bench", init_from=RELEASED)
    sampling = SamplingConfig(max_response_tokens=length)
    engine = LocalEngine(state.module, model_cfg, tokenizer, sampling, seed=0)
    engine.stop_ids, engine.stop_text = set(), None
    task = build_task(TaskConfig(), tokenizer)
    questions = Questions(task)

    def step() -> None:
        metrics, _ = rl_step(
            state, engine, questions, None, task, RewardConfig(format=0.0), cfg, Now(lr_scale=1.0), seed=0
        )
        state.step += 1
        assert metrics["rl/response_tokens"] == length

    return step


def _time_ours() -> None:
    """A rank: warm up, then time STEPS steps at each line of stdin."""
    step = our_step(QUESTIONS, GROUP, LENGTH)
    step()
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        _tell(time.perf_counter() - start, sys.stdout)


def _tell(seconds: float, out: Any) -> None:
    tokens = STEPS * QUESTIONS * GROUP * LENGTH
    print(json.dumps({"tokens_per_s": tokens / seconds, "step_s": seconds / STEPS}), file=out, flush=True)


def _time_peer(implementation: str) -> None:
    """A process of TRL's trainer, which trains from within: each round waits for a line before its first step."""
    out, sys.stdout = sys.stdout, sys.stderr  # TRL may print
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from rl.tasks.base import TaskConfig
    from rl.tasks.mix import build_task

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    world, task = int(os.environ["WORLD_SIZE"]), build_task(TaskConfig())
    rows = [{"prompt": task.train_question(i).prompt, "number": i} for i in range(4096)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(RELEASED / "tokenizer.json"), pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    model = AutoModelForCausalLM.from_pretrained(
        RELEASED, dtype=torch.float32, attn_implementation="sdpa", experts_implementation=implementation
    )

    def reward(completions: list[str], number: list[int], **unused: Any) -> list[float]:
        return [task.score(task.train_question(i), text) for i, text in zip(number, completions, strict=True)]

    class Rounds(TrainerCallback):
        done, start = -1, 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            if self.done >= 0 and self.done % STEPS == 0:
                if not sys.stdin.readline():
                    os._exit(0)
                self.start = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.done += 1  # the first step is the warm-up
            if self.done > 0 and self.done % STEPS == 0:
                _tell(time.perf_counter() - self.start, out)

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            router_aux_loss_coef=0.0,  # transformers' DeepSeek-V3 has no auxiliary loss to give
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=QUESTIONS * GROUP // world,
            num_generations=GROUP,
            max_completion_length=LENGTH,
            generation_kwargs={"min_new_tokens": LENGTH},
            max_steps=10**6,
            learning_rate=3e-4,
            lr_scheduler_type="constant",
            adam_beta2=0.99,
            weight_decay=0.0,
            optim="adamw_torch_fused",
            beta=0.0,
            epsilon=0.2,
            epsilon_high=0.28,
            loss_type="grpo",
            temperature=1.0,
            top_k=0,
            shuffle_dataset=False,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[Rounds()],
        ).train()


if __name__ == "__main__":
    _time_ours() if sys.argv[1] == "ours" else _time_peer(sys.argv[2])
