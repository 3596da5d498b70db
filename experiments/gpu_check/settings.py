"""What is checked, on which device, at which size. Loads without Megatron."""

import dataclasses
import re
from dataclasses import dataclass

import torch

from infra.errors import ConfigError
from infra.hardware import fp8_lacks
from modeling.config import DType, Fp8, ModelConfig, Modules


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Shapes and counts of a check."""

    model: ModelConfig
    "The network, in BF16."
    row_tokens: int
    "Tokens of a row in training."
    rows: int
    "Rows of a micro-batch."
    micro_batches: int
    "Micro-batches of a step."
    warmup: int
    "Steps before the clock starts."
    steps: int
    "Steps that are timed."
    products: tuple[tuple[int, int, int], ...]
    "(tokens, in, out) of the products that are compared."
    prompts: int
    "Rows that are decoded together."
    new_tokens: int
    "Tokens written to each."
    questions: int
    "Questions of the GRPO step, eight answers each."


# A billion parameters in DeepSeek-V3's shape: every width is a multiple of 128, an expert gets 2,048 tokens.
_ONE_B = ModelConfig(
    vocab_size=32768,
    hidden_size=2048,
    num_hidden_layers=9,
    num_attention_heads=16,
    q_lora_rank=768,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    intermediate_size=5632,
    n_routed_experts=16,
    num_experts_per_tok=4,
    moe_intermediate_size=1024,
    n_group=4,
    topk_group=2,
    routed_scaling_factor=2.5,
    max_position_embeddings=4096,
    dtype=DType.bf16,
)
SIZES = {
    "1b": Size(
        model=_ONE_B,
        row_tokens=4096,
        rows=2,
        micro_batches=2,
        warmup=3,
        steps=10,
        products=((8192, 2048, 5632), (8192, 5632, 2048), (2048, 2048, 2048), (8192, 7168, 4096)),
        prompts=64,
        new_tokens=128,
        questions=8,
    ),
    "tiny": Size(
        model=ModelConfig(hidden_size=64, num_hidden_layers=2, max_position_embeddings=128, dtype=DType.bf16),
        row_tokens=24,
        rows=2,
        micro_batches=2,
        warmup=1,
        steps=3,
        products=((40, 64, 96),),
        prompts=4,
        new_tokens=4,
        questions=1,
    ),
}
# Dense BF16 FLOP/s by the maker's data sheets; FP8 is twice that. MFU is given against BF16 for either.
PEAKS = {"H100 PCIe": 756e12, "H100": 989.4e12, "H200": 989.4e12, "H800": 989.4e12, "H20": 148e12, "A100": 312e12}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One check."""

    device: str = "cuda"
    "cuda, or cpu for the code path alone."
    size: str = "1b"
    "1b, or tiny, which takes seconds on a CPU."
    name: str = ""
    "Name of the JSON; empty: the device's."
    out: str = ""
    "Folder of the JSON; empty: experiments/results/gpu, on a CPU runs/gpu_check."

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ConfigError("size", self.size, "is no size", f"choose one of {', '.join(SIZES)}")
        if self.device not in ("cuda", "cpu"):
            raise ConfigError("device", self.device, "is no device", "choose cuda or cpu")
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            problem = f"torch {torch.__version__} sees no GPU here"
            remedy = "run it on a machine with an H100 or H200; device=cpu size=tiny checks the code path alone"
            raise ConfigError("device", "cuda", problem, remedy)
        if self.device == "cpu" and there:  # Megatron takes the GPU where there is one
            raise ConfigError("device", "cpu", "there is a GPU", "hide it: CUDA_VISIBLE_DEVICES= make gpu-check ...")
        if self.device == "cpu" and self.size != "tiny":
            raise ConfigError("size", self.size, "would take days on a CPU", "set size=tiny")

    @classmethod
    def parse(cls, given: list[str]) -> "Settings":
        """From key=value words."""
        known = {f.name for f in dataclasses.fields(cls)}
        pairs = [item.partition("=")[::2] for item in given]
        for key, _ in pairs:
            if key not in known:
                raise ConfigError(key, "...", "is no setting", f"choose from {', '.join(sorted(known))}")
        return cls(**dict(pairs))

    @property
    def gpu(self) -> str:
        """The device's name."""
        return torch.cuda.get_device_name() if self.device == "cuda" else "cpu"

    @property
    def file_name(self) -> str:
        return self.name or re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")

    @property
    def peak(self) -> float | None:
        """BF16 FLOP/s of the device; None where the table does not know it."""
        return next((peak for name, peak in PEAKS.items() if name in self.gpu), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A way to compute the network's products."""

    name: str
    model: ModelConfig
    against: str | None = None
    "The precision whose loss and speed this is compared with."
    timed: bool = True
    "False: for its losses alone, in as few steps as the warm-up has."


def precisions(settings: Settings) -> list[Precision]:
    """What runs here: BF16, and FP8 by each carrier there is. Transformer Engine's modules have a BF16 of their own."""
    shape, lacks = SIZES[settings.size].model, fp8_lacks()
    local = dataclasses.replace(shape, modules=Modules.local)
    found = [Precision(name="bf16", model=local)]
    if not lacks["torch"]:
        found.append(Precision(name="torch", model=dataclasses.replace(local, fp8=Fp8.torch), against="bf16"))
    emulated = dataclasses.replace(local, fp8=Fp8.emulated)
    found.append(Precision(name="emulated", model=emulated, against="bf16", timed=settings.device == "cpu"))
    if not lacks["te"]:
        engine = dataclasses.replace(shape, modules=Modules.te)
        found.append(Precision(name="te_bf16", model=engine))
        found.append(Precision(name="te", model=dataclasses.replace(engine, fp8=Fp8.te), against="te_bf16"))
    return found
