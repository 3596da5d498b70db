"""The faults: each a wrapper around the rollout engine, behind its protocol (rl/rollout/engine.py). No production
option leads here.

A sampler that is not the trainer's own network keeps a copy of its weights, as a separate engine does; the copy is
exact but for what the fault does to it.
"""

import dataclasses
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modeling.config import DType
from modeling.decode_weights import Experts
from modeling.draw import draw
from modeling.fp8 import TILE, dequantise, quantise
from modeling.generate import Generator, Rows, Run
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.rollout.engine import RolloutEngine
from rl.rollout.local import LocalEngine
from rl.types import Completion, Question
from training.state import TrainState
from training.whole import fill, gather

TEMPERATURE, TOP_P, FLIPPED, SEED = 0.7, 0.9, 0.05, 0


class Faulty:
    """A RolloutEngine that hands everything to the engine inside; a fault changes one of its methods."""

    def __init__(self, inner: LocalEngine) -> None:
        self.inner = inner

    @property
    def version(self) -> int:
        """What the engine says of its weights, true or not."""
        return self.inner.version

    @property
    def pad_id(self) -> int:
        return self.inner.pad_id

    def prompt_ids(self, question: Question) -> list[int]:
        return self.inner.prompt_ids(question)

    def generate(self, questions: list[Question], group_size: int, *, step: int) -> list[list[Completion]]:
        return self.inner.generate(questions, group_size, step=step)

    def load_weights(self, model: nn.Module, version: int) -> None:
        self.inner.load_weights(model, version)

    def metrics(self) -> dict[str, float]:
        return self.inner.metrics()


class Raw(Faulty):
    """Tells logprobs and entropies of the network's own distribution, whatever it draws from: temperature and top-p are
    in the draw and not in the logprobs (vLLM's `raw_logprobs`, its default)."""

    def __init__(self, inner: LocalEngine) -> None:
        super().__init__(inner)
        inner.generator = _RawGenerator(inner.whole.module, inner.generator.cfg)


class _RawGenerator(Generator):
    def _run(self, *args, **kwargs) -> Run:
        return _RawRun(self, *args, **kwargs)


class _RawRun(Run):
    def _draw(self, rows: Rows, logits: Tensor) -> tuple[Rows, int]:
        own = torch.log_softmax(logits, -1)  # before draw writes over the logits
        token, *_ = draw(logits, self._uniform(rows), self.sampling)
        logprob, entropy = own.gather(1, token.unsqueeze(1)).squeeze(1), -(own.exp() * own).sum(-1)
        self.drawn.append((rows.job, token, logprob, entropy))
        rows = self._ended(rows, token)
        return rows, int(rows.alive.sum())


class Stale(Faulty):
    """Writes with the weights of `steps` steps before and says that it has the newest: a sync that nobody waits for."""

    def __init__(self, inner: LocalEngine, steps: int) -> None:
        super().__init__(inner)
        self.steps = steps
        self._waiting = deque([gather(inner.whole.module)])

    def load_weights(self, model: nn.Module, version: int) -> None:
        self._waiting.append(gather(model))
        while len(self._waiting) > self.steps + 1:
            self._waiting.popleft()
        fill(self.inner.whole.module, self._waiting[0])
        self.inner.generator.refresh()
        self.inner.version = version


class Fp8Rollouts(Faulty):
    """Products of the decoder layers in FP8 (V3 §3.3), emulated: weights in blocks of 128 x 128 as an FP8 checkpoint
    holds them, activations in tiles of 1 x 128. Head, embedding and router keep their precision, as in training."""

    def __init__(self, inner: LocalEngine) -> None:
        super().__init__(inner)
        self.load_weights(inner.whole.module, inner.version)

    @torch.no_grad()
    def load_weights(self, model: nn.Module, version: int) -> None:
        fill(self.inner.whole.module, gather(model))
        for name, weight in self.inner.whole.module.named_parameters():
            if in_fp8(name, weight):
                weight.copy_(dequantise(quantise(weight, TILE)))
        self.inner.generator.refresh()
        self.inner.version = version

    def generate(self, questions: list[Question], group_size: int, *, step: int) -> list[list[Completion]]:
        decoder = self.inner.generator.decoder
        routers = [mlp.router for _, mlp in decoder.layers if isinstance(mlp, Experts)]
        with _Tiles([decoder.head, *routers]):
            return super().generate(questions, group_size, step=step)


def in_fp8(name: str, weight: Tensor) -> bool:
    """Whether a Megatron parameter is a product's operand in FP8: linear layers and experts of the decoder."""
    return ".layers." in name and weight.dim() > 1 and ".router." not in name


class _Tiles(TorchFunctionMode):
    """Inside, what is multiplied by a matrix is cut to E4M3 first, but for the matrices in `spared`."""

    def __init__(self, spared: list[Tensor]) -> None:
        super().__init__()
        self.spared = {weight.data_ptr() for weight in spared}

    def __torch_function__(self, func, types, args=(), kwargs=None):  # torch's own signature
        if func in (F.linear, torch.mm) and len(args[0]) and args[1].data_ptr() not in self.spared:
            args = (dequantise(quantise(args[0], 1)), *args[1:])
        return func(*args, **(kwargs or {}))


