"""The length reward of Kimi k1.5 (K §2.3.3): among the answers to one question, shorter right ones earn more.

Off unless reward.length is set: R1-Zero never rewards length, and its growth has to come by itself.
"""


def length_rewards(lengths: list[int], right: list[bool]) -> list[float]:
    """lengths, right: [group], tokens of each answer to one question and whether it is right -> rewards [group].

    With lambda = 0.5 - (length - min) / (max - min), min and max over all answers, right answers get lambda and wrong
    ones min(0, lambda); all get 0 where max = min.

    >>> length_rewards([100, 200, 300, 100], [True, True, True, False])
    [0.5, 0.0, -0.5, 0.0]
    """
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    rewards = []
    for length, is_right in zip(lengths, right, strict=True):
        shown = 0.5 - (length - shortest) / (longest - shortest)
        rewards.append(shown if is_right else min(0.0, shown))
    return rewards


def length_weight(weight: float, warmup: float, progress: float) -> float:
    """The reward's weight: 0 until the share `warmup` of the steps is done, then constant (K §2.3.3).

    >>> length_weight(0.2, 0.5, 0.49), length_weight(0.2, 0.5, 0.5)
    (0.0, 0.2)
    """
    return weight if progress >= warmup else 0.0
