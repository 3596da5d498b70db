"""Speculative decoding with the MTP module against the plain sampler: tokens a second on the released base, and whether
10^5 tokens of each can be told apart.

Both sides answer the same countdown questions, in turn in one process; answers end where the model ends them. The ratio
is that of ROWS answers at a time, the details have others. A step with two tokens a row costs nearly twice a step with
one where arithmetic is what takes the time (CPU cores, large batches), and no more where reading the weights is.
"""

import os
import statistics
import time
from collections import Counter
from pathlib import Path

from experiments.bench.result import Result

ROUNDS, ROWS = 5, 1
QUESTIONS = {1: 6, 4: 16, 16: 64, 64: 128}
"Answers at a time -> questions asked."
ANSWERS, LENGTH = 12_500, 8
"Of one question, for the comparison of distributions: 10^5 tokens each way."
RELEASED = Path(__file__).parents[1] / "base"


def run() -> Result:
    """Time both at each size in turn, then draw the samples."""
    import torch

    from modeling import hf
    from modeling.build import build_model
    from modeling.generate import Generator
    from modeling.sampling import SamplingConfig
    from modeling.speculate import SpeculativeGenerator
    from modeling.tokenizer import Tokenizer
    from rl.tasks.base import TaskConfig
    from rl.tasks.mix import build_task
    from training import parallel
    from training.config import ParallelConfig

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    parallel.init(ParallelConfig(), 0)
    cfg, tokenizer = hf.config_from(RELEASED), Tokenizer.load(RELEASED)
    model = build_model(cfg).eval()
    hf.load_pretrained(model, cfg, RELEASED)
    prompts = [tokenizer.encode(q.prompt) for q in build_task(TaskConfig()).test_questions(max(QUESTIONS.values()))]
    plain, speculative = Generator(model, cfg), SpeculativeGenerator(model, cfg)
    stops = {tokenizer.eos_id, tokenizer.answer_end_id}

    whole = SamplingConfig(max_response_tokens=256)

    def speed(generator: Generator, rows: int, seed: int) -> float:
        asked = prompts[: QUESTIONS[rows]]
        seeds = list(range(1000 * seed, 1000 * seed + len(asked)))
        start = time.perf_counter()
        answers = generator.generate(asked, whole, seeds=seeds, stop_ids=stops, max_rows=rows)
        return sum(len(a.tokens) for a in answers) / (time.perf_counter() - start)

    figures: dict[int, list[tuple[float, float]]] = {}
    for rows in QUESTIONS:
        speed(speculative, rows, 0), speed(plain, rows, 0)
        figures[rows] = [(speed(speculative, rows, seed), speed(plain, rows, seed)) for seed in range(1, ROUNDS + 1)]
    acceptance = speculative.accepted / speculative.proposed

    short = SamplingConfig(max_response_tokens=LENGTH)
    samples = []
    for generator, start in ((speculative, 0), (plain, ANSWERS)):
        given = dict(seeds=list(range(start, start + ANSWERS)), stop_ids=set(), max_rows=512)
        samples.append([a.tokens for a in generator.generate([prompts[0]] * ANSWERS, short, **given)])
    return Result.of(
        "speculative",
        "tokens/s",
        *map(list, zip(*figures[ROWS], strict=True)),
        "the plain sampler",
        rows=ROWS,
        acceptance=acceptance,
        tokens_per_s={rows: [statistics.median(side) for side in zip(*f, strict=True)] for rows, f in figures.items()},
        ratio_by_rows={rows: statistics.median([a / b for a, b in pairs]) for rows, pairs in figures.items()},
        tokens_compared=[sum(map(len, sample)) for sample in samples],
        p_values=p_values(*samples),
    )


def p_values(left: list[list[int]], right: list[list[int]]) -> dict[str, float]:
    """Chi-square of homogeneity of two samples of answers: each token alone, and each run of three.

    What was seen less than 20 times in all is one cell. Answers are independent of each other, so the counts are
    multinomial; 14 p-values, of which the least should be above 0.05 / 14.
    """
    from scipy import stats

    found = {}
    for width in (1, 3):
        for start in range(LENGTH - width + 1):
            counts = [Counter(tuple(a[start : start + width]) for a in sample) for sample in (left, right)]
            common = [key for key in counts[0] | counts[1] if counts[0][key] + counts[1][key] >= 20]
            rows = [[count[key] for key in common] for count in counts]
            table = [[*row, len(left) - sum(row)] for row in rows]
            columns = [column for column in zip(*table, strict=True) if sum(column)]
            several = len(columns) > 1  # a token that always comes says nothing
            found[f"tokens {start} to {start + width - 1}"] = (
                float(stats.chi2_contingency(columns).pvalue) if several else 1.0
            )
    return found
