"""Rollouts by Megatron's dynamic inference engine, in process, on CUDA: paged latent cache, requests that come and go.

It works on a network of its own, as its settings exclude training (transformer/multi_latent_attention.py); the weights
are copied. Between rollouts the engine is suspended, since its inference mode is one for the whole process; colocated,
it gives its cache back meanwhile. Answers are drawn from one generator a rank in the
order in which the engine batches them: an answer depends on those beside it.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import ConfigError, R1Error
from modeling.config import ModelConfig
from modeling.sampling import Sampled, SamplingConfig
from modeling.tokenizer import ANSWER_END, Tokenizer
from rl.config import Placement, RolloutConfig
from rl.rollout.paged import paged_attention, paged_decode
from rl.rollout.sharing import Share, SharingEngine, answer_seed
from rl.types import Question
from training import parallel
from training.config import ParallelConfig
from training.whole import build_whole, fill, gather

PAGE = 64
"Tokens of a page; the engine asks for this number where latents are cached."


class _Words:
    """What the engine wants of a tokenizer: it is given ids and asked for nothing but the stop word's."""

    bos, eod = None, -1

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.num_tokens

    def tokenize(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def detokenize(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)


class MegatronEngine(SharingEngine):
    """RolloutEngine over megatron.core.inference; generate and load_weights are called by every rank.

    Raises ConfigError where there is no CUDA, for a network cut over ranks, or built with Transformer Engine.
    """

    def __init__(
        self,
        cfg: RolloutConfig,
        model_cfg: ModelConfig,
        layout: ParallelConfig,
        tokenizer: Tokenizer,
        sampling: SamplingConfig,
        *,
        seed: int,
        max_rows: int,
    ) -> None:
        _check(layout)
        super().__init__(tokenizer, sampling, seed=seed)
        self.model_cfg = model_cfg
        self.module = build_whole(model_cfg).eval().requires_grad_(False)
        self.engine = _dynamic_engine(self.module, model_cfg, cfg, tokenizer, max_rows)
        self.engine.suspend()

    def load_weights(self, model: nn.Module, version: int) -> None:
        """Copy the weights; what is derived from them are views."""
        fill(self.module, gather(model))
        self.version = version

    def write(self, questions: list[Question], group_size: int, *, step: int) -> Share:
        """This rank's share, answers spread over data-parallel ranks as LocalEngine spreads them."""
        places = [(q, g) for q in range(len(questions)) for g in range(group_size)]
        mine = places[parallel.data_rank() :: parallel.data_size()]
        rank = f"rank {parallel.data_rank()} of {parallel.data_size()}"
        self.engine.resume()
        try:
            generator = self.engine.controller.sampling_rng
            generator.manual_seed(answer_seed(self.seed, step, rank, 0) % 2**63)
            answers = self._generate([self.prompt_ids(questions[q]) for q, _ in mine])
        finally:
            self.engine.suspend()
        return Share(list(zip(mine, answers, strict=True)), self.version)

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]]) -> list[Sampled]:
        from megatron.core.inference.sampling_params import SamplingParams

        engine, sampling = self.engine, self.sampling
        numbers = []
        for prompt in prompts:
            room = self.model_cfg.max_position_embeddings - len(prompt)
            if room < 1:
                raise R1Error(f"a prompt of {len(prompt)} tokens leaves no room to answer; shorten it")
            numbers.append(int(next(engine.request_counter)))
            params = SamplingParams(
                temperature=float(sampling.temperature or 1.0),
                top_k=0 if sampling.temperature else 1,
                top_p=sampling.top_p if sampling.temperature and sampling.top_p < 1 else 0.0,
                return_log_probs=True,
                skip_prompt_log_probs=True,
                num_tokens_to_generate=min(sampling.max_response_tokens, room),
                termination_id=self.tokenizer.eos_id,
                stop_words=[ANSWER_END],
                detokenize_stop_sequence=True,  # else the stop word is cut off the answer
            )
            engine.add_request(numbers[-1], prompt, params)
        finished: dict[int, Any] = {}
        while engine.has_unfinished_requests():
            for record in engine.step_modern()["finished_request_records"]:
                finished[record.request_id] = record.merge()
        return [self._sampled(finished.get(number)) for number in numbers]

    def _sampled(self, request: Any) -> Sampled:
        """A finished request as an answer. Raises R1Error for one that failed."""
        tokens = list(request.generated_tokens) if request is not None else []
        logprobs = list(request.generated_log_probs or []) if request is not None else []
        if not tokens or len(logprobs) < len(tokens):
            raise R1Error(
                "Megatron's engine failed a request; set rl.rollout.cache_gib higher, or rl.rollout_rows lower"
            )
        return Sampled(tokens, logprobs[: len(tokens)], [], stopped=self.has_ended(tokens))


