"""Which parallel layouts are legal for a network, and what each pipeline stage holds. Loads without torch.

A pipeline of `pipeline` ranks with `virtual_pipeline` stages each has pipeline * virtual_pipeline stages; stage i lives
on rank i % pipeline. What they hold is written as Megatron writes it (docs/user-guide, pipeline_parallel_layout):
E embedding, t decoder layer, m MTP module, L head and loss, | stage border, x*n and (...)*n repetition, commas for the
eye. Example: "Et|(tt|)*30mL" is DeepSeek-V3 on 8 ranks with 4 stages each.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from infra.errors import ConfigError
from modeling.config import ModelConfig
from training.config import ParallelConfig

_DENSE_RECOMPUTE = ("full", "layernorm", "mlp", "core_attn")
"What there is to recompute in the dense families."
_HEAD_IN_LAYERS = 1
"What a head weighs when layers are shared out evenly; with V3's one MTP module and two heads this is Bridge's layout."


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage."""

    layers: range
    "Decoder layers, counted from 0 over the whole network."
    embedding: bool = False
    "Whether the token embedding is here."
    mtp: int = 0
    "MTP modules."
    loss: bool = False
    "Whether the final norm, the head and the loss are here."

    def dense(self, model: ModelConfig) -> int:
        """How many of its layers are dense."""
        return len(range(self.layers.start, min(self.layers.stop, model.first_k_dense_replace)))

    def moe(self, model: ModelConfig) -> int:
        """How many of its layers have experts; those of MTP modules do not count."""
        return len(self.layers) - self.dense(model)


def stages(model: ModelConfig, parallel: ParallelConfig) -> list[Stage]:
    """The stages in the order of the network: as parallel.pipeline_layout says, else as even as they can be.

    Raises ConfigError for a layout that Megatron would refuse.
    """
    text = parallel.pipeline_layout or even_layout(model, parallel)
    sizes = model.num_hidden_layers, model.num_nextn_predict_layers, parallel.pipeline, parallel.virtual_pipeline
    return list(_cut(text, *sizes))


@functools.lru_cache(maxsize=4096)  # a search asks for each layout many times
def _cut(text: str, layers: int, mtp: int, pipeline: int, virtual: int) -> tuple[Stage, ...]:
    rows = written_out(text)
    number = pipeline * virtual
    if len(rows) != number:
        raise _layout_error(
            text,
            f"has {len(rows)} stages, and parallel.pipeline*virtual_pipeline={number}",
            f"write {number} stages, or leave it empty for an even cut",
        )
    _check_rows(text, rows, layers, mtp, pipeline)
    found, first = [], 0
    for row in rows:
        own = range(first, first + row.count("t"))
        first = own.stop
        found.append(Stage(layers=own, embedding="E" in row, mtp=row.count("m"), loss="L" in row))
    return tuple(found)


