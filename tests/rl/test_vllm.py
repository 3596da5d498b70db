"""The vLLM engine against a scripted server: what it asks, which weights answer, what it says of faults."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from infra.errors import R1Error
from modeling.build import build_model
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.config import Placement, RolloutConfig, VLLMConfig, WeightSync
from rl.rollout import vllm_server
from rl.rollout.sharing import answer_seed
from rl.rollout.vllm import VLLMEngine
from rl.types import Question
from tests.rl.fake_vllm import FakeVLLM
from tests.training import tiny
from training import parallel
from training.config import ParallelConfig

QUESTIONS = [Question(f"q{i}", "countdown", f"Make {i}.", "", {}) for i in range(3)]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["Make 1 from 2, 3. <think> 2 + 3 </think>"], 300)


@pytest.fixture(scope="module")
def network():
    parallel.init(ParallelConfig(), 0)
    cfg = tiny.model_config(vocab_size=320, num_hidden_layers=2)
    return build_model(cfg), cfg


@pytest.fixture
def server(tmp_path):
    with FakeVLLM(tmp_path / "sampler") as fake:
        yield fake


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    pause = time.sleep
    monkeypatch.setattr(vllm_server.time, "sleep", lambda seconds: pause(min(seconds, 0.05)))


def engine_on(server: FakeVLLM, network, tokenizer, tmp_path: Path, **vllm) -> VLLMEngine:
    cfg = RolloutConfig(placement=Placement.separate, vllm=VLLMConfig(url=server.url, **vllm))
    sampling = SamplingConfig(max_response_tokens=6, temperature=0.8, top_p=0.9)
    return VLLMEngine(cfg, network[1], tokenizer, sampling, seed=5, run_dir=tmp_path)


def own_server(tmp_path: Path) -> VLLMConfig:
    """An environment whose vllm is the fake one, as a process."""
    program = tmp_path / "env" / "bin" / "vllm"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("fake_vllm.py")} "$@"\n')
    program.chmod(0o755)
    return VLLMConfig(python=str(program.parent / "python"), start_timeout_s=200)


def test_requests_and_answers_follow_the_protocol(server, network, tokenizer, tmp_path):
    engine = engine_on(server, network, tokenizer, tmp_path)
    engine.load_weights(network[0], version=7)
    answers = engine.generate(QUESTIONS, 4, step=3)
    asked = sorted((body for path, body in server.requests if path == "/v1/completions"), key=lambda b: b["prompt"])
    assert len(asked) == 3 and [len(group) for group in answers] == [4, 4, 4]
    first = next(body for body in asked if body["prompt"] == tokenizer.encode("Make 0."))
    assert first == {
        "model": "served",
        "prompt": tokenizer.encode("Make 0."),
        "n": 4,
        "max_tokens": 6,
        "temperature": 0.8,
        "top_p": 0.9,
        "seed": answer_seed(5, 3, "q0", 0) % (2**63 - 4),
        "stop_token_ids": sorted({tokenizer.eos_id, tokenizer.answer_end_id}),
        "logprobs": 1,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
    }
    expected = [server.choice(first, index) for index in range(4)]
    for answer, choice in zip(answers[0], expected, strict=True):  # in the order of the indices, which came reversed
        assert answer.tokens == choice["token_ids"] and answer.sampler_logprobs == choice["logprobs"]["token_logprobs"]
        assert answer.text == tokenizer.decode(answer.tokens) and answer.entropies == []
        assert answer.stopped == (choice["finish_reason"] == "stop") and answer.version == 7
    assert len({answer.stopped for group in answers for answer in group}) == 2


def test_new_weights_write_new_answers_under_a_new_version(server, network, tokenizer, tmp_path):
    engine = engine_on(server, network, tokenizer, tmp_path)
    engine.load_weights(network[0], version=0)
    before = engine.generate(QUESTIONS, 2, step=0)
    assert engine.generate(QUESTIONS, 2, step=0) == before
    with torch.no_grad():
        network[0].output_layer.weight.add_(0.1)
    server.requests.clear()
    engine.load_weights(network[0], version=2)
    assert server.paths() == ["/v1/models", "/collective_rpc", "/reset_prefix_cache"]
    after = engine.generate(QUESTIONS, 2, step=0)
    assert {a.version for group in after for a in group} == {2}
    assert all(x.tokens != y.tokens for a, b in zip(before, after, strict=True) for x, y in zip(a, b, strict=True))


def test_the_exported_folder_is_what_transformers_reads(server, network, tokenizer, tmp_path):
    engine_on(server, network, tokenizer, tmp_path).load_weights(network[0], version=0)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "sampler")
    text = "Make 1 from 2.<think>3</think><eos>"
    assert loaded(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
    assert loaded.eos_token_id == tokenizer.eos_id
    config = json.loads((tmp_path / "sampler" / "config.json").read_text())
    assert config["architectures"] == ["DeepseekV3ForCausalLM"]


@pytest.mark.parametrize("fault", [(0, ""), (503, "busy"), (500, "{}"), (429, "slower"), (200, "<html>")])
def test_passing_faults_are_asked_again(server, network, tokenizer, tmp_path, fault):
    engine = engine_on(server, network, tokenizer, tmp_path, requests=1)
    engine.load_weights(network[0], version=0)
    expected = engine.generate(QUESTIONS[:1], 2, step=0)
    server.faults += [("/v1/completions", *fault)] * 3
    server.requests.clear()
    assert engine.generate(QUESTIONS[:1], 2, step=0) == expected
    assert server.paths() == ["/v1/completions"] * 4


def test_lasting_faults_end_in_one_line_that_says_what_and_where(server, network, tokenizer, tmp_path):
    engine = engine_on(server, network, tokenizer, tmp_path, retries=1)
    engine.load_weights(network[0], version=0)
    server.faults += [("/v1/completions", 503, '{"error": {"message": "out of\\u001b memory"}}')] * 6
    with pytest.raises(R1Error, match=r"v1/completions in 2 attempts \(status 503: out of  memory\)"):
        engine.generate(QUESTIONS, 2, step=0)
    server.faults[:] = [("/v1/completions", 400, '{"error": {"message": "max_tokens is too large"}}')]
    server.requests.clear()
    with pytest.raises(R1Error, match="refuses .*: status 400: max_tokens is too large"):
        engine.generate(QUESTIONS[:1], 2, step=0)
    assert server.paths() == ["/v1/completions"]  # another attempt would be refused, too


def test_weights_that_were_not_taken_over_get_no_version(server, network, tokenizer, tmp_path):
    engine = engine_on(server, network, tokenizer, tmp_path, retries=0)
    engine.load_weights(network[0], version=1)
    server.faults.append(("/collective_rpc", 500, "cuda error"))
    with pytest.raises(R1Error, match="collective_rpc in 1 attempts"):
        engine.load_weights(network[0], version=2)
    assert engine.version == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(token_ids=[1, 2]), "2 tokens with 1 logprobs"),
        (dict(token_ids=None), "TypeError|0 tokens|NoneType"),
        (dict(token_ids=[320]), "does not know"),
        (dict(logprobs={"token_logprobs": [None]}), "logprobs that are none"),
        (dict(logprobs={"token_logprobs": [float("nan")]}), "logprobs that are none"),
        (dict(finish_reason="abort"), "ended by abort"),
        (dict(token_ids=[50], finish_reason="stop"), "ended by stop with token 50"),
    ],
)
def test_answers_that_do_not_fit_are_refused(server, network, tokenizer, tmp_path, change, message):
    engine = engine_on(server, network, tokenizer, tmp_path)
    engine.load_weights(network[0], version=0)
    choice = {"index": 0, "token_ids": [1], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "length"} | change
    server.faults.append(("/v1/completions", 200, json.dumps({"choices": [choice]})))
    with pytest.raises(R1Error, match=f"question q0: .*({message})"):
        engine.generate(QUESTIONS[:1], 1, step=0)
    server.faults.append(("/v1/completions", 200, '{"choices": []}'))
    with pytest.raises(R1Error, match="gave 0 answers for 1"):
        engine.generate(QUESTIONS[:1], 1, step=0)


def test_a_server_of_another_model_is_refused(network, tokenizer, tmp_path):
    with FakeVLLM(tmp_path / "elsewhere") as other:
        with pytest.raises(R1Error, match="rl.rollout.vllm.url=.*elsewhere; start it as vllm serve .*sampler"):
            engine_on(other, network, tokenizer, tmp_path).load_weights(network[0], version=0)
    with FakeVLLM(tmp_path / "sampler", max_model_len=32) as short:
        with pytest.raises(R1Error, match="reads rows of 32 tokens; start it with --max-model-len 64"):
            engine_on(short, network, tokenizer, tmp_path).load_weights(network[0], version=0)


def test_our_own_server_sleeps_while_the_trainer_works(network, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    cfg = RolloutConfig(vllm=own_server(tmp_path), gpu_memory=0.4)
    engine = VLLMEngine(cfg, network[1], tokenizer, SamplingConfig(max_response_tokens=6), seed=0, run_dir=tmp_path)
    try:
        engine.load_weights(network[0], version=0)
        process = engine.server.process.pid
        assert engine.asleep
        before = engine.generate(QUESTIONS, 2, step=0)
        assert engine.asleep and engine.generate(QUESTIONS, 2, step=0) == before
        with torch.no_grad():
            network[0].output_layer.weight.add_(0.1)
        engine.load_weights(network[0], version=2)
        after = engine.generate(QUESTIONS, 2, step=0)
        assert after[0][0].tokens != before[0][0].tokens and after[0][0].version == 2
        assert engine.server.process.pid == process
    finally:
        engine.close()
    said = (tmp_path / "vllm.log").read_text()
    for words in (
        "'--enable-sleep-mode'",
        "'--gpu-memory-utilization', '0.4'",
        "'--logprobs-mode', 'processed_logprobs'",
    ):
        assert words in said
    assert "RANK" not in engine.server.environment and engine.server.environment["VLLM_MLA_DISABLE"] == "1"
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_restart_serves_the_new_weights_from_a_new_process(network, tokenizer, tmp_path):
    vllm = own_server(tmp_path)
    vllm.sync = WeightSync.restart
    cfg = RolloutConfig(placement=Placement.separate, devices="1,2", vllm=vllm)
    engine = VLLMEngine(cfg, network[1], tokenizer, SamplingConfig(max_response_tokens=6), seed=0, run_dir=tmp_path)
    try:
        engine.load_weights(network[0], version=0)
        before, process = engine.generate(QUESTIONS, 2, step=0), engine.server.process.pid
        with torch.no_grad():
            network[0].output_layer.weight.add_(0.1)
        engine.load_weights(network[0], version=1)
        after = engine.generate(QUESTIONS, 2, step=0)
        assert after[0][0].tokens != before[0][0].tokens and engine.server.process.pid != process
        assert engine.server.environment["CUDA_VISIBLE_DEVICES"] == "1,2"
    finally:
        engine.close()


def test_a_server_that_does_not_start_is_told_with_its_last_words(network, tokenizer, tmp_path):
    sampling = SamplingConfig(max_response_tokens=6)
    with pytest.raises(R1Error, match="rl.rollout.vllm.python=.*run make vllm-env"):
        nowhere = RolloutConfig(vllm=VLLMConfig(python=str(tmp_path / "python")))
        VLLMEngine(nowhere, network[1], tokenizer, sampling, seed=0, run_dir=tmp_path)
    cfg = RolloutConfig(vllm=own_server(tmp_path))
    engine = VLLMEngine(cfg, network[1], tokenizer, sampling, seed=0, run_dir=tmp_path)
    (tmp_path / "sampler").mkdir()
    (tmp_path / "sampler" / "broken").touch()
    with pytest.raises(R1Error, match="vLLM ended with status 3: ValueError: no such architecture; .*vllm.log"):
        engine.server.start(timeout_s=200)


def test_a_killed_trainer_leaves_no_server_behind(tmp_path):
    vllm = own_server(tmp_path)
    (tmp_path / "sampler").mkdir()
    program = (
        "import os, signal; from pathlib import Path; from rl.rollout.vllm_server import Server\n"
        f"server = Server(Path({str(tmp_path / 'sampler')!r}), Path({str(tmp_path / 'log')!r}), "
        f"python=Path({vllm.python!r}), arguments=[], devices='', environment={{}})\n"
        "server.start(200); print(server.process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280)
    process = int(done.stdout)
    for _ in range(400):
        stat = Path(f"/proc/{process}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the server outlived its trainer")
