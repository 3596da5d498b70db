"""Rollouts in process: on the very weights that train, or on a copy of them."""

from torch import nn

from modeling.config import ModelConfig
from modeling.generate import SamplingConfig
from modeling.speculate import SpeculativeGenerator, generator_for
from modeling.tokenizer import Tokenizer
from rl.rollout.copy import copy_weights
from rl.rollout.sharing import Share, SharingEngine, answer_seed
from rl.types import Question
from training import parallel


class LocalEngine(SharingEngine):
    """RolloutEngine over modeling.generate. On the trainer's own model it differs from it by rounding only."""

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
    ) -> None:
        """copies: `model` is the sampler's own, and load_weights copies the trainer's weights into it."""
        super().__init__(tokenizer, sampling, seed=seed)
        self.max_rows, self.own = max_rows, model if copies else None
        self.generator = generator_for(model, model_cfg, sampling)

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Take over the weights: they are the trainer's own, or copied; what is derived from them is made anew."""
        if self.own is not None:
            copy_weights(model, self.own)
        self.generator.refresh()
        self.version = version

    def write(self, questions: list[Question], group_size: int, *, step: int) -> Share:
        """This rank's share: every data-parallel rank writes as many answers to each question, or one more."""
        prompts = [self.prompt_ids(q) for q in questions]
        places = [(q, g) for q in range(len(questions)) for g in range(group_size)]
        mine = places[parallel.data_rank() :: parallel.data_size()]
        before = self._drafted()
        sampled = self.generator.generate(
            [prompts[q] for q, _ in mine],
            self.sampling,
            seeds=[answer_seed(self.seed, step, questions[q].id, g) for q, g in mine],
            stop_ids=self.stop_ids,
            max_rows=self.max_rows,
        )
        drafted = [now - then for now, then in zip(self._drafted(), before, strict=True)]
        return Share(list(zip(mine, sampled, strict=True)), self.version, *drafted)

    def _drafted(self) -> tuple[int, int]:
        """Tokens proposed and accepted so far."""
        generator = self.generator
        speculative = isinstance(generator, SpeculativeGenerator)
        return (generator.proposed, generator.accepted) if speculative else (0, 0)
