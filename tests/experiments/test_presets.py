"""The presets are the paper: what each says at chosen token counts, against the reports' own numbers."""

import functools
import math

import pytest

from experiments.config import Config, compose
from training.schedules import Schedule, value_at

ROW = 4096


@functools.cache
def preset(name: str) -> Config:
    return compose("pretrain", [f"experiment={name}"])


def lr(cfg: Config, tokens: float) -> float:
    return cfg.pretrain.optimizer.lr * Schedule(cfg.pretrain.schedule, cfg.pretrain.tokens).at(tokens).lr_scale


def rows(cfg: Config, tokens: float) -> float:
    share = value_at(cfg.pretrain.batch_points, tokens) if cfg.pretrain.batch_points else 1.0
    return share * cfg.pretrain.batch_tokens / cfg.model.max_position_embeddings


def tokens_after(cfg: Config, steps: int) -> float:
    """Tokens seen after so many steps from the start."""
    seen = 0.0
    for _ in range(steps):
        seen += rows(cfg, seen) * cfg.model.max_position_embeddings
    return seen


def test_v3_optimiser_and_length():
    cfg = preset("v3_pretrain")
    adamw = cfg.pretrain.optimizer
    assert (adamw.name.name, adamw.beta1, adamw.beta2, adamw.weight_decay, adamw.clip_grad) == (
        "adamw", 0.9, 0.95, 0.1, 1.0,
    )  # fmt: skip
    assert (cfg.pretrain.tokens, cfg.model.max_position_embeddings, cfg.model.rope_factor) == (14.8e12, 4096, 1.0)
    assert cfg.model.num_params() == 671_026_419_200


def test_v3_batch_rises_from_3072_to_15360_over_469b_tokens():
    cfg = preset("v3_pretrain")
    assert [rows(cfg, t) for t in (0, 234.5e9, 469e9, 14e12)] == pytest.approx([3072, 9216, 15360, 15360])


def test_v3_learning_rate():
    cfg = preset("v3_pretrain")
    # 2K steps under a batch that rises with the tokens: dB/dstep = k B, so B grows as e^(k step).
    growth = (15360 - 3072) * ROW / 469e9
    warm = 3072 * math.expm1(2000 * growth) / (15360 - 3072) * 469e9
    assert tokens_after(cfg, 2000) == pytest.approx(warm, rel=1e-3)
    points = {
        0: 0.0,
        warm / 2: 1.1e-4,
        warm: 2.2e-4,
        1e12: 2.2e-4,
        10e12: 2.2e-4,
        12.15e12: (2.2e-4 + 2.2e-5) / 2,  # half of the cosine
        14.3e12: 2.2e-5,
        14.3e12 + 332e9: 2.2e-5,
        14.3e12 + 334e9: 7.3e-6,
        14.8e12: 7.3e-6,
    }
    assert {t: lr(cfg, t) for t in points} == pytest.approx(points, rel=1e-3)
    quarter = 2.2e-5 + (2.2e-4 - 2.2e-5) * (1 + math.cos(math.pi / 4)) / 2
    assert lr(cfg, 10e12 + 4.3e12 / 4) == pytest.approx(quarter)


def test_v3_mtp_weight_and_bias_speed():
    cfg = preset("v3_pretrain")
    at = Schedule(cfg.pretrain.schedule, cfg.pretrain.tokens).at
    assert [at(t).mtp_lambda for t in (0, 9.99e12, 10.01e12, 14.8e12)] == [0.3, 0.3, 0.1, 0.1]
    assert [at(t).bias_speed for t in (0, 14.29e12, 14.31e12, 14.8e12)] == [0.001, 0.001, 0.0, 0.0]
    assert cfg.model.aux_loss_alpha == 1e-4


@pytest.mark.parametrize(
    ("name", "context", "batch"), [("v3_extend_32k", 32768, 1920), ("v3_extend_128k", 131072, 480)]
)
def test_v3_context_extension(name, context, batch):
    cfg = preset(name)
    model, stage = cfg.model, cfg.pretrain
    assert (model.max_position_embeddings, rows(cfg, 0)) == (context, batch)
    assert stage.tokens / stage.batch_tokens == 1000 and stage.micro_batch_tokens == context
    assert [lr(cfg, t) for t in (0, stage.tokens / 2, stage.tokens)] == pytest.approx([7.3e-6] * 3)
    # s = 40, alpha = 1, beta = 32; sqrt(t) = 0.1 ln s + 1 is mscale 1 in both places.
    assert (model.rope_factor, model.rope_beta_slow, model.rope_beta_fast) == (40, 1, 32)
    assert model.rope_original_max_position_embeddings == 4096
    assert model.rope_mscale == model.rope_mscale_all_dim == 1.0
    now = Schedule(stage.schedule, stage.tokens).at(stage.tokens / 2)
    assert (now.mtp_lambda, now.bias_speed) == (0.1, 0.0)


def test_moonlight():
    cfg = preset("moonlight")
    muon = cfg.pretrain.optimizer
    assert (muon.name.name, muon.muon_rms, muon.weight_decay, muon.muon_lr) == ("muon", 0.2, 0.1, muon.lr)
    assert cfg.pretrain.tokens == 5.7e12 and cfg.model.max_position_embeddings == 8192
    assert [rows(cfg, t) for t in (0, 199e9, 201e9)] == [2048, 2048, 4096]
    warm = tokens_after(cfg, 2000)
    assert warm == pytest.approx(33e9, rel=0.02)
    points = {16.5e9: 2.1e-4, 33e9: 4.2e-4, (33e9 + 5.2e12) / 2: 2.31e-4, 5.2e12: 4.2e-5, 5.7e12: 0.0}
    assert {t: lr(cfg, t) for t in points} == pytest.approx(points, rel=1e-6)
    rise = 100 * 4096 * 8192  # 100 steps up to 1e-4, then down to nothing in a line
    assert lr(cfg, 5.2e12 + rise) == pytest.approx(1e-4, rel=1e-3)
    middle = (5.2e12 + rise + 5.7e12) / 2
    assert lr(cfg, middle) == pytest.approx(0.5e-4, rel=1e-3)


def test_v2_lite():
    cfg = preset("v2_lite")
    adamw = cfg.pretrain.optimizer
    assert (adamw.beta1, adamw.beta2, adamw.weight_decay, adamw.clip_grad) == (0.9, 0.95, 0.1, 1.0)
    assert (cfg.pretrain.tokens, cfg.model.max_position_embeddings, cfg.model.aux_loss_alpha) == (5.7e12, 4096, 1e-3)
    assert rows(cfg, 0) == rows(cfg, 5e12) == 4608
    assert tokens_after(cfg, 2000) == pytest.approx(37.75e9, rel=1e-3)
    total = 5.7e12
    points = {18.875e9: 2.1e-4, 0.79 * total: 4.2e-4, 0.81 * total: 4.2e-4 * 0.316, 0.91 * total: 4.2e-4 * 0.316**2}
    assert {t: lr(cfg, t) for t in points} == pytest.approx(points)
