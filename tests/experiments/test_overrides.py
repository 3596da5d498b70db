"""Text settings reach the run as they were typed, whatever is in them."""

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import overrides
from experiments.config import Config, compose
from infra.errors import ConfigError

HOSTILE = ["", "a b=c,d", "a'b\"c", "a\\", "\\'", "${oc.env:HOME}", "\\${x}", "null", "3", "[a]", "{x: 1}", "héé\t\n对"]


def test_text_is_taken_literally() -> None:
    keys = ["run.name", "run.dir", "generate.prompt", "generate.checkpoint", "tracking.uri"]
    for texts in (HOSTILE[:5], HOSTILE[5:10], HOSTILE[10:]):
        cfg = compose("pretrain", [f"{key}={text}" for key, text in zip(keys, texts, strict=False)])
        said = [cfg.run.name, cfg.run.dir, cfg.generate.prompt, cfg.generate.checkpoint, cfg.tracking.uri]
        assert said[: len(texts)] == [text or "runs/pretrain" * (i == 1) for i, text in enumerate(texts)]


def test_a_question_needs_no_second_quotes() -> None:
    assert compose("generate", ["generate.prompt=Make 18 from 3, 5, 8."]).generate.prompt == "Make 18 from 3, 5, 8."


@settings(max_examples=40, deadline=None)
@given(st.text(st.sampled_from(string.printable + "é对\0"), max_size=12), st.text(max_size=12))
def test_any_words_are_settings_or_one_line(key: str, value: str) -> None:
    try:
        overrides.prepare(
            [f"{key}={value}", f"rl.{key}={value}", f"rl.steps={value}"], Config, ["model"], lambda group: ["tiny"]
        )
    except ConfigError as error:
        assert str(error)


def test_replacing_judges_again() -> None:
    cfg = overrides.replace_text(Config(), "run.dir", "elsewhere")
    assert (cfg.run.dir, Config().run.dir) == ("elsewhere", "")
