"""Rollouts in process, on the very weights that train: sampler and trainer can differ by rounding only.

Where the layout splits the network each rank gathers a whole copy for them, and all ranks write.
"""

import hashlib

from modeling.config import ModelConfig
from modeling.generate import Generator, SamplingConfig
from modeling.stop import StopText
from modeling.tokenizer import Tokenizer
from rl.reflection import thinking_of
from rl.types import Completion, Question
from training import parallel
from training.whole import Whole

THINK = "<think>"


def answer_seed(seed: int, step: int, question_id: str, index: int) -> int:
    """The sampling seed of one answer: a function of what is asked, not of rank, batch or order."""
    digest = hashlib.blake2b(f"{seed}/{step}/{question_id}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class LocalEngine:
    """RolloutEngine over modeling.generate; each rank writes its share of every group, then all are shared.

    model: the trainer's network, this rank's part of it. Every rank calls every method.
    """

    def __init__(
        self,
        model,
        model_cfg: ModelConfig,
        tokenizer: Tokenizer,
        sampling: SamplingConfig,
        *,
        seed: int,
        max_rows: int = 256,
    ) -> None:
        self.tokenizer, self.sampling, self.seed, self.max_rows = tokenizer, sampling, seed, max_rows
        self.whole = Whole(model, model_cfg)
        self.generator = Generator(self.whole.module, model_cfg)
        self.stop_ids, self.stop_text = tokenizer.stop_ids, StopText.of(tokenizer, model_cfg, self.generator.device)
        self.version = 0

    def prompt_ids(self, question: Question) -> list[int]:
        """Token ids of the question's prompt."""
        return self.tokenizer.encode(question.prompt)

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_id

    def load_weights(self, version: int) -> None:
        """Where the weights are the trainer's own, only what was derived from them (absorbed matrices) is made anew."""
        self.whole.refresh()
        self.generator.refresh()
        self.version = version

    def generate(self, questions: list[Question], group_size: int, *, step: int) -> list[list[Completion]]:
        """[question][group] answers, the same list on every rank (gathered)."""
        prompts = [self.prompt_ids(q) for q in questions]
        places = [(q, g) for q in range(len(questions)) for g in range(group_size)]
        mine = places[parallel.rank() :: parallel.world()]
        sampled = self.generator.generate(
            [prompts[q] for q, _ in mine],
            self.sampling,
            seeds=[answer_seed(self.seed, step, questions[q].id, g) for q, g in mine],
            stop_ids=self.stop_ids,
            stop_text=self.stop_text,
            max_rows=self.max_rows,
        )
        answers = {}
        for share in parallel.gather_objects(list(zip(mine, sampled, strict=True))):
            answers.update(share)
        return [[self._completion(q, answers[i, g]) for g in range(group_size)] for i, q in enumerate(questions)]

    def _completion(self, question: Question, sampled) -> Completion:
        # Some chat templates open the thinking themselves (R1's does); the rules read an answer as if it had.
        opening = THINK if question.prompt.rstrip().endswith(THINK) else ""
        text = opening + self.tokenizer.decode(sampled.tokens)
        return Completion(
            tokens=sampled.tokens,
            text=text,
            sampler_logprobs=sampled.logprobs,
            entropies=sampled.entropies,
            stopped=sampled.stopped,
            version=self.version,
            thinking_tokens=self._thinking_tokens(sampled.tokens, text, opened=bool(opening)),
        )

    def _thinking_tokens(self, tokens: list[int], text: str, opened: bool) -> int:
        """Tokens between <think> and </think>, or to the end where it is not closed."""
        if self.tokenizer.think_id is None or self.tokenizer.think_end_id is None:
            return len(self.tokenizer.encode(thinking_of(text)))
        if not opened and self.tokenizer.think_id not in tokens:
            return 0
        rest = tokens if opened else tokens[tokens.index(self.tokenizer.think_id) + 1 :]
        return rest.index(self.tokenizer.think_end_id) if self.tokenizer.think_end_id in rest else len(rest)
