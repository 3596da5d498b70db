"""The records that RL passes around, each with an example."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Question:
    """One question of a task.

    Example: Question("countdown/train/7", "countdown", "User: Make 64 from 3, 5, 8.\\nAssistant:", "(3+5)*8",
    {"numbers": [3, 5, 8], "target": 64})
    """

    id: str
    "Unique within its task and split; answers are sampled with seeds made from it."
    task: str
    "Name of the task that judges the answer."
    prompt: str
    "What the model reads, template included."
    answer: str
    "A right answer, for people to read; the task decides what is right."
    meta: dict = field(default_factory=dict)
    "What the task needs to judge an answer; plain JSON types."
    image: list[list[int]] | None = None
    "What stands at <image> in the prompt, [height][width] from 0 (black) to 255; None: the prompt is text alone."

    @property
    def pixels(self) -> np.ndarray | None:
        """The image as uint8 [height, width]."""
        return None if self.image is None else np.array(self.image, dtype=np.uint8)


@dataclass(slots=True)
class Completion:
    """One answer to a question: all the model wrote, and later what it earned.

    Example: Completion([4, 90, 5], "<answer>8*5</answer>", [-0.1, -2.0, 0.0], [0.3, 1.9, 0.0], stopped=True)
    """

    tokens: list[int]
    "The response with its stop token, [response]."
    text: str
    "The same as text, special tokens included."
    sampler_logprobs: list[float]
    "The sampler's log-probability of each token, [response]."
    entropies: list[float]
    "Entropy of the sampler's distribution at each token, nats, [response]."
    stopped: bool
    "Whether the model ended it itself; False where the length limit cut it."
    version: int = 0
    "Version of the weights that wrote it, or its end."
    segments: list[tuple[int, int]] = field(default_factory=list)
    "(version of the weights, tokens they wrote), in order, of an answer in parts; empty: one version wrote all."
    repeats: bool = False
    "Whether it was cut for repeating itself."
    trainer_logprobs: list[float] = field(default_factory=list)
    "The trainer's before the step changes it, [response]; empty where this rank did not ask for them."
    thinking_tokens: int = 0
    "Tokens between <think> and </think>; counted by the engine, which knows the tokens."
    reward: float = 0.0
    "What it earned."
    breakdown: dict[str, float] = field(default_factory=dict)
    "The parts of it by name, not yet weighted: accuracy, format (0 to 1); length (-0.5 to 0.5) and others where paid."
    advantage: float = 0.0
    "Reward compared with the group's, for every token of it."

    @property
    def last_segment(self) -> int:
        """Where the last segment begins: tokens before it."""
        return len(self.tokens) - self.segments[-1][1] if self.segments else 0


@dataclass(slots=True)
class Group:
    """A question and the answers to it, which are compared with each other."""

    question: Question
    completions: list[Completion]
    "[group]"
