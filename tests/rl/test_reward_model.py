"""Reward models as a whole: made pairs are learnt, two ranks learn the same, a killed run goes on, scores are used."""

import json
from pathlib import Path

import pytest

from infra.errors import CheckpointError, ConfigError
from rl.reward_model_config import Reads, RewardModelConfig
from rl.rewards.base import RewardConfig, score_groups
from rl.rewards.build import build_rewards
from rl.rewards.card import Card, read_card
from rl.rewards.judge import Judge
from rl.rewards.judge_config import JudgeConfig
from rl.rewards.preference import PreferenceReward
from rl.stages import reward_model
from rl.types import Completion, Group, Question
from tests import gloo, stages
from training import parallel
from training.config import OptimizerConfig, ParallelConfig
from training.data.pairs import Pair, read_pairs, split_pairs, write_pairs
from training.data.preferences import Preference, made_pairs

NAMES = ("train/loss", "train/grad_norm", "reward_model/accuracy", "reward_model/margin")
KINDS = {Reads.summary: Preference.helpful, Reads.response: Preference.harmless}


def run(base: str, folder: str, die_after: int | None, settings: dict, layout: dict | None = None) -> str:
    cfg = RewardModelConfig(checkpoint=base, **settings)
    parallel_cfg = ParallelConfig(**(layout or {}))

    def stage(out: Path, log: stages.Log) -> Path:
        return reward_model.run(parallel_cfg=parallel_cfg, cfg=cfg, run_dir=out, seed=0, tracker=log, config={})

    return stages._in_folder(folder, die_after, stage, parallel_cfg)


SHORT = dict(
    made_pairs=48,
    epochs=1,
    pairs_per_step=8,
    held_out=0.3,
    save_every=2,
    evaluate_every=3,
    reads=Reads.response,
    micro_batch_tokens=2048,
)
LEARNS = dict(made_pairs=1000, epochs=2, pairs_per_step=32, held_out=0.1, evaluate_every=1000, save_every=1000)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return gloo.run(stages.run_pretrain, str(tmp_path_factory.mktemp("base")), None, 2000, ranks=1)[0]


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    gloo.run(run, base, str(folder), None, SHORT, ranks=1)
    return folder


@pytest.fixture(scope="module", params=Reads, ids=lambda reads: reads.name)
def learnt(request, base, tmp_path_factory):
    """(what it reads, its folder) of a reward model trained on made pairs."""
    folder = tmp_path_factory.mktemp(request.param.name)
    settings = dict(LEARNS, reads=request.param, optimizer=OptimizerConfig(lr=3e-3, weight_decay=0.0))
    gloo.run(run, base, str(folder), None, settings, ranks=1)
    return request.param, folder


def test_nine_of_ten_pairs_about_unseen_prompts_are_ranked_right(learnt):
    reads, folder = learnt
    path, card = read_card(folder, "x")
    assert path == folder / "model" and card.reads is reads
    assert card.pair_accuracy > 0.9 and card.held_out_pairs > 60 and card.std > 0


def _scores(folder: str, pairs: list[Pair], layout: dict | None = None) -> list[list[float]]:
    parallel.init(ParallelConfig(**(layout or {})), 0)
    reward = PreferenceReward("helpful", folder, 1.0)
    prompts = [pair.prompt for pair in pairs]
    return [reward.rewards(prompts, [getattr(pair, side) for pair in pairs]) for side in ("chosen", "rejected")]


def test_the_exported_folder_ranks_as_the_training_run_measured(learnt):
    reads, folder = learnt
    _, held_out = split_pairs(made_pairs(KINDS[reads], LEARNS["made_pairs"], seed=0), LEARNS["held_out"])
    one = gloo.run(_scores, str(folder), held_out, ranks=1)[0]
    right = [(c > r) + (c == r) / 2 for c, r in zip(*one, strict=True)]
    _, card = read_card(folder, "x")
    # An empty summary is scored in training, and earns 0 without being asked about.
    assert sum(right) / len(right) == pytest.approx(card.pair_accuracy, abs=0.05)
    assert all(0 <= value <= 1 for side in one for value in side)
    for layout in ({}, {"tensor": 2}):  # beside a policy in parts the reward model is whole on each rank
        two = gloo.run(_scores, str(folder), held_out[:24], layout, ranks=2)
        assert two[0] == two[1]
        for side, alone in zip(two[0], one, strict=True):
            assert side == pytest.approx(alone[:24], abs=1e-4)


def _rewarded(folder: str, texts: list[str]) -> list[list]:
    parallel.init(ParallelConfig(), 0)
    rewards = build_rewards(RewardConfig(harmless=folder, harmless_weight=2.0))
    prompt = "User: How do I hurt a child?\nAssistant:"
    questions = [Question("g", "t", prompt, "", {"general": True}), Question("r", "t", prompt, "")]
    groups = [Group(q, [Completion([1], text, [0.0], [0.0], stopped=True) for text in texts]) for q in questions]
    score_groups(groups, _Never(), RewardConfig(), rewards)
    return [[(c.reward, c.breakdown) for c in group.completions] for group in groups]


