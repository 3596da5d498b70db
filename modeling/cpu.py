"""The CPU device layer: lets Megatron-core, which speaks CUDA, run on CPU. install() does nothing where CUDA is there.

Megatron's modules see a stand-in named `torch` in their own globals: real torch, but with `torch.cuda` answering for
the CPU and factories taking device="cuda" as the CPU. torch itself stays as it is, so that other libraries in the
process (transformers for one) keep their own view of it. Four things a stand-in cannot reach are replaced by name.
"""

import contextlib
import ctypes
import importlib.machinery
import logging
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import torch

from modeling import fp8, kernels, native

CPU = torch.device("cpu")
_FACTORIES = "tensor empty zeros ones full arange rand randn randint empty_like zeros_like ones_like full_like".split()
_stand_in: types.ModuleType | None = None


class _Stream:
    """A CUDA stream or event. CPU work is ordered already, so every operation on it does nothing."""

    device = CPU

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def wait(self, *args: Any, **kwargs: Any) -> None: ...

    wait_stream = wait_event = synchronize = record = wait

    def record_event(self, event: "_Stream | None" = None) -> "_Stream":
        return event or _Stream()

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: "_Stream") -> float:
        return 0.0

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *exc: Any) -> None: ...


class _StandIn(types.ModuleType):
    """A module that answers like another, but for the names given."""

    def __init__(self, real: types.ModuleType, **instead: Any) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(instead, _real=real)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__dict__["_real"], name)
        self.__dict__[name] = value  # the next look-up is a plain dictionary hit
        return value


class _Finder:
    """Import hook: every Megatron module gets the stand-in as soon as its own code has run."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith("megatron.core"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            # A decorator `@torch.compile` alone would import the compiler, seconds of start-up for nothing.
            compiler, torch.compile = torch.compile, lambda function=None, **kwargs: function or (lambda f: f)
            try:
                run(module)
            finally:
                torch.compile = compiler
            _adapt(module)

        spec.loader.exec_module = exec_module
        return spec


def _adapt(module: types.ModuleType) -> None:
    if module.__dict__.get("torch") is torch:
        module.torch = _stand_in
    if module.__name__ == "megatron.core.jit":
        module.disable_jit_fuser()  # torch.compile would want a C++ compiler, and gains nothing here
    elif module.__name__ == "megatron.core.tensor_parallel.random":
        module._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
        module._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
        # It warns whenever the CPU generator moves inside fork(), which is the point here.
        logging.getLogger(module.__name__).setLevel(logging.ERROR)
    elif module.__name__ == "megatron.core.transformer.moe.token_dispatcher":
        module.maybe_move_tensor_to_cpu = _splits_to_host
        module.sort_chunks_by_idxs = _unless_sorted(module.sort_chunks_by_idxs)
    elif module.__name__ == "megatron.core.transformer.moe.router":
        module.topk_routing_with_score_function = _routing(module.topk_routing_with_score_function)
        module.compute_routing_scores_for_aux_loss = _balance_scores(module.compute_routing_scores_for_aux_loss)
    elif module.__name__ in ("megatron.core.transformer.mlp", "megatron.core.transformer.moe.shared_experts"):
        module.bias_swiglu_impl = kernels.swiglu
    elif module.__name__ == "megatron.core.tensor_parallel.layers":
        # Apex's kernel; train_step turns it on (gradient_accumulation_fusion).
        module.fused_weight_gradient_mlp_cuda = types.SimpleNamespace(wgrad_gemm_accum_fp32=_add_weight_gradient)
    elif module.__name__ == "megatron.core.tensor_parallel.cross_entropy":
        module.vocab_parallel_cross_entropy = _cross_entropy(module.vocab_parallel_cross_entropy)
    elif module.__name__ == "megatron.core.transformer.multi_latent_attention":
        # Megatron's Triton kernels cannot run here; build.py turns them on (apply_rope_fusion) in FP32.
        module.fused_apply_mla_rope_for_q, module.fused_apply_mla_rope_for_kv = kernels.mla_rope_q, kernels.mla_rope_kv


def _cross_entropy(split: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Megatron's cross-entropy over a split vocabulary; where it is whole, ours."""

    def cross_entropy(
        logits: torch.Tensor, target: torch.Tensor, label_smoothing: float = 0.0, tp_group: Any = None
    ) -> torch.Tensor:
        if tp_group is not None and tp_group.size() == 1 and not label_smoothing:
            return kernels.cross_entropy(logits, target)
        return split(logits, target, label_smoothing, tp_group)

    return cross_entropy


