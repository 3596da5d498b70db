"""What the engines have in common: each rank writes its share of the answers, then all ranks get all of them."""

import hashlib
from dataclasses import dataclass

from infra.errors import R1Error
from modeling.sampling import Sampled, SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.reflection import thinking_of
from rl.types import Completion, Question
from training import parallel

THINK = "<think>"


@dataclass(slots=True)
class Share:
    """What one rank wrote, of answers that all ranks wrote together."""

    answers: list[tuple[tuple[int, int], Sampled]]
    "((question, place in the group), answer); entropies are empty where the engine does not know them."
    version: int
    "Of the weights."
    proposed: int = 0
    "Tokens that a drafter proposed."
    accepted: int = 0
    "Those of them that stood."
    problem: str = ""
    "Why there are none; every rank raises it."


def answer_seed(seed: int, step: int, question_id: str, index: int) -> int:
    """The sampling seed of one answer: a function of what is asked, not of rank, batch or order."""
    digest = hashlib.blake2b(f"{seed}/{step}/{question_id}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class SharingEngine:
    """A RolloutEngine but for write and load_weights."""

    def __init__(self, tokenizer: Tokenizer, sampling: SamplingConfig, *, seed: int) -> None:
        self.tokenizer, self.sampling, self.seed = tokenizer, sampling, seed
        self.stop_ids = tokenizer.stop_ids
        self.version = 0
        self._metrics: dict[str, float] = {}

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_id

    def prompt_ids(self, question: Question) -> list[int]:
        """Token ids of the question's prompt."""
        return self.tokenizer.encode(question.prompt)

    def has_ended(self, tokens: list[int]) -> bool:
        """Whether an answer was ended by the model, not cut."""
        text = self.tokenizer.stop_text
        return tokens[-1] in self.stop_ids or (text != "" and text in self.tokenizer.decode(tokens))

    def generate(self, questions: list[Question], group_size: int, *, step: int) -> list[list[Completion]]:
        """[question][group] answers, the same list on every rank."""
        return self.gather(self.write(questions, group_size, step=step), questions, group_size)

    def write(self, questions: list[Question], group_size: int, *, step: int) -> Share:
        """This rank's share of the answers. Talks to no other rank, so that it may run beside the training."""
        raise NotImplementedError

    def gather(self, share: Share, questions: list[Question], group_size: int) -> list[list[Completion]]:
        """All ranks' shares as [question][group] answers; every rank calls it. Raises R1Error where a rank failed."""
        shares = parallel.gather_objects(share)
        problem = next((s.problem for s in shares if s.problem), "")
        if problem:
            raise R1Error(problem)
        proposed, accepted = (sum(getattr(s, name) for s in shares) for name in ("proposed", "accepted"))
        self._tell(proposed, accepted)
        answers = {(q, g): self.completion(questions[q], a, s.version) for s in shares for (q, g), a in s.answers}
        return [[answers[q, g] for g in range(group_size)] for q in range(len(questions))]

    def _tell(self, proposed: int, accepted: int) -> None:
        self._metrics = {"mtp/rollout_acceptance": accepted / proposed} if proposed else {}

    def metrics(self) -> dict[str, float]:
        """mtp/rollout_acceptance: share of the drafter's proposals that stood, where there is a drafter."""
        return dict(self._metrics)

    def close(self) -> None:
        """Give back what the engine holds outside this process."""

    def completion(self, question: Question, sampled: Sampled, version: int) -> Completion:
        """An answer as the rest of RL reads it."""
        # Some chat templates open the thinking themselves (R1's does); the rules read an answer as if it had.
        opening = THINK if question.prompt.rstrip().endswith(THINK) else ""
        text = opening + self.tokenizer.decode(sampled.tokens)
        return Completion(
            tokens=sampled.tokens,
            text=text,
            sampler_logprobs=sampled.logprobs,
            entropies=sampled.entropies,
            stopped=sampled.stopped,
            version=version,
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
