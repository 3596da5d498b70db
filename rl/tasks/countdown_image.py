"""Countdown with the question in a picture, for models that see (Kimi k1.5 §2.1's joint text and image RL, small)."""

from dataclasses import replace

from modeling.vision_config import IMAGE
from rl.tasks.countdown import Countdown
from rl.types import Question
from training.data.countdown import Numbers
from training.data.pictures import draw

IN_WORDS = (
    f"{IMAGE}\nMake the number at the top from the numbers on the tiles below it: use each of them exactly once, with "
    "+ - * / and brackets. The answer is the expression alone, as in (11 + 12) * 13."
)


class CountdownImage(Countdown):
    """Countdown's questions, the same in both splits; the prompt names no number."""

    name = "countdown_image"

    def _question(self, name: str, numbers: Numbers, target: int) -> Question:
        question = super()._question(name, numbers, target)
        prompt = self.template.prompt(IN_WORDS if self.template.in_words else IMAGE)
        return replace(question, prompt=prompt, image=draw(numbers, target).tolist())
