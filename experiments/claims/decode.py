"""`python -m experiments.claims.decode MODEL OUT seed=0`: drafting by the MTP module against the plain sampler (C10).

Both write the same answers' worth of tokens, a row at a time, in turn in one process; OUT gets acceptance, tokens/s of
both and their ratio.
"""

import os
import statistics
import sys
import time
from pathlib import Path

from infra.files import write_json

ROUNDS, QUESTIONS, TOKENS = 3, 6, 192


def measure(folder: Path, seed: int) -> dict[str, float]:
    """Time both samplers; seed: which answers, and which questions."""
    import torch

    from modeling.build import build_model
    from modeling.generate import Generator
    from modeling.sampling import SamplingConfig
    from modeling.speculate import SpeculativeGenerator
    from modeling.tokenizer import Tokenizer
    from rl.tasks.base import TaskConfig
    from rl.tasks.mix import build_task
    from training import checkpoint, parallel
    from training.config import ParallelConfig

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    parallel.init(ParallelConfig(), seed)
    found = checkpoint.resolve(folder)
    cfg, tokenizer = checkpoint.model_config(found), Tokenizer.load(found)
    model = build_model(cfg).eval()
    checkpoint.load_weights(model, cfg, found)
    task = build_task(TaskConfig(), tokenizer)
    asked = task.test_questions(QUESTIONS * (seed + 1))[-QUESTIONS:]
    prompts = [tokenizer.encode(question.prompt) for question in asked]
    generators = {"drafted": SpeculativeGenerator(model, cfg), "plain": Generator(model, cfg)}
    stops = {tokenizer.eos_id, tokenizer.answer_end_id}
    speeds: dict[str, list[float]] = {name: [] for name in generators}
    for round_ in range(ROUNDS + 1):  # the first warms up
        for name, generator in generators.items():
            seeds = [1000 * (ROUNDS * seed + round_) + i for i in range(QUESTIONS)]
            start = time.perf_counter()
            settings = SamplingConfig(max_response_tokens=TOKENS)
            answers = generator.generate(prompts, settings, seeds=seeds, stop_ids=stops, max_rows=1)
            took = time.perf_counter() - start
            if round_:
                speeds[name].append(sum(len(answer.tokens) for answer in answers) / took)
    drafted, plain = (statistics.median(speeds[name]) for name in ("drafted", "plain"))
    drafter = generators["drafted"]
    acceptance = drafter.accepted / drafter.proposed
    return {"acceptance": acceptance, "ratio": drafted / plain, "tokens_per_s": drafted, "plain_tokens_per_s": plain}


if __name__ == "__main__":
    model, out, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3].removeprefix("seed="))
    write_json(out, measure(Path(model), seed))
