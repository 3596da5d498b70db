"""The settings of R1's stages beside those of RL and SFT; without torch."""

from dataclasses import dataclass, field

from infra.errors import ConfigError
from modeling.vision_config import Vision


def _positive(section: str, cfg: object, *keys: str) -> None:
    for key in keys:
        if getattr(cfg, key) < 1:
            raise ConfigError(f"{section}.{key}", getattr(cfg, key), "nothing would be made", "set at least 1")


def _shares(section: str, cfg: object, *keys: str) -> None:
    for key in keys:
        if not 0 <= getattr(cfg, key) <= 1:
            raise ConfigError(f"{section}.{key}", getattr(cfg, key), "is a share", "set it from 0 to 1")


@dataclass(kw_only=True, slots=True)
class FilterConfig:
    """What readable thinking is (R1 §2.3.3 leaves out mixed languages, long paragraphs and code blocks)."""

    max_paragraph: int = 400
    "Longest paragraph of the thinking, in characters; a line break ends one."
    language_share: float = 1.0
    "Least share of the thinking's words that are of the question's language."

    def __post_init__(self) -> None:
        _positive("filter", self, "max_paragraph")
        _shares("filter", self, "language_share")


@dataclass(kw_only=True, slots=True)
class CaptionsConfig:
    """How a language model learns to see (Kimi k1.5 §2.1); the SFT itself is sft.*."""

    vision: Vision = Vision.tiny
    "The encoder: tiny, or the shape of clip_vit_l or siglip_so400m."
    encoder: str = ""
    "Weights that the encoder starts from: a CLIP or SigLIP folder of Hugging Face, or owner/name; empty: none."
    reading_steps: int = 0
    "Steps of 64 pictures in which the tiny encoder learns to read before the language model looks; 0: none."
    examples: int = 12_000
    "Examples of an epoch."
    share_worked: float = 0.3
    "Share of the pictures whose caption is followed by a search, as the base's corpus has it, right or wrong."
    share_text: float = 0.2
    "Share of the examples that are questions in text, lest the model forget how to read them."
    evaluate_images: int = 96
    "Held-out pictures of which eval/caption_accuracy is the share read right; 0 leaves it out."

    def __post_init__(self) -> None:
        _positive("captions", self, "examples")
        _shares("captions", self, "share_worked", "share_text")
        if self.vision is Vision.none:
            raise ConfigError("captions.vision", "none", "there would be nothing to see with", "set tiny")
        for key in ("evaluate_images", "reading_steps"):
            if getattr(self, key) < 0:
                raise ConfigError(f"captions.{key}", getattr(self, key), "cannot be negative", "set 0 for none")
        if self.reading_steps and (self.vision is not Vision.tiny or self.encoder):
            problem = f"captions.vision={self.vision.name}{' with weights' * bool(self.encoder)} comes pre-trained"
            raise ConfigError("captions.reading_steps", self.reading_steps, problem, "set captions.reading_steps=0")


@dataclass(kw_only=True, slots=True)
class ColdStartConfig:
    """The long answers that the base is first trained on (R1 §2.3.1); the SFT itself is sft.*."""

    examples: int = 400
    "Answers in the set."
    solver_share: float = 1.0
    "Share of them that the corpus' solver writes; the others are R1-Zero's own, filtered and given a summary."
    zero: str = ""
    "The R1-Zero model that writes the others: a run, a checkpoint or a Hugging Face folder."
    samples: int = 4
    "Answers that R1-Zero writes to each question; at most one of them is kept."
    carelessness: float = 0.3
    "Probability that the solver takes a near miss for the target; it checks, finds out, and goes on."
    share_chinese: float = 0.2
    "Share of the solver's answers to Chinese questions, in Chinese."

    def __post_init__(self) -> None:
        _positive("cold_start", self, "examples", "samples")
        _shares("cold_start", self, "solver_share", "carelessness", "share_chinese")

    def check(self) -> None:
        """What the command needs, once all settings are there. Raises ConfigError."""
        if self.solver_share < 1 and not self.zero:
            raise ConfigError(
                "cold_start.solver_share",
                self.solver_share,
                "the others are R1-Zero's, and none is named",
                "set cold_start.zero=FOLDER, or cold_start.solver_share=1",
            )


@dataclass(kw_only=True, slots=True)
class RejectionConfig:
    """The set of R1 §2.3.3: sampled from the reasoning model, kept where right and readable."""

    questions: int = 600
    "Reasoning questions asked (task.names)."
    samples: int = 4
    "Answers to each."
    keep: int = 2
    "Right and readable answers kept of each question, at most; no two the same."
    general: list[str] = field(default_factory=list)
    "Tasks of the general part, as in task.names; none: the set is reasoning alone."
    general_questions: int = 250
    "General questions asked."
    general_samples: int = 2
    "Answers to each; 0: references alone."
    judge_least: float = 0.7
    "Least that a judge (reward.judge) has to give a general answer, 0 to 1; without one the task's rule decides."
    references: bool = True
    "Whether a general question that the model fails comes in with the task's own answer (R1: data of V3's SFT)."
    reasoning_per_general: float = 3.0
    "Reasoning samples to each general one (R1: 600,000 to 200,000)."
    first_question: int = 1_000_000
    "Number of the first training question asked, beyond those of RL."
    chunk: int = 64
    "Questions answered between two saves."

    def __post_init__(self) -> None:
        _positive("rejection", self, "questions", "samples", "keep", "chunk")
        for key in ("general_questions", "general_samples", "first_question"):
            if getattr(self, key) < 0:
                raise ConfigError(f"rejection.{key}", getattr(self, key), "cannot be negative", "set 0 or more")
        if self.reasoning_per_general <= 0:
            raise ConfigError("rejection.reasoning_per_general", self.reasoning_per_general, "is no ratio", "set 3")


@dataclass(kw_only=True, slots=True)
class ScenariosConfig:
    """RL for all scenarios (R1 §2.3.4); the RL itself is rl.*."""

    general: list[str] = field(default_factory=list)
    "Tasks whose answers preference rewards judge, as in task.names; none: reasoning alone."
    general_part: float = 0.235
    "Last part of the steps, the only one in which they are asked (R1: 400 of 1,700 steps)."
    general_share: float = 0.5
    "Share of general questions in that part."

    def __post_init__(self) -> None:
        _shares("all_scenarios", self, "general_part", "general_share")
