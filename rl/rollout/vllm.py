"""Rollouts by vLLM on exported weights: a server in an environment of its own (`make vllm-env`), spoken to over HTTP.

Rank 0 exports, reloads and asks; the others get the answers. Every answer carries the version of the weights that wrote
it. Sampler and trainer are different programs: measure rl/sampler_trainer_diff, and see rl.importance_cap.
"""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from infra.errors import ConfigError, R1Error
from infra.http_client import Client
from modeling import hf
from modeling.config import DType, ModelConfig
from modeling.sampling import Sampled, SamplingConfig
from modeling.tokenizer import EOS, PAD, Tokenizer
from rl.config import Placement, RolloutConfig, WeightSync
from rl.rollout.sharing import Share, SharingEngine, answer_seed
from rl.rollout.vllm_server import MODEL, Server, kernels_for
from rl.types import Completion, Question
from training import parallel
from training.whole import Whole


class VLLMEngine(SharingEngine):
    """RolloutEngine over a vLLM server; generate and load_weights are called by every rank.

    Colocated, the server sleeps while the trainer works: its memory is given back, and it reads the weights anew when
    it wakes. Separate, it keeps its own devices and reads them when they change.

    Raises R1Error, on every rank, where vLLM's environment is not there or the server does not start or answer.
    """

    def __init__(
        self,
        cfg: RolloutConfig,
        model_cfg: ModelConfig,
        tokenizer: Tokenizer,
        sampling: SamplingConfig,
        *,
        seed: int,
        run_dir: Path,
    ) -> None:
        super().__init__(tokenizer, sampling, seed=seed)
        self.cfg, self.model_cfg = cfg, model_cfg
        self.folder = Path(run_dir).absolute() / "sampler"
        self.colocated = cfg.placement is Placement.colocated
        self.server: Server | None = None
        self.model, self.asleep = MODEL, False
        if not cfg.vllm.url:
            parallel.on_main(self._prepare_server)
        url = cfg.vllm.url if self.server is None else self.server.url
        remedy = "see whether the server lives, or set rl.rollout.vllm.retries higher"
        self.client = Client(url, retries=cfg.vllm.retries, who="vLLM", remedy=remedy)

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Export the weights (rank 0) and have the server read them. A network in parts is gathered for that."""
        whole = Whole(model, self.model_cfg).module

        def take_over() -> None:
            self._export(whole)
            if self.server is None:
                self._check_model()
                self._reload()
            elif self.cfg.vllm.sync is WeightSync.restart:
                self.server.stop()
                if not self.colocated:  # else it starts when it is asked
                    self.server.start(self.cfg.vllm.start_timeout_s)
            elif not self.server.runs:
                self.server.start(self.cfg.vllm.start_timeout_s)
            elif not self.asleep:  # else it reads them when it wakes
                self._reload()

        parallel.on_main(take_over)
        self.version = version
        if self.colocated:
            parallel.on_main(self._sleep)

    def generate(self, questions: list[Question], group_size: int, *, step: int) -> list[list[Completion]]:
        """[question][group] answers, the same list on every rank."""
        if not self.colocated:
            return super().generate(questions, group_size, step=step)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what the trainer does not use is the server's to take
        parallel.on_main(self._wake)
        try:
            return super().generate(questions, group_size, step=step)
        finally:
            parallel.on_main(self._sleep)

    def write(self, questions: list[Question], group_size: int, *, step: int) -> Share:
        """All answers, on rank 0, one request for each group; nothing on the others."""
        version = self.version
        if not parallel.is_main():
            return Share([], version)

        def ask(question: Question) -> list[Sampled]:
            return self._ask(question, group_size, answer_seed(self.seed, step, question.id, 0))

        with ThreadPoolExecutor(max(1, min(self.cfg.vllm.requests, len(questions)))) as pool:
            requests = [pool.submit(ask, question) for question in questions]
            try:
                groups = [request.result() for request in requests]
            except R1Error as error:  # the other ranks wait for a share, and are told by it
                pool.shutdown(cancel_futures=True)
                return Share([], version, problem=str(error))
        return Share([((q, g), a) for q, group in enumerate(groups) for g, a in enumerate(group)], version)

    def close(self) -> None:
        """End the server, if it is ours."""
        if self.server is not None:
            self.server.stop()

    def _prepare_server(self) -> None:
        self.server = Server(
            self.folder,
            self.folder.with_name("vllm.log"),
            python=Path(self.cfg.vllm.python),
            arguments=self._arguments(),
            devices=self.cfg.devices,
            environment=kernels_for(self.model_cfg),
        )

    def _arguments(self) -> list[str]:
        """Of `vllm serve`. Logprobs are those of the distribution drawn from, as our own sampler tells them."""
        dtype = "bfloat16" if self.model_cfg.dtype is DType.bf16 else "float32"
        arguments = {
            "--served-model-name": MODEL,
            "--max-model-len": self.model_cfg.max_position_embeddings,
            "--dtype": dtype,
            "--tensor-parallel-size": self.cfg.vllm.tensor,
            "--gpu-memory-utilization": self.cfg.gpu_memory,
            "--logprobs-mode": "processed_logprobs",
            "--generation-config": "vllm",
        }
        flags = ["--enable-sleep-mode"] if self.colocated and self.cfg.vllm.sync is WeightSync.reload else []
        return [str(word) for pair in arguments.items() for word in pair] + flags

    def _export(self, model: nn.Module) -> None:
        """The weights as a Hugging Face folder, with what transformers needs to know of the tokenizer."""
        hf.save_pretrained(model, self.model_cfg, self.folder)
        self.tokenizer.save(self.folder)
        known = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "pad_token": PAD}
        if self.tokenizer.is_own:
            (self.folder / "tokenizer_config.json").write_text(json.dumps(known))

    def _check_model(self) -> None:
        """A server that runs already has to serve our folder, long enough rows included; its name for it is taken."""
        told = self.client.get("/v1/models", timeout_s=30)
        models = told.get("data") if isinstance(told, dict) else None
        if not models or not isinstance(models[0].get("id"), str):
            raise R1Error(f"{self.client.url}/v1/models names no model; is this vLLM's server?")
        served = models[0]
        root, longest = served.get("root"), served.get("max_model_len") or self.model_cfg.max_position_embeddings
        if root is not None and Path(root) != self.folder:
            raise ConfigError(
                "rl.rollout.vllm.url", self.client.url, f"serves {root}", f"start it as vllm serve {self.folder}"
            )
        if longest < self.model_cfg.max_position_embeddings:
            wanted = f"start it with --max-model-len {self.model_cfg.max_position_embeddings}"
            raise ConfigError("rl.rollout.vllm.url", self.client.url, f"reads rows of {longest} tokens", wanted)
        self.model = served["id"]

    def _reload(self) -> None:
        """Weights from the folder into the running server; what it cached was computed with the old ones."""
        timeout = self.cfg.vllm.start_timeout_s
        self.client.post("/collective_rpc", {"method": "reload_weights"}, timeout_s=timeout)
        self.client.post("/reset_prefix_cache", timeout_s=timeout)

    def _sleep(self) -> None:
        """Give the GPUs' memory back; weights are read from the folder again, so none are kept."""
        if self.asleep or self.server is None or not self.server.runs:
            return
        if self.cfg.vllm.sync is WeightSync.restart:
            self.server.stop()
            return
        self.client.post("/sleep?level=2", timeout_s=self.cfg.vllm.start_timeout_s)
        self.asleep = True

    def _wake(self) -> None:
        if not self.server.runs:
            self.server.start(self.cfg.vllm.start_timeout_s)
        elif self.asleep:
            timeout = self.cfg.vllm.start_timeout_s
            self.client.post("/wake_up?tags=weights", timeout_s=timeout)
            self.client.post("/collective_rpc", {"method": "reload_weights"}, timeout_s=timeout)
            self.client.post("/wake_up?tags=kv_cache", timeout_s=timeout)
        self.asleep = False

    def _ask(self, question: Question, group_size: int, seed: int) -> list[Sampled]:
        """The answers to one question. The server gives answer i the seed seed + i."""
        prompt = self.prompt_ids(question)
        room = self.model_cfg.max_position_embeddings - len(prompt)
        if room < 1:
            raise R1Error(f"question {question.id}: its {len(prompt)} tokens leave no room to answer; shorten it")
        body = {
            "model": self.model,
            "prompt": prompt,
            "n": group_size,
            "max_tokens": min(self.sampling.max_response_tokens, room),
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": seed % (2**63 - group_size),
            "stop_token_ids": sorted(self.stop_ids),
            "logprobs": 1,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
        }
        if self.tokenizer.stop_text:
            body["stop"] = [self.tokenizer.stop_text]
        told = self.client.post("/v1/completions", body, timeout_s=self.cfg.vllm.request_timeout_s)
        choices = told.get("choices") if isinstance(told, dict) else None
        if not isinstance(choices, list) or len(choices) != group_size:
            count = len(choices) if isinstance(choices, list) else "no"
            raise R1Error(f"question {question.id}: vLLM gave {count} answers for {group_size}; look into its log")
        try:
            return [self._sampled(choice) for choice in sorted(choices, key=lambda choice: choice["index"])]
        except (KeyError, TypeError, ValueError) as error:
            raise R1Error(
                f"question {question.id}: vLLM's answer cannot be used ({type(error).__name__}: {error}); it takes a "
                "version that knows return_token_ids and --logprobs-mode (requirements/vllm.txt)"
            ) from error

    def _sampled(self, choice: dict[str, Any]) -> Sampled:
        """One choice of the completions API. Raises ValueError where tokens and logprobs do not fit each other."""
        tokens, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        if not tokens or len(tokens) != len(logprobs):
            raise ValueError(f"{len(tokens)} tokens with {len(logprobs)} logprobs")
        if not all(isinstance(t, int) and 0 <= t < self.model_cfg.vocab_size for t in tokens):
            raise ValueError("token ids that the model does not know")
        if not all(isinstance(p, float | int) and math.isfinite(p) and p <= 1e-4 for p in logprobs):
            raise ValueError("logprobs that are none")
        stopped, reason = self.has_ended(tokens), choice["finish_reason"]
        if reason not in ("stop", "length") or (reason == "stop" and not stopped):
            raise ValueError(f"ended by {reason} with token {tokens[-1]}")
        return Sampled(tokens, [float(p) for p in logprobs], [], stopped=stopped)
