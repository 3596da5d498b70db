"""Vision encoders by name, and where their images stand in a prompt. Loads without torch.

Images are grey, uint8 [height, width], of any size; the encoder scales and pads them to its own.
"""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from infra.errors import ConfigError

if TYPE_CHECKING:
    from modeling.config import ModelConfig
    from modeling.tokenizer import Tokenizer

IMAGE = "<image>"
"Where an image stands in the text of a prompt; one to a prompt."


class Vision(Enum):
    """Which encoder reads images."""

    none = "none"
    tiny = "tiny"
    clip_vit_l = "clip_vit_l"
    siglip_so400m = "siglip_so400m"


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionShape:
    """A vision transformer; its patches become as many places in the language model's row."""

    kind: str
    "Megatron's: clip (a class token, quick GELU, norm before the layers) or siglip (none, tanh GELU, norm after)."
    height: int
    width: int
    patch: int
    "Height and width of a patch; both sizes of the image are multiples."
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    eps: float
    "Added to the variance in every LayerNorm."
    mean: tuple[float, float, float]
    "Taken from each channel, pixels from 0 to 1. Where black is not 0, it drowns the strokes of a tiny encoder."
    std: tuple[float, float, float]
    "What each channel is divided by."

    @property
    def places(self) -> int:
        """Places of an image in a row: its patches."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def has_class_token(self) -> bool:
        """Whether a token that is no patch goes through the encoder; the language model does not see it."""
        return self.kind == "clip"


VISIONS = {
    Vision.tiny: VisionShape(
        kind="siglip",
        height=24,
        width=64,
        patch=8,
        hidden_size=96,
        num_layers=3,
        num_heads=4,
        intermediate_size=192,
        eps=1e-6,
        mean=(0.0, 0.0, 0.0),
        std=(0.25, 0.25, 0.25),
    ),
    # openai/clip-vit-large-patch14, LLaVA's; google/siglip-so400m-patch14-224, which Kimi-VL's MoonViT starts from.
    Vision.clip_vit_l: VisionShape(
        kind="clip",
        height=224,
        width=224,
        patch=14,
        hidden_size=1024,
        num_layers=24,
        num_heads=16,
        intermediate_size=4096,
        eps=1e-5,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    Vision.siglip_so400m: VisionShape(
        kind="siglip",
        height=224,
        width=224,
        patch=14,
        hidden_size=1152,
        num_layers=27,
        num_heads=16,
        intermediate_size=4304,
        eps=1e-6,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
}
"Published shapes, and one for CPU cores."


def image_id(cfg: "ModelConfig") -> int:
    """The token id at an image's places: the last row of the vocabulary, which tokenizers leave unused or reserved."""
    return cfg.vocab_size - 1


def prompt_with_image(prompt: str, tokenizer: "Tokenizer", cfg: "ModelConfig") -> list[int]:
    """Token ids of a prompt, its <image> as so many places of image_id.

    Raises ConfigError for a model without an encoder. ValueError unless there is exactly one <image>.
    """
    if cfg.vision is Vision.none:
        problem = "the model reads no images"
        raise ConfigError("model.vision", "none", problem, "start from a run of r1 captions, or ask text alone")
    before, after = prompt.split(IMAGE)
    return [*tokenizer.encode(before), *[image_id(cfg)] * VISIONS[cfg.vision].places, *tokenizer.encode(after)]


def weight_shapes(cfg: "ModelConfig") -> dict[str, tuple[int, ...]]:
    """Every tensor of encoder and projector and its shape; Hugging Face's folder has them under Megatron's names."""
    if cfg.vision is Vision.none:
        return {}
    shape = VISIONS[cfg.vision]
    width, inner, out = shape.hidden_size, shape.intermediate_size, cfg.hidden_size
    found: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, shape.patch, shape.patch)}
    found["position_embeddings.weight"] = (shape.places + shape.has_class_token, width)
    norms = ["ln_pre" if shape.has_class_token else "ln_post"]
    if shape.has_class_token:
        found["class_token"] = (1, 1, width)
    else:
        found["conv1.bias"] = (width,)
    for number in range(shape.num_layers):
        layer = f"decoder.layers.{number}"
        norms += [f"{layer}.input_layernorm", f"{layer}.pre_mlp_layernorm"]
        found |= _linear(f"{layer}.self_attention.linear_qkv", 3 * width, width)
        found |= _linear(f"{layer}.self_attention.linear_proj", width, width)
        found |= _linear(f"{layer}.mlp.linear_fc1", inner, width) | _linear(f"{layer}.mlp.linear_fc2", width, inner)
    found |= {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
    projector = _linear("encoder.linear_fc1", out, width) | _linear("encoder.linear_fc2", out, out)
    parts = {"vision.encoder": found, "vision.projector": projector}
    return {f"{part}.{name}": size for part, sizes in parts.items() for name, size in sizes.items()}


def _linear(name: str, out: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}
