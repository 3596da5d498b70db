"""Batched sampling: prompts in, answers with the sampler's own log-probabilities out.

A row's answer depends on its seed, its prompt and the weights; not on the rows beside it, their order or the rank
(rounding apart: products of other shapes may differ in the last bit).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from infra.errors import ConfigError
from modeling.config import ModelConfig
from modeling.decode import Decoder, Images, LatentCache
from modeling.draw import draw
from modeling.sampling import Sampled, SamplingConfig
from modeling.stop import StopText

__all__ = ["Generator", "Sampled", "SamplingConfig"]

# Finished rows leave when they are this share of the batch; moving the others costs about one step.
COMPACT_SHARE = 0.12


class Generator:
    """Samples with the weights of a Megatron model (modeling.build), which it reads in place."""

    decoder_type: type[Decoder] = Decoder

    def __init__(self, model: nn.Module, cfg: ModelConfig) -> None:
        self.cfg, self.decoder = cfg, self.decoder_type(model, cfg)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.head.device

    def refresh(self) -> None:
        """Take over the model's weights as they are now."""
        self.decoder.refresh()

    def generate(
        self,
        prompts: list[list[int]],
        sampling: SamplingConfig,
        *,
        seeds: list[int],
        stop_ids: set[int],
        stop_text: StopText | None = None,
        max_rows: int = 256,
        begun: list[list[int]] | None = None,
        more: int | None = None,
        images: Images = None,
    ) -> list[Sampled]:
        """One answer to each prompt; at most max_rows are written at a time, the next take the places of the finished.

        A prompt that is asked many times is read once. An answer ends after a token of stop_ids, after the token that
        completes stop_text, after sampling.max_response_tokens, or where the row is max_position_embeddings long.
        begun: tokens that each answer has already; those after them are given, at most `more`. With the same seeds and
        weights an answer written in parts has the tokens of one written at once (rounding apart, as above).
        images: what stands in each prompt's places for one (modeling/vision_config.py), uint8 [height, width], all of
        one size; None where there is none.
        Raises ConfigError for prompts that leave no room or have unknown ids.
        """
        if len(seeds) != len(prompts):
            raise ConfigError("seeds", len(seeds), f"there are {len(prompts)} prompts", "give one seed to each")
        if max_rows < 1:
            raise ConfigError("max_rows", max_rows, "has to be positive", "set 256")
        if more is not None and more < 1:
            raise ConfigError("more", more, "has to be positive", "leave it out for whole answers")
        begun = begun if begun is not None else [[] for _ in prompts]
        self._check([prompt + start for prompt, start in zip(prompts, begun, strict=True)])
        for number, (prompt, start) in enumerate(zip(prompts, begun, strict=True)):
            if len(start) >= self.limit(prompt, sampling):
                problem = f"the longest answer has {self.limit(prompt, sampling)}"
                raise ConfigError(f"begun[{number}]", f"{len(start)} tokens", problem, "leave out what has ended")
        run = self._run(prompts, sampling, seeds, stop_ids, stop_text, max_rows, begun, more, images)
        while run.step():
            pass
        return run.answers()

    def limit(self, prompt: list[int], sampling: SamplingConfig) -> int:
        """Tokens after which an answer to the prompt is cut."""
        return min(sampling.max_response_tokens, self.cfg.max_position_embeddings - len(prompt))

    def stream(
        self,
        prompt: list[int],
        sampling: SamplingConfig,
        *,
        seed: int,
        stop_ids: set[int],
        stop_text: StopText | None = None,
    ) -> Iterator[int]:
        """The ids of one answer as they are drawn: those that generate gives for the same seed."""
        self._check([prompt])
        return self._stream(self._run([prompt], sampling, [seed], stop_ids, stop_text, 1))

    def _run(self, *args, **kwargs) -> "Run":
        return Run(self, *args, **kwargs)

    def _stream(self, run: "Run") -> Iterator[int]:
        seen = 0
        while run.step():
            for _, token, _, _ in run.drawn[seen:]:
                yield int(token)
            seen = len(run.drawn)

    def _check(self, prompts: list[list[int]]) -> None:
        limit, vocab = self.cfg.max_position_embeddings, self.cfg.vocab_size
        for number, prompt in enumerate(prompts):
            if not prompt:
                raise ConfigError(f"prompts[{number}]", prompt, "is empty", "give at least one token")
            if len(prompt) >= limit:
                raise ConfigError(
                    f"prompts[{number}]",
                    f"{len(prompt)} tokens",
                    "leaves no room to answer",
                    f"shorten it, or set model.max_position_embeddings above {limit}",
                )
            if min(prompt) < 0 or max(prompt) >= vocab:
                raise ConfigError(
                    f"prompts[{number}]", max(prompt), f"the model knows ids below {vocab}", "use its own tokenizer"
                )