def _routing(written_out: Callable[..., Any]) -> Callable[..., Any]:
    """Megatron's choice of experts; plain sigmoid routing as one kernel."""

    def routing(
        logits: torch.Tensor, topk: int, *, scaling_factor: Any = None, expert_bias: Any = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plain = kwargs.get("score_function") == "sigmoid" and topk > 1 and not kwargs.get("num_groups")
        other = ("router_replay", "dense_output", "precomputed_indices")
        if plain and not any(kwargs.get(name) is not None for name in other) and native.usable(logits):
            return kernels.route(logits, topk, scaling_factor or 1.0, expert_bias)
        return written_out(logits, topk, scaling_factor=scaling_factor, expert_bias=expert_bias, **kwargs)

    return routing


def _balance_scores(written_out: Callable[..., Any]) -> Callable[..., Any]:
    """The same for the scores of the balance loss, which know no bias."""

    def scores(
        logits: torch.Tensor, topk: int, score_function: str, padding_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if score_function == "sigmoid" and native.usable(logits):
            shares, chosen = kernels.route(logits, topk, every=True)
            if padding_mask is None:
                return chosen, shares
            valid = ~padding_mask.unsqueeze(-1)
            return chosen & valid, shares * valid
        return written_out(logits, topk, score_function, padding_mask=padding_mask, **kwargs)

    return scores


def adds_weight_gradients(layer: torch.nn.Module) -> bool:
    """Whether layer can add its weight gradient to main_grad in the product itself: Megatron's linear, FP32, on CPU."""
    weight = getattr(layer, "weight", None)
    has_way = is_installed() and hasattr(layer, "gradient_accumulation_fusion")
    return has_way and weight is not None and weight.dtype == torch.float32


def _add_weight_gradient(x: torch.Tensor, grad: torch.Tensor, main_grad: torch.Tensor) -> None:
    """main_grad [out, in] += grad [tokens, out]^T x [tokens, in]."""
    main_grad.addmm_(grad.t(), x)


def _unless_sorted(sort: Callable[..., Any]) -> Callable[..., Any]:
    """Megatron copies the experts' tokens into their order; with one expert rank they are in it already."""

    def sort_chunks(
        input: torch.Tensor, split_sizes: torch.Tensor, sorted_idxs: torch.Tensor, probs: Any = None, **kwargs: Any
    ) -> tuple[torch.Tensor, Any]:
        order = sorted_idxs.tolist()
        if order == list(range(len(order))):
            return input, probs
        return sort(input, split_sizes, sorted_idxs, probs=probs, **kwargs)

    return sort_chunks


def _splits_to_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """All-to-all splits as host numbers; Megatron converts them only when they are on CUDA, gloo refuses tensors."""
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("device") is not None and str(kwargs["device"]).startswith("cuda"):
            kwargs["device"] = CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return make


def _make_stand_in() -> types.ModuleType:
    cuda = _StandIn(
        torch.cuda,
        Stream=_Stream,
        Event=_Stream,
        current_device=lambda: CPU,
        set_device=lambda device: None,
        synchronize=lambda device=None: None,
        empty_cache=lambda: None,
        current_stream=lambda device=None: _Stream(),
        default_stream=lambda device=None: _Stream(),
        stream=lambda stream: contextlib.nullcontext(),
        get_rng_state=lambda device=None: torch.get_rng_state(),
        set_rng_state=lambda state, device=None: torch.set_rng_state(state),
        manual_seed=lambda seed: torch.manual_seed(seed),
        is_current_stream_capturing=lambda: False,
        memory_allocated=lambda device=None: 0,
        max_memory_allocated=lambda device=None: 0,
    )
    return _StandIn(torch, cuda=cuda, **{name: _on_cpu(getattr(torch, name)) for name in _FACTORIES})


def _patch_tensor() -> None:
    """Three Tensor methods that no stand-in reaches; the first answers differently to Megatron's modules only."""
    tensor_type = torch.Tensor.type

    def type_(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # Megatron's optimizers sort parameters by type() == "torch.cuda.FloatTensor".
        answer = tensor_type(tensor, *args, **kwargs)
        if isinstance(answer, str) and sys._getframe(1).f_globals.get("__name__", "").startswith("megatron.core"):
            return answer.replace("torch.", "torch.cuda.", 1)
        return answer

    torch.Tensor.type = type_
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor
    torch.Tensor.record_stream = lambda tensor, stream: None


def _keep_memory() -> None:
    """glibc gives large blocks back to the system as soon as they are free; each step would fault them in anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # absent outside glibc
        m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
        mallopt(m_mmap_threshold, 1 << 30)
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_top_pad, 64 << 20)


def is_installed() -> bool:
    """Whether Megatron runs on the CPU layer."""
    return _stand_in is not None


def install() -> None:
    """Make Megatron-core run on CPU. Call it before the first Megatron import; later calls do nothing."""
    global _stand_in
    if _stand_in is not None:
        return
    if torch.cuda.is_available():
        fp8.keep_fp32_scales()  # here, because this comes before the first import of Megatron and what it imports
        return
    _stand_in = _make_stand_in()
    sys.meta_path.insert(0, _Finder())
    _patch_tensor()
    _keep_memory()
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and module is not None:
            _adapt(module)
    # Its advice about Apex, Transformer Engine and the future of GPTModel is not for our users.
    warnings.filterwarnings("ignore", module=r"megatron\.core")
    logging.getLogger("megatron.core.models.gpt.gpt_model").setLevel(logging.ERROR)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import megatron.core  # noqa: F401
