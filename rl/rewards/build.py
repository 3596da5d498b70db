"""The rewards beyond the rules that a RewardConfig asks for."""

from modeling.config import Modules
from rl.rewards.base import Reward, RewardConfig
from rl.rewards.card import read_card
from rl.rewards.judge import Judge, JudgeReward
from rl.rewards.preference import PreferenceReward


def build_rewards(cfg: RewardConfig, modules: Modules = Modules.auto) -> list[Reward]:
    """Reward models and judge, ready to score; none by default. Every rank calls it, after parallel.init.

    Raises CheckpointError, before anything is loaded, for a folder without a reward model.
    """
    models = [(name, getattr(cfg, name), getattr(cfg, f"{name}_weight")) for name in ("helpful", "harmless")]
    models = [(name, folder, weight) for name, folder, weight in models if folder]
    for name, folder, _ in models:
        read_card(folder, f"reward.{name}")
    rewards: list[Reward] = [PreferenceReward(name, folder, weight, modules) for name, folder, weight in models]
    if cfg.judge_weight:
        rewards.append(JudgeReward(Judge(cfg.judge), cfg.judge_weight))
    return rewards
