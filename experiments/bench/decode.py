"""Decoding tokens a second at batch 64, against transformers' generate with the same weights, in turn in one process.

The same prompts and as many new tokens for every row, sampled at temperature 1; neither side may stop early.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.bench.result import Result

ROUNDS, BATCH, PROMPT, NEW = 5, 64, 20, 128


def run() -> Result:
    """Export a tiny model, load it in transformers, time both in turn."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    from modeling import hf
    from modeling.build import build_model
    from modeling.config import ModelConfig
    from modeling.generate import Generator, SamplingConfig
    from training import parallel
    from training.config import ParallelConfig

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    parallel.init(ParallelConfig(), 0)
    cfg = ModelConfig.preset("tiny")
    model = build_model(cfg).eval()
    prompts = torch.randint(0, cfg.vocab_size, (BATCH, PROMPT), generator=torch.Generator().manual_seed(0))

    with tempfile.TemporaryDirectory() as folder:
        hf.save_pretrained(model, cfg, Path(folder) / "model")
        peer = AutoModelForCausalLM.from_pretrained(Path(folder) / "model", dtype=torch.float32).eval()
    generator = Generator(model, cfg)
    sampling = SamplingConfig(temperature=1.0, max_response_tokens=NEW)
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=NEW, min_new_tokens=NEW, pad_token_id=0
    )

    def ours() -> int:
        answers = generator.generate(prompts.tolist(), sampling, seeds=list(range(BATCH)), stop_ids=set())
        return sum(len(a.tokens) for a in answers)

    def theirs() -> int:
        with torch.inference_mode():
            out = peer.generate(prompts, generation_config=settings, attention_mask=torch.ones_like(prompts))
        return (out.shape[1] - PROMPT) * len(out)

    return Result.of(
        "decode_tokens", "tokens/s", *_in_turn(ours, theirs), "transformers generate", batch=BATCH, new=NEW
    )


def _in_turn(ours: Any, theirs: Any) -> tuple[list[float], list[float]]:
    """Tokens a second of each, one after the other, ROUNDS times after a warm-up."""
    figures: tuple[list[float], list[float]] = ([], [])
    for round_number in range(ROUNDS + 1):
        for side, function in zip(figures, (ours, theirs), strict=True):
            start = time.perf_counter()
            tokens = function()
            if round_number:
                side.append(tokens / (time.perf_counter() - start))
    return figures