@dataclass(slots=True)
class Rows:
    """The answers being written, each field [rows]. The last token of each is drawn but not in the cache yet."""

    job: Tensor
    "Number of the prompt."
    token: Tensor
    "The token drawn last."
    count: Tensor
    "Tokens of the answer until it ended."
    limit: Tensor
    "Tokens after which the answer is cut."
    alive: Tensor
    "False once the answer has ended."
    said: Tensor
    "How much of the stop text the answer ends with (StopText)."
    uniform: Tensor
    "Numbers in [0, 1) that decide the tokens, [rows, longest limit + 1]."

    def __getitem__(self, rows: Tensor) -> "Rows":
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def __add__(self, other: "Rows") -> "Rows":
        return type(self)(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


@dataclass(slots=True)
class _Read:
    """Prompts that are read and wait for a place."""

    jobs: list[int]
    "Numbers of the prompts, the next one last."
    place: dict[int, int]
    "Number of the prompt -> its row in the cache; equal prompts share one."
    logits: Tensor
    cache: LatentCache


class Run:
    """One call of generate: rows join, draw a token each step, and leave."""

    def __init__(
        self,
        generator: Generator,
        prompts: list[list[int]],
        sampling: SamplingConfig,
        seeds: list[int],
        stop_ids: set[int],
        stop_text: StopText | None,
        max_rows: int,
        begun: list[list[int]] | None = None,
        more: int | None = None,
        images: Images = None,
    ) -> None:
        self.images = images if images is not None else [None] * len(prompts)
        self.begun = begun if begun is not None else [[] for _ in prompts]
        self.limits = [generator.limit(prompt, sampling) for prompt in prompts]
        "Of whole answers; cuts: of what is written now."
        self.cuts = [
            limit if more is None else min(limit, len(start) + more)
            for limit, start in zip(self.limits, self.begun, strict=True)
        ]
        prompts = [prompt + start for prompt, start in zip(prompts, self.begun, strict=True)]
        self.decoder, self.prompts, self.sampling, self.seeds = generator.decoder, prompts, sampling, seeds
        self.stop_ids, self.stop_text, self.max_rows = stop_ids, stop_text, max_rows
        vocab, self.device = self.decoder.head.shape[0], self.decoder.head.device
        self.stops = torch.tensor([token in stop_ids for token in range(vocab)], device=self.device)
        # Equal prompts follow each other, so that they are read once. The next one is last.
        first: dict[tuple[Any, ...], int] = {}
        for number in range(len(prompts)):
            first.setdefault(self._asked(number), number)
        self.waiting = sorted(range(len(prompts)), key=lambda number: first[self._asked(number)])[::-1]
        self.read: _Read | None = None
        self.rows: Rows | None = None
        self.cache: LatentCache | None = None
        self.num_alive = 0
        self.drawn: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        "One entry a draw: job, token, logprob, entropy, each [rows]; rows that have ended draw on until they leave."
        self.counts, self.stopped = [0] * len(prompts), [False] * len(prompts)

    @torch.inference_mode()
    def step(self) -> bool:
        """Let rows leave and join, or draw in every row. False when all answers are there."""
        size = 0 if self.rows is None else len(self.rows.job)
        if not self.num_alive or size - self.num_alive >= max(1, COMPACT_SHARE * size):
            return self._change_rows()
        self._advance()
        return True

    def _advance(self) -> None:
        """Draw one token in every row."""
        logits = self.decoder.step(self.rows.token, self.cache)
        self.rows, self.num_alive = self._draw(self.rows, logits)

    def answers(self) -> list[Sampled]:
        """The answers in the order of the prompts."""
        if not self.drawn:
            return []
        job, *columns = (torch.cat(column).cpu() for column in zip(*self.drawn, strict=True))
        order = job.argsort(stable=True)
        drawn = job.bincount(minlength=len(self.prompts)).tolist()
        parts = zip(*(column[order].split(drawn) for column in columns), strict=True)
        answers = []
        for count, begun, said, row in zip(self.counts, self.begun, self.stopped, parts, strict=True):
            tokens, logprobs, entropies = (part[: count - len(begun)].tolist() for part in row)
            answers.append(Sampled(tokens, logprobs, entropies, stopped=tokens[-1] in self.stop_ids or said))
        return answers

    def _change_rows(self) -> bool:
        """Ended rows leave, waiting prompts take their places and draw their first token. False when none is left."""
        rows, parts = None, []
        if self.rows is not None:
            for job, count, said in zip(
                *(c.tolist() for c in (self.rows.job, self.rows.count, self.rows.said)), strict=True
            ):
                self.counts[job], self.stopped[job] = count, self.stop_text is not None and said == self.stop_text.end
            kept = self.rows.alive.nonzero().squeeze(1)
            if len(kept):
                rows, parts = self.rows[kept], [(self.cache, kept)]
        room = self.max_rows - self.num_alive
        while room and (self.waiting or (self.read is not None and self.read.jobs)):
            new, part = self._admit(room)
            rows, parts = new if rows is None else rows + new, [*parts, part]
            room -= len(new.job)
        self.rows = rows
        if rows is None:
            return False
        self.cache = LatentCache.gather(parts)
        self.num_alive = int(rows.alive.sum())
        return True

    def _admit(self, count: int) -> tuple[Rows, tuple[LatentCache, Tensor]]:
        """Up to count waiting prompts with their first token drawn, and where their latents are."""
        if self.read is None or not self.read.jobs:
            self.read = self._read_prompts()
        read = self.read
        jobs = [read.jobs.pop() for _ in range(min(count, len(read.jobs)))]
        place = torch.tensor([read.place[job] for job in jobs], device=self.device)
        zero = torch.zeros(len(jobs), dtype=torch.long, device=self.device)
        rows = Rows(
            job=torch.tensor(jobs, device=self.device),
            token=zero,
            count=torch.tensor([len(self.begun[job]) for job in jobs], device=self.device),
            limit=torch.tensor([self.cuts[job] for job in jobs], device=self.device),
            alive=zero == 0,
            said=torch.tensor([self._said(job) for job in jobs], device=self.device),
            uniform=self._uniforms(jobs),
        )
        rows, _ = self._draw(rows, read.logits[place])
        return rows, (read.cache, place)

    def _read_prompts(self) -> _Read:
        """Prefill the prompts of the next max_rows answers, each once."""
        jobs = [self.waiting.pop() for _ in range(min(self.max_rows, len(self.waiting)))]
        unique: dict[tuple[Any, ...], int] = {}
        place = {job: unique.setdefault(self._asked(job), len(unique)) for job in jobs}
        one = dict(zip(place.values(), place, strict=True))  # of each prompt, a job that asks it
        prompts, images = zip(*((self.prompts[one[i]], self.images[one[i]]) for i in range(len(unique))), strict=True)
        logits, cache = self.decoder.prefill(list(prompts), images)
        return _Read(jobs[::-1], place, logits, cache)

    def _asked(self, job: int) -> tuple[Any, ...]:
        """By what a prompt is known: its tokens, and its image."""
        image = self.images[job]
        return tuple(self.prompts[job]) if image is None else (*self.prompts[job], image.tobytes())

    def _said(self, job: int) -> int:
        """How much of the stop text the answer ends with before it goes on."""
        return 0 if self.stop_text is None else self.stop_text.read(self.begun[job])

    def _uniforms(self, jobs: list[int]) -> Tensor:
        """The numbers that decide each answer, from a counter-based generator keyed by its seed."""
        numbers = np.zeros((len(jobs), max(self.limits) + 1), dtype=np.float32)
        for row, job in zip(numbers, jobs, strict=True):
            generator = np.random.Generator(np.random.Philox(key=self.seeds[job] % 2**128))
            row[: self.limits[job]] = generator.random(self.limits[job], dtype=np.float32)
        return torch.from_numpy(numbers).to(self.device)

    def _draw(self, rows: Rows, logits: Tensor) -> tuple[Rows, int]:
        """Draw each row's next token -> the rows after it, and how many have not ended."""
        token, logprob, entropy = draw(logits, self._uniform(rows), self.sampling)
        self.drawn.append((rows.job, token, logprob, entropy))
        rows = self._ended(rows, token)
        return rows, int(rows.alive.sum())

    def _ended(self, rows: Rows, token: Tensor) -> Rows:
        """The rows after they drew token [rows]."""
        count = rows.count + rows.alive
        alive = rows.alive & (count < rows.limit) & ~self.stops[token]
        said = rows.said
        if self.stop_text is not None:
            said = torch.where(rows.alive, self.stop_text.after(said, token), said)
            alive &= said < self.stop_text.end
        return replace(rows, token=token, count=count, alive=alive, said=said)

    def _uniform(self, rows: Rows) -> Tensor:
        """The number that decides each row's next token, [rows, 1]."""
        return rows.uniform.gather(1, rows.count.unsqueeze(1))
