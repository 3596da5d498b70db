"""Tokenizers from elsewhere: their end tokens, start and chat template, against transformers; and our own."""

import json

import pytest

from infra.errors import CheckpointError
from modeling.tokenizer import Tokenizer
from tests.modeling.families import qwen_tokenizer


def test_a_tokenizer_from_elsewhere_keeps_its_ends_and_looks_for_the_tags_in_text(tmp_path):
    found = qwen_tokenizer(tmp_path)
    end, text_end = (found.encode(text)[0] for text in ("<|im_end|>", "<|endoftext|>"))
    assert (found.eos_id, found.pad_id, found.stop_ids) == (end, text_end, {end, text_end})
    assert not found.is_own and found.answer_end_id is None and found.stop_text == "</answer>"
    assert "".join(found.pieces()[i] for i in found.encode("</answer>")) == "</answer>"


def test_saved_with_what_belongs_to_it(tmp_path):
    first = qwen_tokenizer(tmp_path / "one")
    first.save(tmp_path / "two")
    second = Tokenizer.load(tmp_path / "two")
    assert second.chat("Hi") == first.chat("Hi") and second.stop_ids == first.stop_ids
    assert second.encode("User: Make 18") == first.encode("User: Make 18")


def test_our_own_has_a_token_for_each_tag_and_no_chat(tmp_path):
    own = Tokenizer.train(["<think>3+5=8</think><answer>8</answer>"] * 3, 300)
    own.save(tmp_path)
    own = Tokenizer.load(tmp_path)
    assert own.is_own and not own.has_chat and own.start == "" and own.stop_text == ""
    assert own.stop_ids == {own.eos_id, own.answer_end_id}


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.jinja"])
def test_chat_is_rendered_as_transformers_does(where, tmp_path):
    transformers = pytest.importorskip("transformers")
    template = (
        "{{ bos_token }}{%- for m in messages %}\n    {%- if m.role == 'user' %}\n"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n<think>\\n' }}\n{%- endif %}\n"
    )
    qwen_tokenizer(tmp_path, chat=False, bos_token="<|endoftext|>", tokenizer_class="PreTrainedTokenizerFast")
    if where == "chat_template.jinja":
        (tmp_path / where).write_text(template)
    else:
        settings = json.loads((tmp_path / where).read_text())
        (tmp_path / where).write_text(json.dumps(settings | {"chat_template": template}))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    message = "Make 18 from 3, 5, 8. "
    expected = theirs.apply_chat_template(
        [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
    )
    found = Tokenizer.load(tmp_path)
    assert found.chat(message) == expected and expected.endswith("<think>\n")
    assert found.encode(expected) == theirs(expected, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "template, problem",
    [
        ("{{ raise_exception('roles have to alternate') }}", "roles have to alternate"),
        ("{% for %}", "chat template fails"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ ''.__class__ }}{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(template, problem, tmp_path):
    found = qwen_tokenizer(tmp_path, chat=False)
    (tmp_path / "chat_template.jinja").write_text(template)
    found = Tokenizer.load(tmp_path)
    with pytest.raises(CheckpointError, match=problem):
        found.chat("Hi")


def test_a_start_token_is_put_first_where_the_model_was_trained_so(tmp_path):
    assert qwen_tokenizer(tmp_path, bos_token="<|im_start|>").start == ""
    assert qwen_tokenizer(tmp_path, bos_token="<|im_start|>", add_bos_token=True).start == "<|im_start|>"
    from tokenizers import Tokenizer as HFTokenizer
    from tokenizers.processors import TemplateProcessing

    raw = HFTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    raw.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", raw.token_to_id("<|im_start|>"))]
    )
    qwen_tokenizer(tmp_path, bos_token="<|im_start|>")
    raw.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).start == "<|im_start|>"


def test_without_an_end_token_it_is_refused(tmp_path):
    qwen_tokenizer(tmp_path)
    for name in ("tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="names an end token"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer_config.json: is no JSON"):
        Tokenizer.load(tmp_path)
