"""An encoder learns to read before the language model looks, as real encoders come pre-trained on pictures.

Each patch is taught to say the number it is part of, as the language model's own embedding of that number's token, and
an empty one the embedding of a space: what the model then finds in an image's places is like text that it can copy.
Encoder and projector alone are trained, on pictures of training questions (LLaVA's first stage trains the projector).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from infra.progress import Progress, say
from modeling import hf
from modeling.config import ModelConfig
from modeling.tokenizer import Tokenizer
from modeling.vision import ImageModel
from rl.tasks.countdown_image import CountdownImage
from training import parallel
from training.data.pictures import cells
from training.whole import build_whole

BATCH = 64
"Pictures of a step."
LR, WARMUP = 2e-3, 20


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures and what their patches say."""

    images: Tensor
    "uint8 [pictures, height, width]"
    said: Tensor
    "Token ids [pictures, places]."


def pictures(task: CountdownImage, tokenizer: Tokenizer, chosen: range, places: int) -> Pictures:
    """The task's training questions of these numbers."""
    blank = tokenizer.encode(" ")[0]
    tokens: dict[str, list[int]] = {}
    images, said = [], []
    for i in chosen:
        question = task.train_question(i)
        images.append(torch.from_numpy(question.pixels))
        row = [blank] * places
        for place, (number, digit) in cells(tuple(question.meta["numbers"]), question.meta["target"]).items():
            ids = tokens.setdefault(number, tokenizer.encode(number))
            row[place] = ids[min(digit, len(ids) - 1)]  # a number of one token is said by each of its digits
        said.append(row)
    return Pictures(torch.stack(images), torch.tensor(said))


def teach(module: ImageModel, task: CountdownImage, tokenizer: Tokenizer, steps: int) -> float:
    """Train module.vision in place; -> the share of numbers' patches read right in the last twentieth of the steps.

    The loss is the squared distance to the embedding that is to be said, in units of the embeddings' variance. All
    ranks do the same work on the same pictures, and so come to the same weights.
    """
    table = module.embedding.word_embeddings.weight.detach()
    blank, scale = tokenizer.encode(" ")[0], table.var()
    optimizer = torch.optim.AdamW(module.vision.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_then_cosine(steps))
    right: list[float] = []
    with Progress("reading", steps, "step") as progress:
        for step in range(steps):
            batch = pictures(task, tokenizer, range(step * BATCH, (step + 1) * BATCH), module.vision.shape.places)
            images, said = batch.images.to(table.device), batch.said.to(table.device)
            spoken = module.vision(images).float()
            loss = (spoken - table[said].float()).square().mean() / scale
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.vision.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            right.append(_read(spoken.detach(), said, table.float(), blank))
            progress.advance(1, loss=loss.item(), read=right[-1])
    last = right[-max(1, steps // 20) :]
    return sum(last) / len(last)


def _read(spoken: Tensor, said: Tensor, table: Tensor, blank: int) -> float:
    """Share of the patches with a digit whose nearest embedding is the one to be said."""
    written = said != blank
    nearest = torch.cdist(spoken[written], table).argmin(-1)
    return (nearest == said[written]).float().mean().item()


def _warm_then_cosine(steps: int) -> Callable[[int], float]:
    return lambda step: min(1.0, (step + 1) / WARMUP) * (0.525 + 0.475 * math.cos(math.pi * step / steps))


def with_reading_eyes(
    start: Path, model_cfg: ModelConfig, tokenizer: Tokenizer, task: CountdownImage, steps: int, folder: Path
) -> Path:
    """The model in `start` with an encoder that reads, written to `folder`, unless it is there; -> folder.

    Every rank calls it.
    """
    if not parallel.broadcast_object((folder / hf.CONFIG).exists()):
        module = build_whole(model_cfg)
        hf.load_pretrained(module, model_cfg, start)
        share = teach(module, task, tokenizer, steps)
        if parallel.is_main():
            say(f"the encoder reads {share:.1%} of the digits")
        parallel.on_main(lambda: hf.save_pretrained(module, model_cfg, folder))
    return folder
