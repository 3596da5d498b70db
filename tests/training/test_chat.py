"""Conversations: what is learnt of them, by hand, and what is said of files that are not right."""

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments.chat import RELEASED_BASE
from infra.errors import ConfigError, R1Error
from modeling.tokenizer import Tokenizer
from training.config import Rows, SFTConfig
from training.data import chat
from training.data.chat import Conversation
from training.sft import Epochs, micro_batches, split


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(RELEASED_BASE)


class Spells:
    """A tokenizer from elsewhere whose tokens are characters: ids by ord, end 0; chat and start as given."""

    is_own, eos_id = False, 0

    def __init__(self, *, start: str = "", template: str = "") -> None:
        self.start, self.template, self.has_chat = start, template, bool(template)

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def chat(self, message: str) -> str:
        return self.template.format(message)


@pytest.mark.parametrize("rows", list(Rows))
def test_the_loss_is_on_the_response_and_its_end_alone(rows):
    # "ab" asked, "x" answered; "c" asked, "yz" answered: labels x <eos>, y z <eos> are learnt, one fifth each.
    encoded = [([1, 2, 7, 0], 2), ([3, 8, 9, 0], 1)]
    cfg = SFTConfig(rows=rows, row_tokens=8, micro_batch_tokens=64)
    batches = micro_batches(encoded, cfg, pad_id=5)
    learnt = [
        (int(label), round(float(weight), 6))
        for batch in batches
        for label, weight in zip(batch.labels.flatten(), batch.loss_weights.flatten(), strict=True)
        if weight > 0
    ]
    assert learnt == [(7, 0.2), (0, 0.2), (8, 0.2), (9, 0.2), (0, 0.2)]
    if rows is Rows.packed:
        (batch,) = batches
        assert batch.tokens.tolist() == [[1, 2, 7, 3, 8, 9, 5, 5]]
        assert batch.labels.tolist() == [[2, 7, 0, 8, 9, 0, 5, 5]]
        assert batch.document_ids.tolist() == [[0, 0, 0, 1, 1, 1, -1, -1]]


def test_prompt_and_response_are_encoded_apart_and_the_end_is_added(tokenizer):
    conversation = Conversation(prompt="User: Make 18 from 3, 5, 8.\nAssistant:", response="<think>\n3+5=8: +8=16")
    ids, prompt = chat.encode(conversation, tokenizer)
    assert ids[:prompt] == tokenizer.encode(conversation.prompt)  # what a rollout's prompt is
    assert ids[prompt] == tokenizer.think_id and ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids[prompt:-1]) == conversation.response


def test_a_model_from_elsewhere_gets_the_question_in_its_own_template():
    asked = Conversation(prompt="User: 1+1?\nAssistant:", response="<think>2</think>", question="1+1?")
    ids, prompt = chat.encode(asked, Spells(template="[{}]"))
    assert ids == [*map(ord, "[1+1?]<think>2</think>"), 0] and prompt == len("[1+1?]")
    ids, prompt = chat.encode(asked, Spells(template="[{}]<think>\n"))  # opens the thinking itself
    assert ids == [*map(ord, "[1+1?]<think>\n2</think>"), 0]
    ids, prompt = chat.encode(asked, Spells(start="^"))
    assert ids[:prompt] == list(map(ord, "^" + asked.prompt))


def test_each_row_comes_once_an_epoch_and_a_resumed_order_is_the_same():
    epochs = Epochs(10, 4, seed=3)
    first, second = ([epochs.next() for _ in range(3)] for _ in range(2))
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(10))
    assert first != second and [len(step) for step in first] == [4, 4, 2]
    again = Epochs(10, 4, seed=3)
    again.load_state_dict({"position": 3})
    assert [again.next() for _ in range(3)] == second


def test_at_most_a_tenth_is_measured_on_and_never_trained_on():
    rows = [([i], 1) for i in range(30)]
    trained, unseen = split(rows, wanted=64)
    assert len(unseen) == 3 and sorted(trained + unseen) == rows


def _jsonl(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


GOOD = {"prompt": "a", "response": "b"}


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("{not json", "data.jsonl:2: is no JSON"),
        ("[1]", "data.jsonl:2: is no object"),
        ({"prompt": "a"}, "data.jsonl:2: has no response"),
        ({"prompt": "a", "response": "  "}, "data.jsonl:2: has no response"),
        ({"prompt": "a", "response": {"x": 1}}, "data.jsonl:2: has no response"),
        ({"response": "b"}, "data.jsonl:2: has no prompt"),
        ({**GOOD, "id": "q1"}, "data.jsonl:2: has the id of data.jsonl:1"),
    ],
)
def test_an_unusable_row_is_named_and_refused_over_the_share(bad, problem, tmp_path, capsys):
    path = _jsonl(tmp_path / "data.jsonl", {**GOOD, "id": "q1"}, bad, GOOD, GOOD)
    with pytest.raises(ConfigError, match="1 of 4 rows cannot be used") as refused:
        chat.read(path, max_bad=0.2)
    assert problem in str(refused.value)
    assert len(chat.read(path, max_bad=0.25)) == 3
    assert "1 of 4 rows are left out" in capsys.readouterr().err


def test_parquet_is_read_and_written(tmp_path):
    path = chat.write(tmp_path / "set.parquet", [GOOD | {"id": "1", "question": "q", "part": "general"}])
    assert chat.read(path) == [Conversation(prompt="a", response="b", question="q", id="1")]
    pd.DataFrame([GOOD, {"prompt": "a", "response": None}]).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(ConfigError, match="bad.parquet:2: has no response"):
        chat.read(tmp_path / "bad.parquet")
    (tmp_path / "no.parquet").write_text("text")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        chat.read(tmp_path / "no.parquet")


@pytest.mark.parametrize(("text", "problem"), [("", "has no rows"), ("{}\n", "1 of 1 rows cannot be used")])
def test_nothing_to_train_on_is_an_error(text, problem, tmp_path):
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        chat.read(tmp_path / "data.jsonl", max_bad=0.9)
    with pytest.raises(ConfigError, match="there is no such file"):
        chat.read(tmp_path / "other.jsonl")


def test_test_questions_are_left_out_of_files_and_refused_in_sets(capsys):
    rows = [Conversation(prompt=p, response="r", question=q) for p, q in (("A  b", ""), ("c", "Test?"), ("d", "e"))]
    assert chat.without_held_out(rows, ["a B", "test?"]) == rows[2:]
    assert "2 conversations are test questions" in capsys.readouterr().err
    with pytest.raises(R1Error, match="x/1: a test question"):
        chat.refuse_held_out([{"id": "x/1", "prompt": "Make 3."}], ["make 3."])
    chat.refuse_held_out([{"id": "x/1", "prompt": "Make 3."}], ["make 4."])


def test_conversations_that_hold_a_test_question_are_dropped():
    asked = "Make 16 from 5, 4, 4."
    inside = Conversation(prompt="User: Try this.\nAssistant:", response=f"<think>as in {asked} so</think>")
    other = Conversation(prompt="User: Make 17 from 5, 4, 4.\nAssistant:", response="<answer>5*4-4</answer>")
    assert chat.decontaminated([inside, other], [asked]) == [other]
    assert chat.decontaminated([inside, other], []) == [inside, other]