def _check(layout: ParallelConfig) -> None:
    if not torch.cuda.is_available():
        raise ConfigError(
            "rl.rollout.engine", "megatron", "its kernels and memory are CUDA's", "set rl.rollout.engine=local"
        )
    sizes = layout.tensor * layout.pipeline * layout.expert * layout.context
    if sizes > 1:
        raise ConfigError(
            "rl.rollout.engine",
            "megatron",
            "it is used by ranks that hold the whole network and whole rows",
            "set parallel.tensor=1 pipeline=1 expert=1 context=1, or rl.rollout.engine=vllm",
        )


def _dynamic_engine(
    module: nn.Module, model_cfg: ModelConfig, cfg: RolloutConfig, tokenizer: Tokenizer, max_rows: int
) -> Any:
    """Megatron's engine around the network, which caches latents from now on."""
    from megatron.core.inference.apis.llm import MegatronLLM
    from megatron.core.inference.config import InferenceConfig, KVCacheManagementMode

    attentions = _cache_latents(module, model_cfg)
    modes = KVCacheManagementMode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        llm = MegatronLLM(
            model=module,
            tokenizer=_Words(tokenizer),
            use_coordinator=False,
            inference_config=InferenceConfig(
                block_size_tokens=PAGE,
                buffer_size_gb=cfg.cache_gib,
                kv_cache_management_mode=(modes.RECOMPUTE if cfg.placement is Placement.colocated else modes.PERSIST),
                max_requests=max_rows,
                max_tokens=max(16384, max_rows, model_cfg.max_position_embeddings),
                max_sequence_length=model_cfg.max_position_embeddings,
                logprobs_mode="processed_logprobs",
            ),
        )
    for attention in attentions:
        attention.flash_decode_and_prefill = _kernel(attention, llm.context, model_cfg)
    return llm.engine


def _cache_latents(module: nn.Module, cfg: ModelConfig) -> list[nn.Module]:
    """Switch the network to cached latents (V3 §2.1.1); -> its attention modules.

    What Megatron's prepare_for_absorption makes out of Transformer Engine's fused module, made of the local ones, as
    views: W_UK and W_UV apart, so that they follow the weights.
    """
    from megatron.core.transformer import multi_latent_attention

    if not hasattr(multi_latent_attention, "rearrange"):  # of einops, which it imports where it is installed
        multi_latent_attention.rearrange = lambda x, pattern: x.flatten(2)
    module.config.cache_mla_latents = True
    module.config.apply_rope_fusion = False
    attentions = [m for m in module.modules() if isinstance(m, multi_latent_attention.MultiLatentAttention)]
    for attention in attentions:
        up = attention.linear_kv_up_proj
        if hasattr(up, "layer_norm_weight"):
            raise ConfigError(
                "rl.rollout.engine",
                "megatron",
                "it reads Megatron's local modules, and this model is built with Transformer Engine",
                "set model.modules=local",
            )
        weight = up.weight.detach().unflatten(0, (cfg.num_attention_heads, -1))
        attention.up_k_weight, attention.up_v_weight = weight.split([cfg.qk_nope_head_dim, cfg.v_head_dim], 1)
        attention.linear_kv_up_proj_linear = up
        attention.cache_mla_latents = True
        # It would expand the whole cache to keys and values of every head, at each step that reads a prompt.
        attention.uncompress_kv_from_cache = lambda latents: (latents, latents)
    return attentions


def _kernel(attention: nn.Module, context: Any, cfg: ModelConfig) -> Any:
    """The attention kernel that Megatron's MLA calls, on latents in every step.

    FlashMLA where it is installed and has the shape, else torch. Megatron's own method would take it, but core 0.19.2
    calls it without its last argument, whether all requests decode.
    """
    from megatron.core.transformer import attention as kernels

    rank, nope = cfg.kv_lora_rank, cfg.qk_nope_head_dim
    theirs, scale = attention.flash_decode_and_prefill, attention.softmax_scale
    flash = kernels.HAVE_FMLA and (rank, cfg.qk_rope_head_dim) == (512, 64)

    def kernel(
        q: Tensor, k: Tensor, v: Tensor | None, max_q: int, max_k: int, starts: Tensor, sums: Tensor, *where: Tensor
    ) -> Tensor:
        lengths, pages = where
        if context.is_decode_only():  # W_UK is in the query already, and Megatron multiplies by W_UV afterwards
            if flash:
                return theirs(q, k, v, max_q, max_k, starts, sums, lengths, pages, True)
            return paged_decode(q.squeeze(1), k, lengths, pages, rank, scale).unsqueeze(1)
        q = q.squeeze(1)
        content = torch.einsum("thd,hdc->thc", q[..., :nope], attention.up_k_weight)
        out = paged_attention(torch.cat([content, q[..., nope:]], -1), k, starts, lengths, pages, rank, scale)
        return torch.einsum("thc,hdc->thd", out, attention.up_v_weight).unsqueeze(1)

    return kernel
