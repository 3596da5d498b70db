"""The reward of a reward model (R1 §2.3.4), for general questions: helpfulness reads the summary, harmlessness all."""

from pathlib import Path

import torch

from modeling.config import Modules
from modeling.tokenizer import Tokenizer
from rl.reward_model_data import answer_scores, collate_rows, encode, read_part
from rl.rewards.base import is_general
from rl.rewards.card import read_card
from rl.types import Group
from training import checkpoint, parallel
from training.data.packing import balanced_micro_batches
from training.whole import build_whole

MICRO_BATCH_TOKENS = 8192
"Padded tokens that are scored at a time."


class PreferenceReward:
    """A reward model at work; each rank has the whole of it and scores its share of the answers.

    The reward is sigmoid((score - mean) / std), mean and std being those of the held-out answers it was measured on:
    0 to 1, one half for a middling answer. An answer without the part that is read, as one that was cut off while it
    thought, has none to score and earns 0.
    """

    def __init__(self, name: str, folder: str, weight: float, modules: Modules = Modules.auto) -> None:
        """name: its key in the breakdown and under `reward`. Every rank calls it, after parallel.init.

        Raises CheckpointError for a folder that holds no reward model.
        """
        self.name, self.weight = name, weight
        found, self.card = read_card(folder, f"reward.{name}")
        self.tokenizer, self.cfg = Tokenizer.load(found), checkpoint.model_config(found, modules)
        self.model = build_whole(self.cfg).eval().requires_grad_(False)
        checkpoint.load_weights(self.model, self.cfg, Path(found))

    def __call__(self, groups: list[Group]) -> list[list[float | None]]:
        """[question][group] rewards; None for questions that are not general."""
        asked = [(g.question.prompt, c.text) for g in groups if is_general(g.question) for c in g.completions]
        rewards = iter(self.rewards([prompt for prompt, _ in asked], [text for _, text in asked]))
        return [[next(rewards) if is_general(g.question) else None for _ in g.completions] for g in groups]

    def rewards(self, prompts: list[str], texts: list[str]) -> list[float]:
        """The reward of each response to its prompt; the same on every rank."""
        read = [read_part(text, self.card.reads) for text in texts]
        some = [i for i, text in enumerate(read) if text.strip()]
        scores = self.scores([prompts[i] for i in some], [read[i] for i in some])
        rewards = [0.0] * len(texts)
        for i, score in zip(some, scores, strict=True):
            rewards[i] = self.card.normalise(score)
        return rewards

    @torch.no_grad()
    def scores(self, prompts: list[str], read: list[str]) -> list[float]:
        """The network's own numbers for what is read of each response; the same on every rank."""
        rows = encode(self.tokenizer, prompts, read, self.cfg.max_position_embeddings)
        shares = balanced_micro_batches([len(row) for row in rows], parallel.world(), MICRO_BATCH_TOKENS)
        mine: list[tuple[int, float]] = []
        with parallel.unsplit():
            for part in shares[parallel.rank()]:
                if not part:  # it stands alone: no collective waits for this rank
                    continue
                batch = collate_rows([rows[i] for i in part], [1.0] * len(part), self.tokenizer.pad_id)
                batch = batch.to(parallel.device())
                positions = torch.arange(batch.tokens.shape[1], device=batch.tokens.device).expand_as(batch.tokens)
                out = self.model(batch.tokens, positions, None, labels=batch.labels, padding_mask=batch.padding)
                mine += zip(part, answer_scores(batch, out).tolist(), strict=True)
        found = dict(pair for share in parallel.gather_objects(mine) for pair in share)
        return [found[i] for i in range(len(rows))]
