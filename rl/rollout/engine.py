"""The engine protocol: whatever writes answers. Local sampling, Megatron's engine and vLLM's server behind it."""

from typing import TYPE_CHECKING, Protocol

from rl.types import Completion, Question

if TYPE_CHECKING:  # settings are judged before torch is there
    from torch import nn


class RolloutEngine(Protocol):
    """Writes answers with the weights it was last given."""

    version: int
    "The optimiser step of the weights in use: kept with every sample, so that staleness can be seen."

    pad_id: int
    "Filler of rows shorter than their batch."

    def prompt_ids(self, question: Question) -> list[int]:
        """Token ids of the question's prompt, as the engine reads it."""
        ...

    def generate(self, questions: list[Question], group_size: int, *, step: int) -> list[list[Completion]]:
        """[question][group] answers. Every rank gets all of them; who wrote which is the engine's business."""
        ...

    def load_weights(self, model: "nn.Module", version: int) -> None:
        """Take over the weights of the trainer's network, this rank's part of it, as they are at optimiser step
        `version`; every rank calls it."""
        ...

    def metrics(self) -> dict[str, float]:
        """What the engine says of the answers it gave last, equal on every rank."""
        ...
