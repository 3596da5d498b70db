"""Checkpoints: resume bit for bit, fall back from damage, refuse what does not fit, survive kill -9 and a full disk."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from infra.errors import CheckpointError
from modeling.config import DType
from tests import gloo
from tests.training import tiny
from training import checkpoint, storage
from training.config import LoopConfig, OptimizerName
from training.loop import run_loop
from training.losses import next_token_loss
from training.schedules import Now
from training.step import token_logprobs, train_step


class Position:
    """Data whose rows follow from a counter."""

    def __init__(self) -> None:
        self.next = 0

    def state_dict(self) -> dict:
        return {"next": self.next}

    def load_state_dict(self, state: dict) -> None:
        self.next = state["next"]


def _step(state) -> dict[str, float]:
    rows = tiny.rows(100 + state.data.next)
    rows.loss_weights = rows.loss_weights * (1 + 0.1 * torch.rand(1))  # the generators' state matters
    state.data.next += 1
    return train_step(state, tiny.share(rows), next_token_loss, Now(mtp_lambda=0.3, bias_speed=0.01))


def _steps(state, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        losses.append(_step(state)["train/loss"])
        state.step += 1
    return losses


def _fresh(seed: int, **kwargs):
    return tiny.state(seed, data=Position(), **kwargs)


@pytest.mark.parametrize("optimizer", OptimizerName)
@pytest.mark.parametrize("dtype", DType)
def test_resume_is_bit_exact(tmp_path, optimizer, dtype):
    kwargs = dict(optimizer={"name": optimizer}, model={"dtype": dtype})
    state = _fresh(0, **kwargs)
    _steps(state, 3)
    path = checkpoint.save(state, tmp_path, config={"seed": 0})
    expected, weights = _steps(state, 3), tiny.weights(state)

    state = _fresh(1, **kwargs)
    assert checkpoint.load_latest(state, tmp_path) == path
    assert (state.step, state.updates, state.data.next, state.tokens_seen) == (3, 3, 3, 3 * 8 * tiny.SEQ)
    assert _steps(state, 3) == expected
    assert all(torch.equal(t, weights[name]) for name, t in tiny.weights(state).items())
    assert json.loads((path / "meta.json").read_text())["config"] == {"seed": 0}


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load_latest(tiny.state(), tmp_path) is None


def test_last_ones_are_kept_and_no_partial_is_left(tmp_path):
    state = tiny.state()
    (tmp_path / "checkpoints" / ".step_00000001.partial").mkdir(parents=True)
    for state.step in (10, 20, 30):
        checkpoint.save(state, tmp_path, config={}, keep_last=2)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["step_00000020", "step_00000030"]


def _cut(path: Path) -> None:
    (path / "model.pt").write_bytes((path / "model.pt").read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray((path / "optimizer.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "optimizer.pt").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "model.pt has"),
        (_flip, "optimizer.pt was changed"),
        (lambda path: (path / "meta.json").unlink(), "no readable meta.json"),
        (lambda path: (path / "ranks.pt").unlink(), "ranks.pt is missing"),
        (lambda path: (path / "meta.json").write_text('{"format":'), "no readable meta.json"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_in_one_line(tmp_path, capsys, damage, said):
    state = _fresh(0)
    for state.step in (1, 2):
        newest = checkpoint.save(state, tmp_path, config={})
    damage(newest)
    assert checkpoint.load_latest(state, tmp_path).name == "step_00000001"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and "step_00000002" in lines[0]
    state.step = 2  # and it can be written anew
    checkpoint.save(state, tmp_path, config={})
    assert checkpoint.load_latest(state, tmp_path).name == "step_00000002"


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    state = tiny.state()
    checkpoint.save(state, tmp_path, config={})
    state.step = 5
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(CheckpointError, match="no space left"):
        checkpoint.save(state, tmp_path, config={})
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000000"]


def test_a_disk_that_fills_up_while_writing_loses_nothing(tmp_path, monkeypatch):
    state = tiny.state()
    checkpoint.save(state, tmp_path, config={})
    state.step, written, opened = 5, [0], open

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

        def write(self, data):
            written[0] += len(data)
            if written[0] > 50_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

    monkeypatch.setattr(storage, "open", lambda *args: Full(opened(*args)), raising=False)
    with pytest.raises(CheckpointError, match="no space left.*untouched"):
        checkpoint.save(state, tmp_path, config={})
    assert os.listdir(tmp_path / "checkpoints") == ["step_00000000"]
    monkeypatch.undo()
    assert checkpoint.load_latest(state, tmp_path).name == "step_00000000"


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"model": {"hidden_size": 48}}, r"hidden_size=32 \(here 48\)"),
        ({"model": {"n_routed_experts": 8}}, "n_routed_experts"),
        ({"model": {"num_nextn_predict_layers": 0}}, "num_nextn_predict_layers"),
        ({"stage": "zero"}, "stage pretrain"),
        ({"optimizer": {"name": OptimizerName.muon}}, "optimizer.name=adamw"),
        ({"layout": {"zero1": True}}, "parallel.zero1=false"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path, kwargs, said):
    checkpoint.save(tiny.state(), tmp_path, config={})
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load_latest(tiny.state(**kwargs), tmp_path)


def test_learning_rate_may_change_on_resume(tmp_path):
    checkpoint.save(tiny.state(), tmp_path, config={})
    state = tiny.state(optimizer={"lr": 0.5, "weight_decay": 0.2})
    checkpoint.load_latest(state, tmp_path)
    assert train_step(state, [tiny.rows(0)], next_token_loss, Now(lr_scale=0.5))["train/lr"] == 0.25
    assert {g["lr"] for g in state.optimizer.param_groups} == {0.25}
    assert {g["weight_decay"] for g in state.optimizer.param_groups} == {0.0, 0.2}


@pytest.mark.parametrize("dtype", DType)
def test_weights_alone_start_another_stage(tmp_path, dtype):
    source = tiny.state(0)
    for router in source.routers:
        router.expert_bias += 0.5
    path = checkpoint.save(source, tmp_path, config={})
    for start in (tmp_path, path):
        state = tiny.state(1, stage="zero", init_from=start, model={"dtype": dtype})
        saved = tiny.weights(source)
        assert all(torch.equal(t, saved[name].to(t.dtype)) for name, t in tiny.weights(state).items())
        assert state.step == 0
        train_step(state, [tiny.rows(0)], next_token_loss, Now(lr_scale=0.0))  # FP32 masters hold the same
        assert all(torch.equal(t, saved[name].to(t.dtype)) for name, t in tiny.weights(state).items())


def test_where_there_are_no_weights_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights"):
        checkpoint.resolve(tmp_path)
    with pytest.raises(CheckpointError, match="is not there"):
        checkpoint.resolve(tmp_path / "nothing")


def _here(state) -> dict:
    """What the model is and what it says of some rows."""
    return {"weights": tiny.weights(state), "logprobs": token_logprobs(state.model, [tiny.rows(9)])[0]}


def _save_sharded(folder: str, layout: dict) -> tuple[dict, list[float]]:
    state = _fresh(0, layout=layout)
    _steps(state, 2)
    checkpoint.save(state, folder, config={})
    return _here(state), _steps(state, 2)


def _load_sharded(folder: str, layout: dict) -> tuple[dict, list[float]]:
    state = _fresh(1, layout=layout)
    checkpoint.load_latest(state, folder)
    return _here(state), _steps(state, 2)


@pytest.mark.parametrize("layout", [{"expert": 2}, {"zero1": True}])
def test_a_sharded_checkpoint_resumes_bit_exact_and_on_another_number_of_ranks(tmp_path, layout):
    saved = gloo.run(_save_sharded, str(tmp_path), layout)
    assert gloo.run(_load_sharded, str(tmp_path), layout)[0][1] == saved[0][1]
    alone = {key: value for key, value in layout.items() if key == "zero1"}
    ((read, _),) = gloo.run(_load_sharded, str(tmp_path), alone, ranks=1)
    for name, tensor in read["weights"].items():
        parts = [here["weights"][name] for here, _ in saved]
        whole = torch.cat(parts) if ".experts." in name and "expert" in layout else parts[0]
        assert torch.equal(tensor, whole), name
    torch.testing.assert_close(read["logprobs"], saved[0][0]["logprobs"], rtol=0, atol=2e-6)


class Log:
    """A tracker that keeps what it is told, in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, metrics: dict[str, float], *, step: int, tokens: int) -> None:
        with open(self.path, "a") as file:
            print(json.dumps({"step": step, **metrics}), file=file)

    def finish(self, status: str = "FINISHED") -> None: ...


