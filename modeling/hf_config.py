"""config.json of Hugging Face's models <-> ModelConfig: which families are known, and which of their settings.

A setting that ModelConfig has no field for has to have the value under which the network here computes the same; any
other is refused by name, as it would give other logits without a word.
"""

from dataclasses import dataclass, field
from typing import Any

from infra.errors import ConfigError
from modeling.config import DType, Family, Head, ModelConfig, ScoringFunc
from modeling.vision_config import Vision

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
"quantization_config of weights in FP8 with a scale for each block (modeling/hf_fp8.py)."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One model_type."""

    architecture: str
    family: Family
    names: str
    "Fields with the same name and meaning on both sides, beside _COMMON; those that config.json cannot do without."
    optional: str = ""
    "The same, with ModelConfig's default where they are missing."
    fixed: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    "Settings without a field, and the values under which the network is the same; the first is written."


_COMMON = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings "
    "rms_norm_eps"
).split()
_WRITES, _SCORES = "ForCausalLM", "ForSequenceClassification"
"How transformers' names of architectures end: with a head of tokens, and of a score."
_COMMON_OPTIONAL = "rope_theta initializer_range tie_word_embeddings".split()
_LATENT = (
    "kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim first_k_dense_replace n_routed_experts "
    "n_shared_experts num_experts_per_tok moe_intermediate_size"
)
_LATENT_OPTIONAL = "q_lora_rank n_group topk_group routed_scaling_factor aux_loss_alpha num_nextn_predict_layers"
_DEEPSEEK_FIXED = {"attention_bias": (False,), "moe_layer_freq": (1,), "tie_word_embeddings": (False,)}
_V3 = {
    "topk_method": ("noaux_tc",),
    "scoring_func": ("sigmoid",),
    "norm_topk_prob": (True,),
    "rope_interleave": (True,),
}
_V2 = {"topk_method": ("greedy",), "scoring_func": ("softmax",), "norm_topk_prob": (False,)}
_QWEN_FIXED = {"use_sliding_window": (False,)}
_KINDS = {
    "deepseek_v3": _Kind(
        architecture="DeepseekV3ForCausalLM",
        family=Family.deepseek,
        names=_LATENT,
        optional=_LATENT_OPTIONAL,
        fixed=_DEEPSEEK_FIXED | _V3,
    ),
    "deepseek_v2": _Kind(
        architecture="DeepseekV2ForCausalLM",
        family=Family.deepseek,
        names=_LATENT,
        optional=_LATENT_OPTIONAL,
        fixed=_DEEPSEEK_FIXED | _V2,
    ),
    "qwen2": _Kind(
        architecture="Qwen2ForCausalLM",
        family=Family.qwen2,
        names="num_key_value_heads",
        optional="head_dim",
        fixed=_QWEN_FIXED,
    ),
    "qwen3": _Kind(
        architecture="Qwen3ForCausalLM",
        family=Family.qwen3,
        names="num_key_value_heads head_dim",
        fixed=_QWEN_FIXED | {"attention_bias": (False,)},
    ),
    "llama": _Kind(
        architecture="LlamaForCausalLM",
        family=Family.llama,
        names="",
        optional="num_key_value_heads head_dim",
        fixed={"attention_bias": (False,), "mlp_bias": (False,)},
    ),
}
_YARN = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
# Megatron's own constants of Llama 3's scaling (RotaryEmbedding._apply_scaling), those of Llama 3.1 to 3.3.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def to_dict(cfg: ModelConfig) -> dict[str, Any]:
    """What config.json says of this shape."""
    name = cfg.family.name
    if not cfg.is_dense:
        name = "deepseek_v3" if cfg.has_expert_bias else "deepseek_v2"
    kind = _KINDS[name]
    hf: dict[str, Any] = {key: value[0] for key, value in kind.fixed.items()}
    names = [*_COMMON, *_COMMON_OPTIONAL, *kind.names.split(), *kind.optional.split()]
    hf |= {key: getattr(cfg, key) for key in names}
    hf |= {
        "architectures": [kind.architecture],
        "model_type": name,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "torch_dtype": "bfloat16" if cfg.dtype is DType.bf16 else "float32",
    }
    if cfg.head is Head.score:
        hf["architectures"] = [kind.architecture.replace(_WRITES, _SCORES)]
        hf |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if cfg.vision is not Vision.none:
        hf["vision"] = cfg.vision.name
    if not cfg.is_dense:
        hf["num_key_value_heads"] = cfg.num_attention_heads
    if cfg.rope_factor != 1 and cfg.is_dense:
        hf["rope_scaling"] = {"rope_type": "llama3", "factor": cfg.rope_factor} | _LLAMA3
    elif cfg.rope_factor != 1:
        hf["rope_scaling"] = {"type": "yarn"} | {key: getattr(cfg, f"rope_{key}") for key in _YARN}
    return hf


def from_dict(hf: dict[str, Any]) -> ModelConfig:
    """The config behind a config.json.

    Raises ConfigError for a family that is not known, for settings that cannot be built, and for fields without which
    the shape is unknown.
    """
    kind = _KINDS.get(hf.get("model_type"))
    if kind is None:
        known = ", ".join(_KINDS)
        raise ConfigError("model_type", hf.get("model_type"), "is no family that is known here", f"give one of {known}")
    required = [*_COMMON, *kind.names.split()]
    missing = [name for name in required if hf.get(name) is None]
    if missing:
        raise ConfigError("config.json", ", ".join(missing), "missing", "give a complete config.json")
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    optional = [*_COMMON_OPTIONAL, *kind.optional.split()]
    fields = {name: hf[name] for name in (*required, *optional) if hf.get(name) is not None}
    for name, value in (fields | (rope if isinstance(rope, dict) else {"rope_scaling": rope})).items():
        if not isinstance(value, int | float) and name not in ("type", "rope_type"):
            raise ConfigError(name, value, "is no number", "give the config.json that belongs to the weights")
    _check_settings(hf, kind, rope)
    if kind.family is Family.deepseek:
        fields["q_lora_rank"] = hf.get("q_lora_rank")
        fields["num_nextn_predict_layers"] = hf.get("num_nextn_predict_layers") or 0
        fields["scoring_func"] = ScoringFunc(kind.fixed["scoring_func"][0])
    if any(str(name).endswith(_SCORES) for name in hf.get("architectures") or []):
        labels = len(hf.get("id2label") or {}) or hf.get("num_labels")
        if labels != 1:
            raise ConfigError("num_labels", labels, "a reward model gives one number", "give another model")
        fields |= {"head": Head.score, "num_nextn_predict_layers": 0}
    if hf.get("vision") is not None:
        if hf["vision"] not in Vision.__members__:
            raise ConfigError("vision", hf["vision"], "is no encoder known here", "give another model")
        fields["vision"] = Vision[hf["vision"]]
    fields["dtype"] = DType.bf16 if "bfloat16" in str(hf.get("torch_dtype", hf.get("dtype"))) else DType.fp32
    return ModelConfig(family=kind.family, **fields | _rope_fields(rope))


def _check_settings(hf: dict[str, Any], kind: _Kind, rope: dict[str, Any]) -> None:
    """Raise ConfigError that lists every setting under which the network would be another."""
    fixed = kind.fixed | {"hidden_act": ("silu",)}
    differ = {key: hf[key] for key, fit in fixed.items() if hf.get(key) is not None and hf[key] not in fit}
    kinds = {Family.deepseek: ("default", "yarn"), Family.llama: ("default", "llama3")}.get(kind.family, ("default",))
    rope_type = _rope_type(rope)
    if rope_type not in kinds:
        differ["rope_type"] = rope_type
    elif rope_type == "llama3":
        differ |= {f"rope_{key}": rope.get(key) for key, value in _LLAMA3.items() if rope.get(key) != value}
    quantized = hf.get("quantization_config") or {}
    differ |= {f"quantization_{key}": quantized.get(key) for key in FP8 if quantized and quantized.get(key) != FP8[key]}
    if differ:
        *others, (key, value) = differ.items()
        listed = "".join(f"{name}={was}, " for name, was in others)
        raise ConfigError(f"{listed}{key}", value, "cannot be built here", "give another model")


def _rope_type(rope: dict[str, Any]) -> str:
    return rope.get("rope_type", rope.get("type", "default"))


def _rope_fields(rope: dict[str, Any]) -> dict[str, Any]:
    """ModelConfig's fields; transformers 5 writes rope_parameters, theta inside, the released files rope_scaling."""
    fields = {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}
    if _rope_type(rope) == "llama3":
        trained = rope["original_max_position_embeddings"]
        return fields | {"rope_factor": rope["factor"], "rope_original_max_position_embeddings": trained}
    if _rope_type(rope) != "yarn":
        return fields
    fields |= {f"rope_{key}": rope[key] for key in _YARN if rope.get(key) is not None}
    # Not written is 1 and 0 to DeepSeek's own code.
    return {"rope_mscale": 1.0, "rope_mscale_all_dim": 0.0} | fields
