"""The stop text across token borders, against Python's own search."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.sampling import SamplingConfig
from modeling.stop import StopText

PIECES = [
    "<",
    "/",
    "</",
    "answer",
    "ans",
    "wer",
    ">",
    "</answer>",
    ">\n",
    "x</answer>y",
    "a",
    "对",
    "\ufffd",
    "",
    "<</",
]


def first_stop(stop: StopText, tokens: list[int]) -> int | None:
    """Tokens until the text is there."""
    state = torch.zeros(1, dtype=torch.long)
    for count, token in enumerate(tokens, 1):
        state = stop.after(state, torch.tensor([token]))
        if state == stop.end:
            return count
    return None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, len(PIECES) + 2), max_size=12), st.sampled_from(["</answer>", "aa", "<</<"]))
def test_it_stops_at_the_token_that_completes_the_text(tokens, wanted):
    stop = StopText(wanted, PIECES, vocab_size=len(PIECES) + 3)
    text, expected = "", None
    for count, token in enumerate(tokens, 1):
        text += PIECES[token] if token < len(PIECES) else ""
        if wanted in text:
            expected = count
            break
    assert first_stop(stop, tokens) == expected


def test_the_end_is_kept():
    stop = StopText("ab", ["a", "b", "ba"], vocab_size=3)
    assert first_stop(stop, [0, 1]) == 2 and stop.after(torch.tensor([2]), torch.tensor([2])).tolist() == [2]


def test_answers_end_with_their_stop_text(tmp_path):
    from modeling.generate import Generator
    from tests.modeling.families import built, qwen_tokenizer, shape

    tokenizer = qwen_tokenizer(tmp_path)
    cfg = shape("qwen2", vocab_size=384)
    generator = Generator(built(cfg, seed=0), cfg)
    stop = StopText("e", tokenizer.pieces(), cfg.vocab_size)
    prompts = [tokenizer.encode("User: Make")] * 6 + [tokenizer.encode("in the")] * 6
    sampling = SamplingConfig(max_response_tokens=60)
    ask = dict(seeds=list(range(12)), stop_ids={tokenizer.eos_id})
    free = generator.generate(prompts, sampling, **ask, max_rows=5)
    found = generator.generate(prompts, sampling, **ask, stop_text=stop, max_rows=5)
    assert sum(row.stopped for row in found) > 3
    for row, whole in zip(found, free, strict=True):
        text = tokenizer.decode(row.tokens)
        assert row.tokens == whole.tokens[: len(row.tokens)]  # the same answer, cut off
        assert "e" not in tokenizer.decode(row.tokens[:-1])
        assert row.stopped == ("e" in text or row.tokens[-1] == tokenizer.eos_id)
        assert row.stopped or len(row.tokens) == 60
    streamed = list(generator.stream(prompts[0], sampling, seed=0, stop_ids={tokenizer.eos_id}, stop_text=stop))
    assert streamed == found[0].tokens
