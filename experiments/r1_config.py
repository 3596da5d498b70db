"""The settings of `r1 r1` and `r1 lineage`; without torch."""

from dataclasses import dataclass

from infra.errors import ConfigError
from modeling.config import ModelConfig
from modeling.presets import PRESETS


@dataclass(kw_only=True, slots=True)
class R1Config:
    """The graph of `r1 r1`: base, cold start, reasoning RL, rejection sampling and SFT, RL for all scenarios, student.

    Each stage takes the settings of its own file in conf/stage; what is typed goes to every stage that reads it.
    """

    base: str = ""
    "Folder of the base; empty: the released one."
    zero: bool = True
    "Train R1-Zero first: its filtered answers become half of the cold start; false: the solver writes all of it."
    preferences: bool = True
    "Whether two reward models are trained, which judge general questions in RL for all scenarios (R1 §2.3.4)."
    student: str = "tiny_qwen2"
    "Shape of the student, a preset of a dense family, pre-trained on the same corpus; empty: none is distilled."
    contrast: bool = True
    "Whether the same student is also trained by RL alone (R1 §4.1)."

    def __post_init__(self) -> None:
        if self.student and not (self.student in PRESETS and ModelConfig.preset(self.student).is_dense):
            dense = [name for name in PRESETS if ModelConfig.preset(name).is_dense]
            raise ConfigError("r1.student", self.student, "is no dense preset", f"choose one of {', '.join(dense)}")


@dataclass(kw_only=True, slots=True)
class LineageConfig:
    """Where a model comes from."""

    checkpoint: str = ""
    "A run, a checkpoint, a model's folder or a set."
