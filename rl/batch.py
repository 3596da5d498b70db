"""From scored groups to micro-batches: rows, masks, loss weights, and who trains what."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl.config import LossWeighting
from rl.types import Completion, Group
from training.data.packing import balanced_micro_batches, stacked
from training.step import MicroBatch


@dataclass(slots=True)
class Row:
    """One answer as it is trained on."""

    tokens: list[int]
    "Prompt and response, [length]."
    prompt_length: int
    sampler_logprobs: list[float]
    "Of the response tokens, [length - prompt_length]."
    advantage: float
    reward: float = 0.0
    "Of the whole answer."
    context: int = 0
    "Response tokens at its start that are read and not trained on."
    image: np.ndarray | None = None
    "uint8 [height, width] of the prompt's image; None: it has none."
    completion: Completion | None = None
    "Whose answer it is."
    number: int = 0
    "Its place among the step's rows."

    @property
    def trained_length(self) -> int:
        """Tokens that carry a weight."""
        return len(self.tokens) - self.prompt_length - self.context


def rows_of(
    groups: list[Group], prompts: list[list[int]], *, drop_zero_variance: bool, last_segment: bool = False
) -> list[Row]:
    """Flatten groups to rows; groups whose answers all scored the same carry no gradient and may be left out.

    prompts: the token ids of each group's question. Answers without a single token are left out. last_segment: train on
    each answer's last segment alone (partial rollouts).
    """
    rows = []
    for group, prompt in zip(groups, prompts, strict=True):
        if drop_zero_variance and all(c.advantage == 0.0 for c in group.completions):
            continue
        image = group.question.pixels
        for c in group.completions:
            if c.tokens:
                context = c.last_segment if last_segment else 0
                told = (c.sampler_logprobs, c.advantage, c.reward, context, image, c, len(rows))
                rows.append(Row(prompt + c.tokens, len(prompt), *told))
    return rows


def row_weights(rows: list[Row], weighting: LossWeighting) -> list[float]:
    """The weight of each response token of each row; over all tokens of all rows they sum to 1.

    per_answer: 1 / (N |o_i|), the mean over answers of the mean over tokens (DSM eq. 3).
    token_mean: 1 / sum |o_i|, every token counts the same (DAPO), so long answers weigh more.
    |o_i| counts the tokens that are trained on.

    Two answers of 1 and 3 tokens: per_answer gives [1/2, 1/6], token_mean gives [1/4, 1/4].
    """
    if weighting is LossWeighting.token_mean:
        total = sum(row.trained_length for row in rows)
        return [1.0 / total for _ in rows]
    return [1.0 / (len(rows) * row.trained_length) for row in rows]


def collate(rows: list[Row], weights: list[float], pad_id: int) -> MicroBatch:
    """Rows padded on the right: tokens, labels (tokens one to the left), weights on trained response labels only.

    All tensors are [batch, seq] with seq = longest row - 1; extras: `advantages`, `sampler_logprobs`, and [batch]
    `scores`, the rewards, and `numbers`, the rows' (-1: none). Prompts count as load of the experts, padding does not.
    No rows give one of padding, weight 0.
    """
    shape = (max(1, len(rows)), max([2] + [len(row.tokens) for row in rows]) - 1)
    tokens, labels = np.full(shape, pad_id, dtype=np.int64), np.full(shape, pad_id, dtype=np.int64)
    loss_weights, advantages, sampler = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    padding = np.ones(shape, dtype=bool)
    for i, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        n = len(row.tokens) - 1
        response = slice(row.prompt_length - 1, n)
        tokens[i, :n], labels[i, :n], padding[i, :n] = row.tokens[:-1], row.tokens[1:], False
        loss_weights[i, response.start + row.context : n], advantages[i, response] = weight, row.advantage
        sampler[i, response] = row.sampler_logprobs
    extras: dict[str, Tensor] = {
        "advantages": torch.from_numpy(advantages),
        "sampler_logprobs": torch.from_numpy(sampler),
        "scores": torch.tensor([row.reward for row in rows] or [0.0], dtype=torch.float32),
        "numbers": torch.tensor([row.number for row in rows] or [-1]),
    }
    images, image_rows = stacked([row.image for row in rows])
    return MicroBatch(
        tokens=torch.from_numpy(tokens),
        labels=torch.from_numpy(labels),
        loss_weights=torch.from_numpy(loss_weights),
        padding=torch.from_numpy(padding),
        images=images,
        image_rows=image_rows,
        extras=extras,
    )


def keep_trainer_logprobs(rows: list[Row], micro_batches: list[MicroBatch], logprobs: list[Tensor]) -> None:
    """Give each answer of these micro-batches the trainer's logprobs of its tokens, for its sample."""
    for batch, values in zip(micro_batches, logprobs, strict=True):
        for number, line in zip(batch.extras["numbers"].tolist(), values.tolist(), strict=True):
            if number >= 0:
                row = rows[number]
                row.completion.trainer_logprobs = line[row.prompt_length - 1 : len(row.tokens) - 1]


def minibatches(
    rows: list[Row],
    count: int,
    *,
    weighting: LossWeighting,
    rng: np.random.Generator,
    rank: int,
    world: int,
    max_tokens: int,
    pad_id: int,
) -> list[list[MicroBatch]]:
    """Split rows at random into `count` minibatches (one optimiser update each) and give this rank its share of each.

    Every rank calls it with the same rows and the same rng; the shares are balanced by tokens, every rank gets the
    same number of micro-batches, and a rank without rows gets one row of weight 0, so that collectives match.
    """
    order = rng.permutation(len(rows))
    out = []
    for part in np.array_split(order, count):
        chosen = [rows[i] for i in part]
        if not chosen:
            continue
        weights = row_weights(chosen, weighting)
        shares = balanced_micro_batches([len(row.tokens) for row in chosen], world, max_tokens)
        out.append([collate([chosen[i] for i in part], [weights[i] for i in part], pad_id) for part in shares[rank]])
    return out
