"""Distillation (R1 §2.4): supervised fine-tuning of a student on what the teacher wrote, and no RL.

Students are of other families than the teacher: their own tokenizer reads the set as text, and one with a chat template
gets each question in it. The contrast, RL alone on the same student, is `r1 zero rl.checkpoint=STUDENT`.
"""

from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from training import sft
from training.data import chat


def run(student: Path, data: Path, **settings: Any) -> Path:
    """sft.run with the teacher's set; -> the student's folder. settings: sft.run's.

    Raises ConfigError where the set holds no thinking: distilling is to teach that.
    """
    thinking = sum(
        "<think>" in conversation.response for conversation in chat.read(data, max_bad=settings["cfg"].max_bad)
    )
    if not thinking:
        raise ConfigError("sft.data", data, "none of its responses thinks", "give the set that r1 rejection made")
    return sft.run(student, data, **settings)
