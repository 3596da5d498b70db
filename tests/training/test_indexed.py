"""Token files of one's own: what is written is read, each rank its rows, held-out documents apart, exact resume."""

import json
import re

import numpy as np
import pytest

from infra.errors import CheckpointError, ConfigError
from modeling.tokenizer import Tokenizer
from tests import stages
from tests.training import tiny
from training import parallel
from training.config import ParallelConfig, PretrainConfig, Rows
from training.data.corpus import CorpusConfig
from training.data.indexed import IndexedStream, open_streams, write
from training.data.packing import joined_batches

TEXTS = [f"document {i} says {i % 7} and {i * 13 % 101}" for i in range(400)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    parallel.init(ParallelConfig(), 0)
    folder = tmp_path_factory.mktemp("data")
    tokenizer = Tokenizer.train(TEXTS, 300)
    tokenizer.save(folder)
    documents, tokens = write(TEXTS, tokenizer, folder / "mine")
    assert documents == 400 and tokens == sum(len(ids) + 1 for ids in tokenizer.encode_batch(TEXTS))
    return folder, tokenizer


def streams(files, seed=0, **changes):
    folder, tokenizer = files
    given = dict(held_out=0.1, rows=100, held_out_rows=8, row_tokens=16, cache=folder / f"index{seed}")
    return open_streams([str(folder / "mine")], [], tokenizer=tokenizer, seed=seed, **given | changes)


def test_rows_are_the_documents_end_to_end_and_none_of_them_is_held_out(files):
    _, tokenizer = files
    train, unseen = streams(files)

    def named(rows):
        return {int(i) for row in rows for i in re.findall(r"document (\d+) says", tokenizer.decode(row))}

    seen, held = named(train.next_rows(100, 16)), named(unseen.next_rows(8, 16))
    assert len(seen) > 20 and len(held) > 2
    assert max(seen) < 360 <= min(held)  # the last tenth is held out
    row = train.next_rows(1, 16)[0]
    whole = [token for ids in tokenizer.encode_batch(TEXTS) for token in [*ids, tokenizer.eos_id]]
    assert len(row) == 17 and any(whole[i : i + 8] == row[:8] for i in range(len(whole)))


def test_a_stream_goes_on_at_the_row_and_another_seed_is_another_order(files):
    train, _ = streams(files)
    first = list(train.next_rows(5, 16))
    state = json.loads(json.dumps(train.state_dict()))
    then = list(train.next_rows(5, 16))
    again, _ = streams(files)
    again.load_state_dict(state)
    assert list(again.next_rows(5, 16)) == then and then != first
    other, _ = streams(files, seed=1)
    assert list(other.next_rows(5, 16)) != first
    with pytest.raises(CheckpointError, match="run.seed=0"):
        other.load_state_dict(state)
    with pytest.raises(CheckpointError, match="made corpus"):
        other.load_state_dict({"seed": 1, "position": 3, "used": 0})


def test_ranks_share_the_rows_and_read_no_others(files):
    read = []

    class Counted:
        def __len__(self):
            return 100

        def __getitem__(self, index):
            read.append(index)
            return {"tokens": np.full(16, index), "labels": np.full(16, index)}

    shares = []
    for rank in range(2):
        rows = IndexedStream(Counted(), 16, 0).next_rows(8, 16)
        shares.append(joined_batches(rows, row_tokens=16, rank=rank, world=2, max_tokens=32, pad_id=0))
        assert len(read) == 4
        read.clear()
    got = sorted(int(row[0]) for share in shares for batch in share for row in batch.tokens)
    assert got == list(range(8))
    assert sum(float(batch.loss_weights.sum()) for share in shares for batch in share) == pytest.approx(1)


def test_what_cannot_be_read_is_said_before_any_work(files, tmp_path):
    folder, tokenizer = files
    with pytest.raises(ConfigError, match="there is no .*nothing.bin; r1 tokenize"):
        open_streams(
            [str(tmp_path / "nothing")], [], held_out=0.1, rows=1, held_out_rows=1, row_tokens=16,
            tokenizer=tokenizer, seed=0, cache=tmp_path,
        )  # fmt: skip
    for suffix, cut in ((".bin", -8), (".idx", 20)):
        for name in (".bin", ".idx"):
            (tmp_path / f"half{name}").write_bytes((folder / f"mine{name}").read_bytes())
        (tmp_path / f"half{suffix}").write_bytes((folder / f"mine{suffix}").read_bytes()[:cut])
        with pytest.raises(ConfigError, match="cannot be read"):
            open_streams(
                [str(tmp_path / "half")], [], held_out=0.1, rows=1, held_out_rows=1, row_tokens=16,
                tokenizer=tokenizer, seed=0, cache=tmp_path,
            )  # fmt: skip
    train, _ = streams(files, seed=2)
    with pytest.raises(ConfigError, match="tokens to read; set pretrain.tokens"):
        train.next_rows(10_000, 16)
    small = Tokenizer.train(["a b"], 262)
    with pytest.raises(ConfigError, match="the tokenizer has"):
        streams((folder, small), seed=3)
    with pytest.raises(ConfigError, match="pretrain.rows=by_length"):
        PretrainConfig(data=["x"], tokenizer="y")
    with pytest.raises(ConfigError, match="needs one tokenizer"):
        PretrainConfig(data=["x"], rows=Rows.joined)
    with pytest.raises(ConfigError, match="data_shares"):
        PretrainConfig(data=["x", "y"], data_shares=[1.0], rows=Rows.joined, tokenizer="z")


def test_texts_are_tokenized_and_trained_on_by_commands(tmp_path, capsys):
    from experiments.config import compose
    from experiments.tokenize_data import run
    from training import pretrain

    lines = [json.dumps({"text": text}) for text in TEXTS] + ["{no json"]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    out = tmp_path / "set" / "mine"
    given = [f"data=[{tmp_path}/texts.jsonl]", f"out={out}", "vocab=300"]
    with pytest.raises(ConfigError, match="1 of 401 rows are bad, the first: texts.jsonl:401"):
        run(compose("tokenize", [*given, "max_bad_share=0"]))
    assert not out.with_suffix(".bin").exists() and not list(out.parent.glob(".*"))
    run(compose("tokenize", given))
    assert "400 documents" in capsys.readouterr().err

    cfg = PretrainConfig(
        data=[str(out)], tokenizer=str(out.parent), rows=Rows.joined, held_out_share=0.1, tokens=2560,
        batch_tokens=256, micro_batch_tokens=256, evaluate_documents=8, evaluate_every=5,
    )  # fmt: skip
    pretrain.run(
        model_cfg=tiny.model_config(), parallel_cfg=ParallelConfig(), corpus=CorpusConfig(), cfg=cfg,
        run_dir=tmp_path, seed=0, tracker=stages.Log(tmp_path / "metrics_0.jsonl"), config={},
    )  # fmt: skip
    losses = stages.metrics(tmp_path, "eval/loss")
    assert losses[max(losses)][0] < 0.95 * losses[0][0]
