"""The tables of what was reproduced, from experiments/results/ into README, each between its two marks.

`python -m experiments.report` writes it; a test compares. Nothing in it is typed by hand.
"""

import json
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results" / "spine"
START, END = "<!-- results: python -m experiments.report -->\n", "<!-- end of results -->"
R1_START, R1_END = "<!-- r1: python -m experiments.report -->\n", "<!-- end of r1 -->"


def table() -> str:
    """Markdown: a row a claim, with its figures over the seeds of each journey."""
    rows = [
        "| claim | paper | from | base -> R1-Zero: mean over seeds (least to most) | holds |",
        "|---|---|---|---|---|",
    ]
    for pattern, command in (("reproduce", "`make reproduce`"), ("quick", "`make quick`")):
        runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{pattern}_seed*.json"))]
        rows += [_row(claim, command, runs) for claim in CLAIMS] if runs else []
    return "\n".join(rows) + "\n"


def _pass(scores: dict) -> float:
    return scores["pass_at_1"]["mean"]


# (claim, the paper's figure, the quantity, what has to hold of (base, zero) in a seed)
CLAIMS = [
    (
        "RL alone raises accuracy: pass@1 at least doubles, to 0.6 or more",
        "AIME 15.6 % -> 71.0 % (R1 §2.2.4)",
        _pass,
        lambda base, zero: zero >= 2 * base and zero >= 0.6,
    ),
    (
        "answers grow though nothing rewards length: at least 1.5 times as long",
        "hundreds -> ~10,000 tokens (R1 fig. 3)",
        lambda scores: scores["response_tokens"],
        lambda base, zero: zero >= 1.5 * base,
    ),
    (
        "self-checks become at least 1.5 times as frequent",
        "described, not counted (R1 §2.2.4)",
        lambda scores: scores["reflection_rate"],
        lambda base, zero: zero >= 1.5 * base,
    ),
    (
        "majority of 8 beats pass@1 after RL",
        "71.0 % -> 86.7 % by majority of 64 (R1)",
        lambda scores: scores["majority_at_8"],
        None,
    ),
]


def _row(claim: tuple, command: str, runs: list[dict]) -> str:
    text, paper, quantity, rule = claim
    pairs = [(quantity(run["base"]), quantity(run["zero"])) for run in runs]
    if rule is None:
        held = sum(quantity(run["zero"]) > _pass(run["zero"]) for run in runs)
    else:
        held = sum(rule(*pair) for pair in pairs)
    base, zero = (_spread(values) for values in zip(*pairs, strict=True))
    return f"| {text} | {paper} | {command} | {base} -> {zero} | in {held} of {len(runs)} seeds |"


def _spread(values: tuple[float, ...]) -> str:
    digits = 0 if max(values) > 2 else 2
    middle = f"{mean(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def r1_table() -> str:
    """Markdown: a row a stage of the committed `make r1`."""
    rows = ["| stage | pass@1 | tokens | thinking | language | format | self-checks | seconds |", "|" + "---|" * 8]
    for stage in json.loads((RESULTS.parent / "r1" / "summary.json").read_text()):
        low, middle, high = (stage["pass_at_1"][name] for name in ("low", "mean", "high"))
        thinking = "-" if stage["thinking_tokens"] is None else f"{stage['thinking_tokens']:.0f}"
        shares = (stage[name] for name in ("language_consistency", "format_rate", "reflection_rate"))
        cells = [stage["stage"], f"{middle:.3f} [{low:.3f}, {high:.3f}]", f"{stage['response_tokens']:.0f}", thinking]
        cells += [*(f"{share:.2f}" for share in shares), f"{stage['seconds']:.0f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def written(text: str) -> str:
    """README's text with the tables in their places."""
    for start, end, made in ((START, END, table()), (R1_START, R1_END, r1_table())):
        head, _, rest = text.partition(start)
        _, _, tail = rest.partition(end)
        text = f"{head}{start}{made}{end}{tail}"
    return text


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(written(path.read_text()))