class RouterFlips(Faulty):
    """In a share of tokens, the weakest expert that a router chose gives way to the best that it did not choose."""

    def __init__(self, inner: LocalEngine, share: float) -> None:
        super().__init__(inner)
        self.share, self.rng = share, torch.Generator().manual_seed(SEED)
        self._flip()

    def load_weights(self, model: nn.Module, version: int) -> None:
        super().load_weights(model, version)
        self._flip()

    def _flip(self) -> None:
        decoder = self.inner.generator.decoder
        decoder.layers = [
            (attention, Flipped.of(mlp, self.share, self.rng) if isinstance(mlp, Experts) else mlp)
            for attention, mlp in decoder.layers
        ]


class Flipped(Experts):
    """Experts whose router errs in a share of its tokens."""

    @classmethod
    def of(cls, experts: Experts, share: float, rng: torch.Generator) -> "Flipped":
        flipped = cls(**{field.name: getattr(experts, field.name) for field in dataclasses.fields(Experts)})
        flipped.share, flipped.rng = share, rng
        return flipped

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gates, chosen = super().route(x)
        k, cfg = self.cfg.num_experts_per_tok, self.cfg
        scores = F.linear(x.float(), self.router).sigmoid_()
        ranked = (scores if self.bias is None else scores + self.bias).topk(k + 1, -1).indices
        other = torch.cat([ranked[:, : k - 1], ranked[:, k:]], -1)
        other_gates = scores.gather(1, other)
        other_gates = other_gates / (other_gates.sum(-1, keepdim=True) + 1e-20) * cfg.routed_scaling_factor
        flips = torch.rand(len(x), 1, generator=self.rng) < self.share
        return torch.where(flips, other_gates, gates), torch.where(flips, other, chosen)


class DroppedToken(Faulty):
    """Every answer comes back without one of its tokens: what it wrote is not what the trainer reads."""

    def __init__(self, inner: LocalEngine) -> None:
        super().__init__(inner)
        self.rng = np.random.default_rng(SEED)

    def generate(self, questions: list[Question], group_size: int, *, step: int) -> list[list[Completion]]:
        groups = super().generate(questions, group_size, step=step)
        return [[self._drop(c) for c in group] for group in groups]

    def _drop(self, answer: Completion) -> Completion:
        if len(answer.tokens) < 3:
            return answer
        at = int(self.rng.integers(1, len(answer.tokens) - 1))  # the first and the last stay

        def without(values: list) -> list:
            return values[:at] + values[at + 1 :]

        tokens = without(answer.tokens)
        told = dict(
            sampler_logprobs=without(answer.sampler_logprobs),
            entropies=without(answer.entropies),
            text=self.inner.tokenizer.decode(tokens),
        )
        return dataclasses.replace(answer, tokens=tokens, **told)


Build = Callable[[TrainState, Tokenizer, SamplingConfig, int], RolloutEngine]
"""(state, tokenizer, what the algorithm asks for, seed) -> engine."""


def _local(state: TrainState, tokenizer: Tokenizer, sampling: SamplingConfig, seed: int, **how) -> LocalEngine:
    """copies and dtype: the sampler's own weights, in that type."""
    cfg = dataclasses.replace(state.model_cfg, dtype=how.pop("dtype", state.model_cfg.dtype))
    return LocalEngine(state.module, cfg, tokenizer, sampling, seed=seed, max_rows=128, **how)


def _drawn(wrap: Callable[[LocalEngine], RolloutEngine], **draws: float) -> Build:
    """An engine that draws otherwise than it was asked to."""
    return lambda s, t, sampling, seed: wrap(_local(s, t, dataclasses.replace(sampling, **draws), seed))


def _copied(wrap: Callable[[LocalEngine], RolloutEngine]) -> Build:
    """An engine with weights of its own."""
    return lambda s, t, sampling, seed: wrap(_local(s, t, sampling, seed, copies=True))


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One arm of the laboratory."""

    about: str
    build: Build


FAULTS: dict[str, Fault] = {
    "none": Fault("the trainer's own modules sample, in place", lambda *given: _local(*given)),
    "temperature": Fault(
        f"asked for temperature 1, it draws at {TEMPERATURE} and says so in its logprobs",
        _drawn(Faulty, temperature=TEMPERATURE),
    ),
    "temperature_raw": Fault(
        f"the same, and its logprobs are those of temperature 1: {TEMPERATURE} is in the draw alone",
        _drawn(Raw, temperature=TEMPERATURE),
    ),
    "top_p": Fault(f"draws from the top {TOP_P}, logprobs not renormalised", _drawn(Raw, top_p=TOP_P)),
    "stale_1": Fault("weights of the step before", _copied(lambda e: Stale(e, 1))),
    "stale_4": Fault("weights of 4 steps before", _copied(lambda e: Stale(e, 4))),
    "stale_16": Fault("weights of 16 steps before", _copied(lambda e: Stale(e, 16))),
    "fp8": Fault("FP8 products in the sampler, emulated", _copied(Fp8Rollouts)),
    "bf16": Fault("a sampler in BF16, a trainer in FP32", lambda *g: _local(*g, copies=True, dtype=DType.bf16)),
    "router_flips": Fault(
        f"one expert of a layer is another in {FLIPPED:.0%} of the tokens", _copied(lambda e: RouterFlips(e, FLIPPED))
    ),
    "dropped_token": Fault("one token of each answer is lost on the way", lambda *g: DroppedToken(_local(*g))),
}
