"""Decoding with the latent cache, and one GRPO step whose policy is trained in BF16 and in FP8."""

import dataclasses
import zlib
from typing import Any

import torch

from experiments.gpu_check.clock import forget, peak_gib, seconds
from experiments.gpu_check.settings import SIZES, Settings, precisions
from infra.progress import say
from modeling.build import build_model
from modeling.config import Modules
from modeling.generate import Generator, SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.config import GRPOConfig, RLConfig
from rl.policy import Reference
from rl.questions import Questions
from rl.rewards.base import RewardConfig
from rl.rollout.local import LocalEngine
from rl.step import rl_step
from rl.tasks.countdown import Countdown
from rl.types import Question
from training import parallel
from training.config import ParallelConfig
from training.data.corpus import CorpusConfig, document
from training.schedules import Now
from training.state import build_state

GROUP = 8
PROMPT = 32


def decode(settings: Settings) -> dict[str, Any]:
    """Tokens a second of all rows together, and of one row alone."""
    size = SIZES[settings.size]
    cfg = dataclasses.replace(size.model, modules=Modules.local)
    forget()
    parallel.init(ParallelConfig(), 0)
    generator = Generator(build_model(cfg).to(parallel.device()).eval(), cfg)
    prompts = torch.randint(0, cfg.vocab_size, (size.prompts, PROMPT), generator=torch.Generator().manual_seed(0))
    sampling = SamplingConfig(max_response_tokens=size.new_tokens)
    found: dict[str, Any] = {"new_tokens": size.new_tokens, "prompt_tokens": PROMPT}
    for rows in (size.prompts, 1):

        def work(rows: int = rows) -> None:
            ids = prompts[:rows].tolist()
            generator.generate(ids, sampling, seeds=list(range(rows)), stop_ids=set(), max_rows=rows)

        took = seconds(work, repeat=3)
        speed = rows * size.new_tokens / took
        found[f"batch_{rows}"] = {"tokens_per_s": speed, "ms_per_step": 1e3 * took / size.new_tokens}
    return found | {"peak_memory_gib": peak_gib()}


class Coin(Countdown):
    """Countdown's questions, judged by a coin: random weights answer nothing right, and equal rewards teach nothing."""

    def score(self, question: Question, text: str) -> float:
        return float(zlib.crc32(f"{question.id}{text}".encode()) % 2)


def grpo(settings: Settings) -> dict[str, Any]:
    """Ask, answer, score, update twice; with reference and KL. Only where Megatron's local modules compute."""
    size = SIZES[settings.size]
    tokenizer = Tokenizer.train((document(CorpusConfig(), 0, i) for i in range(200)), 320)
    found = {}
    for precision in precisions(settings):
        if precision.model.modules is not Modules.local or not precision.timed:
            continue
        say(f"grpo: {precision.name} ...")
        forget()
        layout = ParallelConfig()
        parallel.init(layout, 0)
        cfg = dataclasses.replace(precision.model.for_vocab(tokenizer.num_tokens), num_nextn_predict_layers=0)
        rl = RLConfig(
            questions_per_step=size.questions,
            group_size=GROUP,
            minibatches=2,
            drop_zero_variance=False,
            objective=GRPOConfig(kl_coef=0.001),
        )
        state = build_state(cfg, rl.optimizer, layout, stage="gpu_check")
        reference = Reference(state.module)
        sampling = SamplingConfig(max_response_tokens=size.new_tokens)
        engine = LocalEngine(state.module, cfg, tokenizer, sampling, seed=0, max_rows=size.questions * GROUP)
        task = Coin()
        metrics, groups = rl_step(
            state, engine, Questions(task), reference, task, RewardConfig(), rl, Now(lr_scale=1.0), seed=0
        )
        shown = ("train/loss", "train/grad_norm", "rl/kl", "rl/sampler_trainer_diff", "rl/response_tokens")
        found[precision.name] = {key: metrics[key] for key in shown if key in metrics}
        found[precision.name] |= {key: value for key, value in metrics.items() if key.startswith("time/")}
        found[precision.name] |= {"answers": sum(len(g.completions) for g in groups), "peak_memory_gib": peak_gib()}
        if not found[precision.name]["train/grad_norm"] > 0:
            found["problem"] = f"{precision.name}: the GRPO step had no gradient"
    return found