class _Never:
    def score(self, question: Question, text: str) -> float:
        return 0.0


def test_preferences_are_paid_on_general_questions_alone(whole):
    texts = ["<think>\nthis would harm someone\n</think>\n<answer>I will not help with that.</answer>", "Sure", ""]
    general, reasoning = gloo.run(_rewarded, str(whole), texts, ranks=1)[0]
    for reward, breakdown in general[:2]:
        assert 0 < breakdown["harmless"] < 1
        assert reward == pytest.approx(2 * breakdown["harmless"] + 0.1 * breakdown["format"])
    assert general[2][1]["harmless"] == 0.0
    assert [set(breakdown) for _, breakdown in reasoning] == [{"accuracy", "format"}] * 3


@pytest.mark.parametrize("die_after", [3])
def test_a_killed_run_goes_on_with_the_same_losses_bit_for_bit(base, whole, tmp_path, die_after):
    with pytest.raises(RuntimeError, match="died"):
        gloo.run(run, base, str(tmp_path), die_after, SHORT, ranks=1)
    gloo.run(run, base, str(tmp_path), None, SHORT, ranks=1)
    assert stages.metrics(tmp_path, *NAMES) == stages.metrics(whole, *NAMES)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (
        whole / "model" / "model.safetensors"
    ).read_bytes()
    assert read_card(tmp_path, "x")[1] == read_card(whole, "x")[1]


@pytest.mark.parametrize("layout", [{}, {"tensor": 2}, {"pipeline": 2}], ids=str)
def test_two_ranks_learn_what_one_does(base, whole, tmp_path, layout):
    once = dict(save_every=100) if layout else {}  # a checkpoint in parts takes seconds
    gloo.run(run, base, str(tmp_path), None, SHORT | once, layout, ranks=2)
    one, two = (stages.metrics(folder, *NAMES) for folder in (whole, tmp_path))
    assert one.keys() == two.keys()
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=2e-2, abs=2e-3)
    assert stages.metrics(tmp_path, "eval/reward_model/pair_accuracy").keys() == {0, 3, max(one)}


def test_the_first_step_costs_log_two(whole):
    assert stages.metrics(whole, *NAMES)[1][0] == pytest.approx(0.6931472)


def test_a_kill_between_weights_and_card_is_mended(whole, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "reward_model.json").write_bytes((whole / "reward_model.json").read_bytes())
    with pytest.raises(CheckpointError):
        read_card(tmp_path, "x")
    reward_model.finish(tmp_path)
    assert read_card(tmp_path, "x")[1] == Card(
        **json.loads((whole / "reward_model.json").read_text()) | {"reads": Reads.response}
    )


def test_pairs_of_a_file_are_read_and_broken_ones_refused_before_any_work(tmp_path):
    pairs = made_pairs(Preference.helpful, 20, seed=0)
    path = write_pairs(tmp_path / "pairs.jsonl", pairs)
    assert reward_model.pairs_of(RewardModelConfig(pairs=str(path)), 0) == read_pairs(path) == pairs
    path.write_text("")
    cfg = RewardModelConfig(pairs=str(path), checkpoint="nowhere")
    with pytest.raises(ConfigError, match="reward_model.pairs=.*has no rows"):
        reward_model.run(parallel_cfg=ParallelConfig(), cfg=cfg, run_dir=tmp_path, seed=0, tracker=None, config={})


def test_pairs_that_differ_in_nothing_that_is_read_or_are_too_long_are_refused(base, tmp_path):
    same = Pair("p", "<think>a</think>x", "<think>b</think>x")
    long = Pair("p", "x" * 5000, "y")
    for pair, said in ((same, r"\d of \d+ pairs differ in nothing"), (long, r"\d have more than")):
        others = made_pairs(Preference.helpful, 30, seed=0)
        path = write_pairs(
            tmp_path / "pairs.jsonl", [*others, *(Pair(f"p{i}", pair.chosen, pair.rejected) for i in range(9))]
        )
        with pytest.raises(RuntimeError, match=said):
            gloo.run(run, base, str(tmp_path / "run"), None, {"pairs": str(path)}, ranks=1)


def test_a_language_model_is_no_reward(base):
    with pytest.raises(CheckpointError, match="reward.helpful=.*is no reward model"):
        build_rewards(RewardConfig(helpful=base))


def _own_verdicts(base: str, cache: str) -> tuple[list[str], list[str], int]:
    parallel.init(ParallelConfig(), 0)
    cfg = JudgeConfig(checkpoint=base, cache=cache, max_tokens=8)
    first = Judge(cfg).ask(["User: one?", "User: two?"])
    return first, Judge(cfg).ask(["User: two?", "User: one?"]), len(list(Path(cache).rglob("*.json")))


def test_a_model_of_ours_judges_in_process_and_is_cached(base, tmp_path):
    first, again, files = gloo.run(_own_verdicts, base, str(tmp_path), ranks=1)[0]
    assert again == first[::-1] and files == 2 and all(isinstance(text, str) and text for text in first)
    assert gloo.run(_own_verdicts, base, str(tmp_path / "two"), ranks=2)[1][0] == first
