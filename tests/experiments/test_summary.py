"""What a journey ends with: the table, three answers to one question, text made safe for a terminal, the figures."""

import json

from experiments.figures import draw, moving_mean, read_metrics
from experiments.summary import printable, table, three_answers

SCORES = {
    "pass_at_1": {"mean": 0.25, "low": 0.2, "high": 0.3},
    "majority_at_8": 0.5,
    "pass_at_8": 0.75,
    "response_tokens": 42.0,
    "reflection_rate": 0.1,
    "format_rate": 0.9,
    "truncated": 0.0,
    "questions": 16,
    "samples": 8,
}


def test_table_sets_both_models_side_by_side():
    lines = table(SCORES, SCORES | {"majority_at_8": 0.875}).splitlines()
    assert lines[1].split() == ["pass@1", "[95", "%", "interval]"] + ["0.250", "[0.200,", "0.300]"] * 2
    assert lines[2].split() == ["majority@8", "0.500", "0.875"]


def _answer(question: str, group: int, right: float, text: str) -> dict:
    prompt = f"User: {question}"
    return dict(
        question_id=question, group=group, reward_accuracy=right, text=text, prompt=prompt, response_tokens=len(text)
    )


def test_three_answers_are_first_tries_at_the_first_question_that_the_end_answers_at_once():
    base = [_answer(q, g, 0.0, f"base {q}{g}") for q in "ab" for g in (0, 1)]
    end = [_answer("a", 0, 0.0, "x"), _answer("a", 1, 1.0, "y"), _answer("b", 0, 1.0, "z"), _answer("b", 1, 0.0, "w")]
    assert three_answers([("base", base), ("end", end)]).splitlines() == [
        "User: b",
        "--- base (wrong, 7 tokens)",
        "base b0",
        "--- end (right, 1 tokens)",
        "z",
    ]


def test_terminal_codes_are_shown_and_not_obeyed():
    assert printable("a\x1b[31mred\nb\x07\u202e") == "a\\x1b[31mred\nb\\x07\\x202e"
    assert printable("x" * 5000, limit=10) == "x" * 10


def test_moving_mean_by_hand():
    assert moving_mean([1.0, 2.0, 3.0, 4.0], window=2) == [1.0, 1.5, 2.5, 3.5]


def test_figures_are_drawn_from_a_resumed_and_cut_metrics_file(tmp_path):
    rows = [(1, 0.1), (2, 0.9), (2, 0.2), (3, 0.3)]  # step 2 was done twice
    lines = [json.dumps({"step": s, "metrics": {"rl/reward/accuracy": v, "rl/response_tokens": None}}) for s, v in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "met']))
    assert read_metrics(tmp_path) == {"rl/reward/accuracy": [(1, 0.1), (2, 0.2), (3, 0.3)]}
    paths = draw(tmp_path, tmp_path / "figures", task="countdown", base=SCORES)
    assert [p.name for p in paths] == ["accuracy.png", "response_length.png", "reflection.png"]
    assert all(p.stat().st_size > 5000 for p in paths)
