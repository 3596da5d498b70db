"""Each family of released models, small: its own settings, with weights large enough to show in the logits."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from modeling import hf
from modeling.build import build_model  # before megatron: it installs the CPU layer
from modeling.config import Family, ModelConfig, ScoringFunc
from modeling.mtp import without_mtp
from modeling.tokenizer import Tokenizer
from tests.training.tiny import model_config
from training import parallel
from training.config import ParallelConfig

DENSE = dict(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1280)
FAMILIES = {
    # DeepSeek-V3 and R1: groups scored by their top 2 on both sides, as topk is twice topk_group; biases are small, as
    # transformers hides the other groups with 0.0 and Megatron with -inf (cluster_facts 1b).
    "deepseek_v3": dict(
        n_routed_experts=8, num_experts_per_tok=4, n_group=4, topk_group=2, routed_scaling_factor=2.5,
        rope_factor=40.0, rope_original_max_position_embeddings=32, max_position_embeddings=1280,
    ),
    "v2_lite": dict(
        scoring_func=ScoringFunc.softmax, q_lora_rank=None, n_shared_experts=2, num_experts_per_tok=3,
        num_nextn_predict_layers=0, aux_loss_alpha=1e-3, rope_factor=40.0, rope_mscale=0.707, rope_mscale_all_dim=0.707,
        rope_original_max_position_embeddings=32, max_position_embeddings=1280,
    ),
    "moonlight": dict(
        q_lora_rank=None, n_shared_experts=2, num_experts_per_tok=3, num_nextn_predict_layers=0, rope_theta=50000.0,
        routed_scaling_factor=2.446, rms_norm_eps=1e-5,
    ),
    "qwen2": dict(family=Family.qwen2, rope_theta=1e6, **DENSE),
    "qwen2_tied": dict(family=Family.qwen2, rope_theta=1e6, tie_word_embeddings=True, **DENSE),
    "qwen3": dict(family=Family.qwen3, rope_theta=1e6, head_dim=16, **DENSE),
    "llama3": dict(family=Family.llama, rope_theta=5e5, rms_norm_eps=1e-5, **DENSE),
    "llama3_scaled": dict(
        family=Family.llama, rope_theta=5e5, rope_factor=32.0, rope_original_max_position_embeddings=8192,
        tie_word_embeddings=True, rms_norm_eps=1e-5, **DENSE,
    ),
}  # fmt: skip


def shape(family: str, **changes) -> ModelConfig:
    """A family's tiny member."""
    return model_config(**(dict(initializer_range=0.2, num_hidden_layers=3) | FAMILIES[family] | changes))


def randomize(module: nn.Module) -> None:
    """Give norms and biases, which start as ones and zeros, values of their own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if torch.is_tensor(tensor) and ("norm" in name or name.endswith("bias")):
                tensor += (0.1 if "correction" in name or "expert" in name else 0.2) * torch.randn(
                    tensor.shape, generator=generator
                ).to(tensor.dtype)


def built(cfg: ModelConfig, seed: int) -> nn.Module:
    """A network of that shape in evaluation mode, with values of its own in every tensor."""
    parallel.init(ParallelConfig(), seed)
    module = build_model(cfg).eval()
    randomize(module)
    return module


def logits(module: nn.Module, ids: Tensor) -> Tensor:
    """The main model's logits of ids [batch, seq]."""
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    with torch.no_grad(), without_mtp(module):
        return module(ids, positions, None)


CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXTS = [
    "User: Make 18 from 3, 5, 8. <think> 3+5=8 </think> <answer>3+5*8</answer>",
    "The Assistant solves it in the mind.",
]


def qwen_tokenizer(folder: Path, *, chat: bool = True, **settings) -> Tokenizer:
    """A small tokenizer in the files and with the special tokens of Qwen2.5, none of R1's tags among them."""
    trained = HFTokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(TEXTS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    trained.save(str(folder / "tokenizer.json"))
    settings = {
        "eos_token": "<|im_end|>",
        "pad_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
        "bos_token": None,
    } | settings
    if chat:
        settings["chat_template"] = CHAT
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ends = [trained.token_to_id("<|im_end|>"), trained.token_to_id("<|endoftext|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "do_sample": True}))
    return Tokenizer.load(folder)


def qwen_folder(folder: Path, *, chat: bool = True, seed: int = 0, **changes) -> ModelConfig:
    """A random Qwen2.5 of a few thousand parameters, with its tokenizer, as transformers would save it."""
    cfg = shape("qwen2_tied", vocab_size=384, initializer_range=0.05, **changes)
    parallel.init(ParallelConfig(), seed)
    hf.save_pretrained(build_model(cfg), cfg, folder)
    qwen_tokenizer(folder, chat=chat)
    return cfg
