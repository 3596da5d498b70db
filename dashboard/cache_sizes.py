"""Size of the KV cache, by kind of attention (DeepSeek-V2 table 1; V3 §2.1.1). Pure, without torch."""

import pandas as pd

from infra.errors import ConfigError
from modeling.config import ModelConfig

BYTES = 2
"Of a cached number, BF16."
GROUPS = 8
"Key-value heads of the GQA that is compared with, as in Llama 3 and Qwen2.5; fewer for a model of few heads."


def by_attention(model: ModelConfig) -> pd.DataFrame:
    """Rows name, value: bytes a token in all layers, for the model's own attention and the others of its shape.

    MHA caches a key and a value of every head, GQA of a few shared heads, MQA of one, MLA one latent and one rotated
    key. Heads are v_head_dim wide. For 671b: 70,272 bytes by MLA, 3,997,696 by MHA.
    """
    layers, heads, width = model.num_hidden_layers, model.num_attention_heads, model.v_head_dim
    groups = min(GROUPS, max(1, heads // 2))
    own = BYTES * model.kv_elements_per_token()
    if model.is_dense:
        rows = [(f"GQA, {model.num_key_value_heads} groups (this model)", own)]
    else:
        rows = [
            ("MLA (this model)", own),
            (f"GQA, {groups} groups", 2 * BYTES * layers * groups * width),
        ]
    rows += [("MQA", 2 * BYTES * layers * width), ("MHA", 2 * BYTES * layers * heads * width)]
    return pd.DataFrame(rows, columns=["name", "value"])


def of_config(config: dict) -> ModelConfig | None:
    """The network of a run's resolved config; None where it says none that can be built."""
    fields = config.get("model")
    if not isinstance(fields, dict):
        return None
    try:
        return ModelConfig.from_names(fields)
    except (ConfigError, KeyError, TypeError):
        return None
