"""Reasoning RL (R1 §2.3.2): R1-Zero's loop from the cold start, with a reward for thinking in the question's language.

The loop is rl/stages/zero.py's; what is added is the language consistency reward and, as since the cold start, a
format with a summary. R1 §2.3.2 notes that the language reward costs a little accuracy.
"""

from functools import partial

from infra.errors import ConfigError
from rl.rewards.base import RewardConfig
from rl.stages import zero

STAGE = "reasoning"

run = partial(zero.run, stage=STAGE)
"""zero.run as this stage: checkpoint in, checkpoint out."""


def check(reward: RewardConfig) -> None:
    """Raise ConfigError where nothing pays for language consistency, which is what the stage is for."""
    if reward.language <= 0:
        raise ConfigError(
            "reward.language", reward.language, "this stage rewards language consistency", "set 0.1, or run r1 zero"
        )
