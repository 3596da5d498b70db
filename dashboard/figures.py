"""What the page Curves draws of a run: figures by part, from the names of the metrics that were logged."""

import re

from dashboard.points import Figure, held_out

REWARD, LENGTH = "Reward on training questions", "Response length (nothing rewards it)"
PASS_AT_1 = "pass@1, 95 % interval"
OTHER = "Other"


def _figure(title: str, unit: str, *series: tuple[str, str], zero: bool = True) -> Figure:
    return Figure(title, unit, series, zero)


def _each(names: list[str], title: str, unit: str, pattern: str, *, zero: bool = True) -> Figure:
    """A line for each metric that matches whole; its group 1 is the name in the legend."""
    found = [(name, m[1].replace("_", " ")) for name in names if (m := re.fullmatch(pattern, name))]
    return Figure(title, unit, tuple(found), zero)


def by_part(names: list[str]) -> dict[str, list[Figure]]:
    """Part of the page -> its figures; those without a metric among names are left out, and so are empty parts.

    Each metric is drawn somewhere: what no figure knows stands under OTHER.
    """
    reward = _each(names, REWARD, "mean of answers", r"rl/reward/(.+)")
    pass_at_1 = Figure(PASS_AT_1, "share right", held_out(names, "pass_at_1"))
    length = _figure(LENGTH, "tokens", ("rl/response_tokens", "response"), ("rl/thinking_tokens", "thinking"))
    entropy = _figure("Entropy of the sampler", "nats a token", ("rl/entropy", "entropy"))
    kl = _figure("KL", "nats a token", ("rl/policy_kl", "to the sampling policy"), ("rl/kl", "to the reference"))
    shares = _figure(
        "Truncated and zero-variance",
        "share",
        ("rl/truncated_frac", "answers cut at the limit"),
        ("rl/zero_variance_frac", "groups of equal rewards"),
    )
    loss = _figure("Loss", "loss", ("train/loss", "training"), ("eval/loss", "held out"), zero=False)
    parts = {
        "Overview": [reward, pass_at_1, length, entropy, kl, shares, loss],
        "Held out": [
            pass_at_1,
            Figure("pass@k and majority@k", "share right", held_out(names, r"(?:pass_at_(?!1$)|majority_at_)\d+")),
            _each(names, "Length of held-out answers", "tokens", r"eval/(response|thinking)_tokens"),
            _figure(
                "Kinds of held-out answers",
                "share of answers",
                ("eval/format_rate", "right format"),
                ("eval/reflection_rate", "with a self-check"),
                ("eval/truncated_frac", "cut at the limit"),
                ("eval/language_consistency", "words in the question's language"),
            ),
            _each(names, "Preferences, held out", "", r"eval/((?:dpo|reward_model)/.+)"),
        ],
        "Reward": [
            reward,
            _each(names, "Preference pairs", "", r"(?:dpo|reward_model)/(.+)"),
            _figure("Value of the critic", "reward", ("rl/value", "value")),
            _each(names, "How well the critic explains", "share of variance", r"rl/(explained_variance)", zero=False),
        ],
        "Length": [
            length,
            _figure(
                "Response length by result",
                "tokens",
                ("rl/response_tokens_correct", "right answers"),
                ("rl/response_tokens_wrong", "wrong answers"),
            ),
            _figure("Reflection rate", "share of answers", ("rl/reflection_rate", "with a self-check")),
            shares,
            _each(names, "Partial rollouts", "share", r"rl/(partial_carried_frac|repetition_frac)"),
        ],
        "Policy": [
            entropy,
            kl,
            _each(
                names, "Clipped and capped tokens", "share", r"rl/(clip_frac|value_clip_frac|importance_capped_frac)"
            ),
            _each(names, "Sampler against trainer", "difference of logprobs", r"rl/(sampler_trainer_diff)"),
            _each(names, "Ratio of policies", "mean", r"rl/(ratio|importance|log_ratio)", zero=False),
            _each(names, "Staleness", "updates", r"rl/(staleness)"),
        ],
        "Optimiser": [
            loss,
            _figure("Gradient norm", "norm", ("train/grad_norm", "policy"), ("rl/value_grad_norm", "critic")),
            _figure("Learning rate", "rate", ("train/lr", "learning rate")),
            _figure("Loss of the critic", "loss", ("rl/value_loss", "critic"), zero=False),
        ],
        "Speed": [
            _figure("Training speed", "tokens/s", ("train/tokens_per_s", "tokens/s")),
            _each(names, "Time of a step", "seconds", r"time/(.+)_s"),
            _each(names, "Memory", "GiB", r"memory/(.+)_gib"),
        ],
        "Experts and MTP": [
            _each(names, "Load of the busiest expert", "above the mean, 1 = twice", r"moe/(maxvio)"),
            _each(names, "Bias of the experts", "", r"moe/(.*bias.*)", zero=False),
            _each(names, "Load of experts", "", r"moe/(?!maxvio$)(?!.*bias)(.+)"),
            _each(names, "Acceptance of the second token", "share of proposals", r"mtp/(.*acceptance)"),
            _figure("Weight of the MTP loss", "lambda", ("train/mtp_lambda", "lambda")),
        ],
    }
    drawn = {metric for figures in parts.values() for figure in figures for metric in figure.metrics}
    ends = {f"{metric}_{end}" for metric in drawn for end in ("low", "high")}
    parts[OTHER] = [Figure(name, "", ((name, name),), zero=False) for name in sorted(set(names) - drawn - ends)]
    there = set(names)
    return {
        part: kept
        for part, figures in parts.items()
        if (kept := [figure for figure in figures if there & set(figure.metrics)])
    }


def found(parts: dict[str, list[Figure]], words: str) -> list[Figure]:
    """Figures of any part in whose title or metrics the words stand."""
    wanted = words.casefold().strip()
    every = {figure.title: figure for figures in parts.values() for figure in figures}
    return [f for f in every.values() if any(wanted in text.casefold() for text in (f.title, *f.metrics))]
