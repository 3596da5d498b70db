"""Rollouts in process: on the very weights that train, or on a copy of them.

Where the layout splits the network each rank gathers a whole copy, and all ranks write.
"""

import numpy as np
import torch
from torch import nn

from modeling.config import ModelConfig
from modeling.sampling import Sampled, SamplingConfig
from modeling.speculate import SpeculativeGenerator, generator_for
from modeling.stop import StopText
from modeling.tokenizer import Tokenizer
from modeling.vision_config import prompt_with_image
from rl.rollout.sharing import Share, SharingEngine, answer_seed
from rl.types import Question
from training import parallel
from training.whole import Whole


class LocalEngine(SharingEngine):
    """RolloutEngine over modeling.generate. On the trainer's own network it differs from it by rounding only."""

    def __init__(
        self,
        model: nn.Module,
        model_cfg: ModelConfig,
        tokenizer: Tokenizer,
        sampling: SamplingConfig,
        *,
        seed: int,
        max_rows: int = 256,
        copies: bool = False,
        device: torch.device | None = None,
    ) -> None:
        """model: the trainer's network, this rank's part of it; every rank calls it.

        copies: keep weights of the sampler's own, on `device` (the trainer's by default), as of the last load_weights.
        """
        super().__init__(tokenizer, sampling, seed=seed)
        self.max_rows = max_rows
        self.model_cfg = model_cfg
        self.whole = Whole(model, model_cfg, copies=copies, device=device)
        self.generator = generator_for(self.whole.module, model_cfg, sampling)
        self.stop_text = StopText.of(tokenizer, model_cfg, self.generator.device)

    def prompt_ids(self, question: Question) -> list[int]:
        """Token ids of the question's prompt, its image as places for it."""
        if question.image is None:
            return super().prompt_ids(question)
        return prompt_with_image(question.prompt, self.tokenizer, self.model_cfg)

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Take over the weights: they are the trainer's own, or copied; what is derived from them is made anew."""
        self.whole.refresh(model)
        self.generator.refresh()
        self.version = version

    def write(self, questions: list[Question], group_size: int, *, step: int) -> Share:
        """This rank's share: every rank writes as many answers to each question, or one more."""
        prompts = [self.prompt_ids(q) for q in questions]
        places = [(q, g) for q in range(len(questions)) for g in range(group_size)]
        mine = places[parallel.rank() :: parallel.world()]
        seeds = [answer_seed(self.seed, step, questions[q].id, g) for q, g in mine]
        images = [question.pixels for question in questions]
        sampled, *drafted = self._generate([prompts[q] for q, _ in mine], seeds, images=[images[q] for q, _ in mine])
        return Share(list(zip(mine, sampled, strict=True)), self.version, *drafted)

    def go_on(self, prompts: list[list[int]], begun: list[list[int]], seeds: list[int], *, more: int) -> list[Sampled]:
        """At most `more` further tokens of each answer; every rank calls it, writes a share and gets all."""
        rank, world = parallel.rank(), parallel.world()
        mine = slice(rank, None, world)
        shares = parallel.gather_objects(self._generate(prompts[mine], seeds[mine], begun[mine], more))
        self._tell(sum(proposed for _, proposed, _ in shares), sum(accepted for *_, accepted in shares))
        return [shares[i % world][0][i // world] for i in range(len(prompts))]

    def limit(self, prompt: list[int]) -> int:
        """Tokens after which an answer to the prompt is cut."""
        return self.generator.limit(prompt, self.sampling)

    def _generate(
        self,
        prompts: list[list[int]],
        seeds: list[int],
        begun: list[list[int]] | None = None,
        more: int | None = None,
        images: list[np.ndarray | None] | None = None,
    ) -> tuple[list[Sampled], int, int]:
        """-> answers, and tokens that a drafter proposed and accepted for them."""
        before = self._drafted()
        sampled = self.generator.generate(
            prompts,
            self.sampling,
            seeds=seeds,
            stop_ids=self.stop_ids,
            stop_text=self.stop_text,
            max_rows=self.max_rows,
            begun=begun,
            more=more,
            images=images,
        )
        proposed, accepted = (now - then for now, then in zip(self._drafted(), before, strict=True))
        return sampled, proposed, accepted

    def _drafted(self) -> tuple[int, int]:
        """Tokens proposed and accepted so far."""
        generator = self.generator
        speculative = isinstance(generator, SpeculativeGenerator)
        return (generator.proposed, generator.accepted) if speculative else (0, 0)
