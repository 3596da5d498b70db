"""`r1 import` and `r1 export`: models from the Hugging Face Hub, and models for it, one shard in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import ConfigError
from infra.progress import say
from modeling.config import DType, ModelConfig

if TYPE_CHECKING:
    from experiments.config import Config


class WriteType(Enum):
    """The type that weights are written in."""

    kept = "kept"
    bf16 = "bf16"
    fp32 = "fp32"


@dataclass(kw_only=True, slots=True)
class ConvertConfig:
    """A model read here, and written there."""

    hf: str = ""
    "r1 import: a Hugging Face folder, or a model's name on the Hub as in Qwen/Qwen2.5-0.5B."
    checkpoint: str = ""
    "r1 export: a run, a checkpoint or a Hugging Face folder."
    out: str = ""
    "Folder to write; a model that is there already is replaced once the new one is whole."
    dtype: WriteType = WriteType.kept
    "kept (FP8 becomes bf16), bf16 or fp32; the router's bias stays FP32."
    fp8: bool = False
    "Write the layers' projections in FP8 with a scale for each block of 128 x 128, as DeepSeek-V3 is released."
    shard_gib: float = 2.0
    "Largest file, and about the memory that is needed."

    def __post_init__(self) -> None:
        if self.shard_gib <= 0:
            raise ConfigError("convert.shard_gib", self.shard_gib, "has to be positive", "set 2.0")

    def check(self, command: str) -> None:
        """Raise ConfigError where the command lacks what it reads or writes."""
        needed = {"import": ("hf", "out"), "export": ("checkpoint", "out")}.get(command, ())
        examples = {"hf": "Qwen/Qwen2.5-0.5B", "checkpoint": "runs/zero", "out": "models/mine"}
        for key in needed:
            if not getattr(self, key):
                raise ConfigError(key, "", "is not given", f"write {key}={examples[key]}")


def import_model(cfg: "Config") -> None:
    """`r1 import`."""
    from modeling import hf_convert, hub

    source = hub.resolve("hf", cfg.convert.hf)
    _run(cfg, "import", lambda **how: hf_convert.convert(source, Path(cfg.convert.out), **how))


def export_model(cfg: "Config") -> None:
    """`r1 export`."""
    from training.export import export_checkpoint

    source, out = Path(cfg.convert.checkpoint), Path(cfg.convert.out)
    _run(cfg, "export", lambda **how: export_checkpoint(source, out, **how))


def _run(cfg: "Config", name: str, write: Callable[..., ModelConfig]) -> None:
    convert = cfg.convert
    with _progress(name) as progress:
        model = write(
            dtype=None if convert.dtype is WriteType.kept else DType[convert.dtype.name],
            fp8=convert.fp8,
            max_shard_bytes=int(convert.shard_gib * 2**30),
            progress=progress,
        )
    say(
        f"{convert.out}: {model.family.name}, {model.num_params(mtp=True):,} parameters; start from it by "
        f"r1 zero model=hf:{convert.out}"
    )


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """What is told of each shard: bytes done, bytes in all."""
    from infra.progress import Progress

    bar: list[Progress] = []

    def tell(done: int, total: int) -> None:
        if not bar:
            bar.append(Progress(name, total, "B").__enter__())
        bar[0].advance(done)

    try:
        yield tell
    finally:
        if bar:
            bar[0].__exit__(None, None, None)
