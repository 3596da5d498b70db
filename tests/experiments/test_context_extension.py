"""V3 §4.3 at a tiny size: a base read in short rows, its context stretched twice, each time from the run before."""

import json
from pathlib import Path

import pytest
import torch

from experiments import stages
from experiments.config import compose
from infra.errors import ConfigError
from modeling import hf
from modeling.build import build_model
from modeling.config import ModelConfig
from modeling.mtp import without_mtp
from tests import gloo
from training import checkpoint, parallel
from training.config import ParallelConfig

SHAPE = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8,
    qk_rope_head_dim=8, v_head_dim=8, intermediate_size=48, n_routed_experts=4, moe_intermediate_size=16,
    initializer_range=0.2,
)  # fmt: skip
SMALL = [
    "tracking.uri=", "pretrain.tokens=4096", "pretrain.batch_tokens=1024", "pretrain.micro_batch_tokens=1024",
    "pretrain.evaluate_documents=2", "sampling.max_response_tokens=24", "parallel.tensor=1",
]  # fmt: skip
BASE = [
    *SMALL, "pretrain.rows=joined", "pretrain.tokenizer_vocab=300", "pretrain.tokenizer_documents=50",
    "pretrain.optimizer.name=adamw", "model.max_position_embeddings=128",
    *(f"model.{key}={value}" for key, value in SHAPE.items()),
]  # fmt: skip
YARN = ["model.rope_factor=4", "model.rope_original_max_position_embeddings=128", "pretrain.optimizer.lr=1e-3"]
LAYOUTS = {"plain": (1, ["parallel.expert=1"]), "sharded": (2, ["parallel.expert=2"])}


def _pretrain(given: list[str]) -> None:
    stages.pretrain(compose("pretrain", given))


def _extend(name: str, context: int) -> list[str]:
    return [
        f"experiment={name}",
        "scale=tiny",
        "model.fp8=none",
        *SMALL,
        *YARN,
        f"model.max_position_embeddings={context}",
    ]


@pytest.fixture(scope="module", params=LAYOUTS)
def runs(request, tmp_path_factory) -> list[Path]:
    """128 -> 256 -> 512 tokens, as the settings of 4K -> 32K -> 128K but for sizes."""
    ranks, layout = LAYOUTS[request.param]
    root, found = tmp_path_factory.mktemp(request.param), []
    for name, given in (
        ("base", BASE),
        ("longer", _extend("v3_extend_32k", 256)),
        ("longest", _extend("v3_extend_128k", 512)),
    ):
        start = [f"pretrain.checkpoint={found[-1]}"] if found else []
        gloo.run(_pretrain, [*given, *layout, *start, f"run.dir={root / name}"], ranks=ranks)
        found.append(root / name)
    return found


def _logits(folder: Path, cfg: ModelConfig, ids: torch.Tensor) -> torch.Tensor:
    parallel.init(ParallelConfig(), 0)
    module = build_model(cfg).eval()
    hf.load_pretrained(module, cfg, folder)
    with torch.no_grad(), without_mtp(module):
        return module(ids, torch.arange(ids.shape[1]).expand_as(ids), None)


def test_each_run_goes_on_from_the_one_before_and_reads_longer_rows(runs):
    tokens = []
    for run, context, factor in zip(runs, (128, 256, 512), (1.0, 4.0, 4.0), strict=True):
        cfg = checkpoint.model_config(checkpoint.resolve(run))
        assert (cfg.max_position_embeddings, cfg.rope_factor, cfg.hidden_size) == (context, factor, 32)
        rope = json.loads((run / "model" / "config.json").read_text()).get("rope_scaling")
        assert (rope or {}).get("factor", 1.0) == factor
        meta = json.loads((checkpoint.resolve(run) / "meta.json").read_text())
        assert (meta["step"], meta["tokens_seen"]) == (4, 4096)  # rows are full, so steps are as planned
        tokens.append((run / "tokenizer.json").read_text())
    assert tokens[0] == tokens[1] == tokens[2]
    ids = torch.arange(100)[None] % 200
    before, after = (_logits(run / "model", hf.config_from(runs[0] / "model"), ids) for run in runs[:2])
    change = (after - before).abs().max() / before.std()
    assert 0.01 < change < 3  # trained from those weights, not from new ones


def test_the_extended_network_is_the_one_that_transformers_reads(runs):
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    folder = runs[-1] / "model"
    cfg = hf.config_from(folder)
    ids = torch.randint(0, cfg.vocab_size, (1, 512), generator=torch.Generator().manual_seed(3))
    other = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(other).__name__ == "DeepseekV3ForCausalLM"
    with torch.no_grad():
        expected = other(ids).logits
    ours = _logits(folder, cfg, ids)
    assert (ours - expected).abs().max() < 1e-4 < expected.std()
    plain = ModelConfig(**{**_fields(cfg), "rope_factor": 1.0})
    assert (_logits(folder, plain, ids) - expected).abs().max() > 1e-2  # YaRN is seen in the logits


def _fields(cfg: ModelConfig) -> dict:
    import dataclasses

    return {f.name: getattr(cfg, f.name) for f in dataclasses.fields(cfg)}


def test_only_the_context_may_differ_from_the_base(runs):
    base = f"pretrain.checkpoint={runs[0]}"
    small = ["sampling.max_response_tokens=24"]
    assert compose("pretrain", [base, *small]).model.rope_factor == 1.0
    assert compose("pretrain", [f"pretrain.checkpoint={runs[1]}", *small]).model.rope_factor == 4.0
    typed = compose("pretrain", [base, *small, "model.rope_mscale_all_dim=0.5"]).model
    assert typed.rope_mscale_all_dim == 0.5 and typed.max_position_embeddings == 128
    with pytest.raises(ConfigError, match="model.hidden_size=64: pretrain.checkpoint=.* has 32"):
        compose("pretrain", [base, *small, "model.hidden_size=64"])