def _run(folder: str, die_at: int | None) -> None:
    state = _fresh(0, optimizer={"name": OptimizerName.muon})

    def step(state) -> dict[str, float]:
        if state.step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return _step(state)

    tracker = Log(Path(folder) / f"metrics_{os.environ['RANK']}.jsonl")
    cfg = LoopConfig(save_every=2, evaluate_every=100)
    run_loop(state, cfg, name="test", step_fn=step, run_dir=Path(folder), config={}, tracker=tracker, total_steps=8)


def _losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics_0.jsonl").read_text().splitlines()]
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_resumed_gives_the_same_losses_bit_for_bit(tmp_path, ranks):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    gloo.run(_run, str(tmp_path / "whole"), None, ranks=ranks)
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(_run, str(tmp_path / "killed"), 5, ranks=ranks)
    assert max(_losses(tmp_path / "killed")) == 5
    gloo.run(_run, str(tmp_path / "killed"), None, ranks=ranks)
    assert _losses(tmp_path / "killed") == _losses(tmp_path / "whole")
    assert sorted(_losses(tmp_path / "whole")) == list(range(1, 9))


def test_a_checkpoint_from_before_a_field_came_has_its_default(tmp_path):
    saved = tiny.state(seed=0)
    path = checkpoint.save(saved, tmp_path, {})
    meta = json.loads((path / "meta.json").read_text())
    for name in ("family", "head_dim", "tie_word_embeddings"):
        del meta["model"][name]
    (path / "meta.json").write_text(json.dumps(meta))
    other = tiny.state(seed=1)
    checkpoint.load_weights(other.module, tiny.model_config(), path)
    tiny.close(tiny.weights(other), tiny.weights(saved), tolerance=0)