def even_layout(model: ModelConfig, parallel: ParallelConfig) -> str:
    """A layout whose stages weigh about the same; the last has fewer layers for its heads, the first what is over.

    Example: 61 layers and one MTP module on 16 stages give "E" + "tttt|" * 15 + "tmL".
    Raises ConfigError where there are more stages than the layers can fill.
    """
    number = parallel.pipeline * parallel.virtual_pipeline
    layers, mtp = model.num_hidden_layers, model.num_nextn_predict_layers
    if number == 1:
        return "E" + "t" * layers + "m" * mtp + "L"
    if number > layers:
        virtual = parallel.virtual_pipeline > 1
        key, other = ("virtual_pipeline", parallel.pipeline) if virtual else ("pipeline", 1)
        problem = f"{number} stages cannot be cut out of it: there are {layers} layers"
        remedy = f"set at most {layers // other}" if layers // other else "set 1 and a smaller parallel.pipeline"
        raise ConfigError(f"parallel.{key}", getattr(parallel, key), problem, remedy)
    heads = mtp + _HEAD_IN_LAYERS * (1 + mtp)
    each = -(-(layers + heads) // number)
    last = max(0, min(each - heads, layers - (number - 1)))
    every, over = divmod(layers - last, number - 1)
    rows = ["t" * (every + (i >= number - 1 - over)) for i in range(number - 1)] + ["t" * last]
    rows[0], rows[-1] = "E" + rows[0], rows[-1] + "m" * mtp + "L"
    return "|".join(rows)


def check_model(model: ModelConfig, parallel: ParallelConfig) -> None:
    """Raise ConfigError where the layout cannot cut the network, whatever the number of processes."""
    _check_divides("tensor", parallel.tensor, model.num_attention_heads, "heads")
    if model.is_dense and parallel.expert > 1:
        raise ConfigError("parallel.expert", parallel.expert, f"{model.family.name} has no experts", "set 1")
    if model.is_dense:
        _check_divides("tensor", parallel.tensor, model.num_key_value_heads, "heads of key and value")
    _check_divides("expert", parallel.expert, model.n_routed_experts, "experts")
    for name, size in (("dense layers' width", model.intermediate_size), ("vocabulary", model.vocab_size)):
        _check_divides("tensor", parallel.tensor, size, name)
    if model.n_shared_experts:
        _check_divides("tensor", parallel.tensor, model.n_shared_experts * model.moe_intermediate_size, "shared width")
    if parallel.pipeline > 1 or parallel.pipeline_layout:
        stages(model, parallel)
    trained = model.rope_original_max_position_embeddings
    if parallel.context > 1 and not model.is_dense and trained % (2 * parallel.context):
        problem = f"twice it does not divide model.rope_original_max_position_embeddings={trained}"
        legal = [size for size in divisors(trained) if trained % (2 * size) == 0] or [1]
        raise ConfigError("parallel.context", parallel.context, problem, f"set {near(parallel.context, legal)}")
    absent = [name for name in parallel.recompute if model.is_dense and name not in _DENSE_RECOMPUTE]
    if absent:
        remedy = f"choose from {', '.join(_DENSE_RECOMPUTE)}"
        raise ConfigError("parallel.recompute", absent[0], f"{model.family.name} has no such part", remedy)


def check_world(parallel: ParallelConfig, world: int, key: str = "parallel.nproc") -> None:
    """Raise ConfigError where the layout does not fit `world` processes; key: the setting that gives their number.

    Experts are cut over the ranks of one pipeline stage, tensor ranks included (Megatron's expert tensor size is 1).
    """
    block = parallel.tensor * parallel.pipeline * parallel.context
    if world % block:
        problem = f"parallel.tensor*pipeline*context={block} does not divide it"
        raise ConfigError(key, world, problem, f"set a multiple of {block}, as {near(world, _multiples(block, world))}")
    stage = world // parallel.pipeline
    if stage % parallel.expert:
        problem = f"does not divide the {stage} processes of a pipeline stage"
        raise ConfigError("parallel.expert", parallel.expert, problem, f"set {near(parallel.expert, divisors(stage))}")


def check_batch(parallel: ParallelConfig, world: int, global_batch: int, micro_batch: int, key: str) -> None:
    """Raise ConfigError where a global batch of rows does not make equal micro-batches that fill the pipeline."""
    data = data_size(parallel, world)
    rows = data * micro_batch
    if global_batch % rows:
        problem = f"{data} data-parallel ranks take micro-batches of {micro_batch}, and {rows} does not divide it"
        raise ConfigError(key, global_batch, problem, f"set {near(global_batch, _multiples(rows, global_batch))}")
    number, stage_ranks = global_batch // rows, parallel.pipeline
    if parallel.virtual_pipeline > 1 and number % stage_ranks:
        problem = f"makes {number} micro-batches, and interleaved stages take multiples of parallel.pipeline"
        step = rows * stage_ranks
        raise ConfigError(key, global_batch, problem, f"set {near(global_batch, _multiples(step, global_batch))}")


def data_size(parallel: ParallelConfig, world: int) -> int:
    """Data-parallel ranks: how often the weights that are not experts exist."""
    return world // (parallel.tensor * parallel.pipeline * parallel.context)


def expert_data_size(parallel: ParallelConfig, world: int) -> int:
    """How often each routed expert exists."""
    return world // (parallel.pipeline * parallel.expert)


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [size for size in range(1, number + 1) if number % size == 0]


def near(value: int, legal: Iterable[int]) -> str:
    """The legal values next to one that is not: "8 or 16"."""
    below, above = [v for v in legal if v < value], [v for v in legal if v > value]
    return " or ".join(str(v) for v in (*below[-1:], *above[:1]))


def _multiples(unit: int, around: int) -> list[int]:
    """The multiples of unit on both sides."""
    low = around // unit * unit
    return [v for v in (low, low + unit) if v]


def _check_divides(key: str, size: int, whole: int, what: str) -> None:
    if whole % size:
        problem = f"does not divide {whole} {what}" if what[-1] == "s" else f"does not divide the {what} {whole}"
        raise ConfigError(f"parallel.{key}", size, problem, f"set {near(size, divisors(whole))}")


def written_out(text: str) -> list[str]:
    """The stages of a layout string, repetitions written out. Raises ConfigError for anything but layers, borders."""
    plain = text.replace(",", "").replace(" ", "")
    for pattern in (r"\(([^()]+)\)\*(\d{1,3})", r"([Etm|L])\*(\d{1,3})"):
        plain = re.sub(pattern, lambda match: match[1] * int(match[2]), plain)
    strange = re.search(r"[^Etm|L]", plain)
    if strange:
        raise _layout_error(text, f"{strange[0]!r} is no layer", "write E, t, m, L, |, x*n and (...)*n")
    return plain.split("|")


def _check_rows(text: str, rows: list[str], layers: int, mtp: int, pipeline: int) -> None:
    """Megatron's rules (PipelineParallelLayerLayout.validate_layer_layout)."""
    whole = "".join(rows)
    if whole.count("t") != layers:
        raise _layout_error(text, f"has {whole.count('t')} layers, the model {layers}", f"write {layers} times t")
    if whole.count("m") != mtp:
        remedy = f"write {mtp} times m" if mtp else "leave m out"
        raise _layout_error(text, f"has {whole.count('m')} MTP modules, the model {mtp}", remedy)
    if not re.fullmatch(r"Et*m*L", whole):
        raise _layout_error(text, "is out of order", "write E first, then all t, all m, and L last")
    for i, row in enumerate(rows):
        if "m" in row and row.count("m") != mtp:
            raise _layout_error(text, "cuts the MTP modules apart", "put all m into one stage")
        if "m" in row and i < len(rows) - pipeline:
            raise _layout_error(text, "has m on a rank that continues", f"put m into one of the last {pipeline} stages")


def _layout_error(text: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError("parallel.pipeline_layout", text, problem, remedy)
