"""Eyes for the language model: Megatron-core's vision transformer and projector, and their place in its input.

An image becomes as many vectors as it has patches; they stand in the row in the place of a placeholder's embeddings
(modeling/vision_config.py), as in LLaVA. The language model is the same as without images, and costs nothing more.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infra.errors import ConfigError
from modeling import cpu
from modeling.config import ModelConfig
from modeling.merge import merge
from modeling.vision_config import VISIONS, image_id

cpu.install()

from megatron.core.activations import quick_gelu  # noqa: E402
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.vision.clip_vit_model import CLIPViTModel  # noqa: E402
from megatron.core.models.vision.multimodal_projector import MultimodalProjector  # noqa: E402
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear  # noqa: E402
from megatron.core.transformer import ModuleSpec, TransformerConfig  # noqa: E402
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules  # noqa: E402
from megatron.core.transformer.dot_product_attention import DotProductAttention  # noqa: E402
from megatron.core.transformer.enums import AttnMaskType  # noqa: E402
from megatron.core.transformer.mlp import MLP, MLPSubmodules  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.torch_norm import WrappedTorchNorm  # noqa: E402
from megatron.core.transformer.transformer_layer import (  # noqa: E402
    TransformerLayer,
    TransformerLayerSubmodules,
)
from megatron.core.utils import init_method_normal  # noqa: E402


class VisionTower(MegatronModule):
    """Encoder and projector: images uint8 [images, height, width] -> [images, places, hidden] of the language model."""

    def __init__(self, cfg: ModelConfig, language: TransformerConfig) -> None:
        super().__init__(language)
        self.shape = shape = VISIONS[cfg.vision]
        common = dict(
            add_bias_linear=True,
            bias_dropout_fusion=False,
            bias_activation_fusion=False,
            masked_softmax_fusion=False,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            init_method=init_method_normal(cfg.initializer_range),
            output_layer_init_method=init_method_normal(cfg.initializer_range),
            use_cpu_initialization=False,
            params_dtype=language.params_dtype,
            bf16=language.bf16,
        )
        gelu = partial(F.gelu, approximate="tanh")
        encoder = TransformerConfig(
            **common,
            num_layers=shape.num_layers,
            hidden_size=shape.hidden_size,
            ffn_hidden_size=shape.intermediate_size,
            num_attention_heads=shape.num_heads,
            normalization="LayerNorm",
            layernorm_epsilon=shape.eps,
            activation_func=quick_gelu if shape.kind == "clip" else gelu,
        )
        self.encoder = CLIPViTModel(
            encoder,
            _layer_spec(),
            ln_pre_impl=WrappedTorchNorm,
            ln_post_impl=WrappedTorchNorm,
            add_class_token=shape.has_class_token,
            class_token_len=int(shape.has_class_token),
            patch_dim=shape.patch,
            img_h=shape.height,
            img_w=shape.width,
            model_subtype=shape.kind,
        )
        torch.nn.init.normal_(self.encoder.position_embeddings.weight, std=cfg.initializer_range)
        projector = TransformerConfig(
            **common,
            num_layers=1,
            hidden_size=cfg.hidden_size,
            ffn_hidden_size=cfg.hidden_size,
            num_attention_heads=cfg.num_attention_heads,
            activation_func=gelu,
        )
        linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
        self.projector = MultimodalProjector(projector, linears, "mlp", shape.hidden_size)
        self.to(language.params_dtype)  # the convolution knows nothing of Megatron's types

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.pixels(images).to(self.encoder.conv1.weight.dtype)
        self.encoder.position_ids = self.encoder.position_ids.to(images.device)  # no buffer: .to() leaves it behind
        features = self.encoder(pixels)
        return self.projector(features[:, -self.shape.places :])

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 [images, h, w] -> [images, 3, height, width] around 0, as large as fits, the rest black."""
        grey = images.unsqueeze(1).float() / 255
        scale = min(self.shape.height / grey.shape[2], self.shape.width / grey.shape[3])
        if scale != 1:
            size = [max(1, round(side * scale)) for side in grey.shape[2:]]
            grey = F.interpolate(grey, size=size, mode="bilinear", antialias=scale < 1)
        grey = F.pad(grey, (0, self.shape.width - grey.shape[3], 0, self.shape.height - grey.shape[2]))
        mean, std = (torch.tensor(c, device=grey.device).view(3, 1, 1) for c in (self.shape.mean, self.shape.std))
        return (grey - mean) / std


class ImageModel(GPTModel):
    """GPTModel that takes images beside its tokens; without any it is GPTModel to the bit."""

    def __init__(self, config: TransformerConfig, *args: Any, model_cfg: ModelConfig, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.image_id = image_id(model_cfg)
        self.vision = VisionTower(model_cfg, config)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        *args: Any,
        images: Tensor | None = None,
        image_rows: Tensor | None = None,
        **kwargs: Any,
    ):
        """GPTModel's, with images uint8 [images, height, width] of the rows image_rows (None: the first rows)."""
        if images is not None:
            rows = torch.arange(len(images), device=images.device) if image_rows is None else image_rows
            embedded = self.embedding(input_ids=input_ids, position_ids=position_ids)
            merged = merge(embedded.transpose(0, 1), input_ids == self.image_id, self.vision(images), rows)
            kwargs["decoder_input"] = merged.transpose(0, 1).contiguous()
        return super().forward(input_ids, position_ids, *args, **kwargs)


def check_layout(cfg: ModelConfig, **sizes: int) -> None:
    """Raise ConfigError for a layout that cuts a row or the layers: images are put together with whole rows."""
    for key, size in sizes.items():
        if size > 1:
            problem = f"model.vision={cfg.vision.name} reads whole rows on each rank"
            raise ConfigError(f"parallel.{key}", size, problem, f"set parallel.{key}=1; parallel.expert may be more")


def _layer_spec() -> ModuleSpec:
    """A layer of the vision transformer: full attention, LayerNorm; Megatron's local modules everywhere."""
    attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallelLinear, core_attention=DotProductAttention, linear_proj=RowParallelLinear
    )
    linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=WrappedTorchNorm,
            self_attention=ModuleSpec(
                module=SelfAttention, params={"attn_mask_type": AttnMaskType.no_mask}, submodules=attention
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=WrappedTorchNorm,
            mlp=partial(MLP.as_mlp_submodule, submodules=linears),
            mlp_bda=get_bias_dropout_add,
        ),
    )
