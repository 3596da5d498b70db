"""Speculative sampling with the MTP module as drafter (V3 §5.4.3; Leviathan et al. 2023, algorithm 1).

Each step the module proposes one token and the network reads it together with the one before. The proposal stands with
probability min(1, p / q), else a token is drawn from what p has over q: whatever the module believes, tokens come from
p, the network's distribution after temperature and top-p. Every row accepts or rejects for itself.

Other answers than the plain sampler's for the same seed, but at temperature 0; the same distribution of answers.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from modeling.config import ModelConfig
from modeling.decode import LatentCache
from modeling.draft import DraftingDecoder
from modeling.draw import distribution, invert
from modeling.generate import Generator, Rows, Run
from modeling.sampling import SamplingConfig


def generator_for(model: nn.Module, cfg: ModelConfig, sampling: SamplingConfig) -> Generator:
    """The generator that the settings ask for. Raises ConfigError where the network has no MTP module to draft with."""
    return SpeculativeGenerator(model, cfg) if sampling.speculative else Generator(model, cfg)


def verify(p: Tensor, q: Tensor, proposed: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Leviathan et al. 2023, algorithm 1 for one token -> accepted [rows] bool and the token that stands [rows].

    p, q: the network's and the drafter's probabilities [rows, vocab]; proposed [rows], drawn from q; uniform [rows, 2]:
    whether it is accepted, and what is drawn in its place.

    Example: p = [.5, .5], q = [1, 0] and proposal 0: accepted where the first uniform is below .5; else 1 is drawn, all
    that p has over q. Both tokens come with probability .5.
    """
    chosen = proposed.unsqueeze(1)
    accepted = (uniform[:, :1] * q.gather(1, chosen) < p.gather(1, chosen)).squeeze(1)
    rest = (p - q).clamp_(min=0)
    # Equal distributions accept everything; rounding could still ask for a draw from nothing.
    rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, p)
    other, _ = invert(rest, uniform[:, 1:].contiguous())
    return accepted, torch.where(accepted, proposed, other.squeeze(1))


class SpeculativeGenerator(Generator):
    """Generator's interface, with one or two tokens a step."""

    decoder_type = DraftingDecoder

    def __init__(self, model: nn.Module, cfg: ModelConfig) -> None:
        super().__init__(model, cfg)
        self.proposed = self.accepted = 0
        "Tokens that the module proposed, and those of them that stood, since the generator was made."

    def _run(self, *args, **kwargs) -> "SpeculativeRun":
        return SpeculativeRun(self, *args, **kwargs)


@dataclass(slots=True)
class SpeculativeRows(Rows):
    """Beside the answers, what the module has not read yet. uniform: [rows, longest limit + 2, 3], for each token the
    draft's, the acceptance's and the draw's."""

    hidden: Tensor
    "Hidden states of the last fresh tokens in the cache, [rows, 2, hidden]."
    following: Tensor
    "The tokens after them, [rows, 2]."
    fresh: Tensor
    "1 or 2, [rows]; with 1 the second places are filler."


class SpeculativeRun(Run):
    """One call of generate: rows join, draw a token or two each step, and leave."""

    def __init__(self, generator: SpeculativeGenerator, *args, **kwargs) -> None:
        super().__init__(generator, *args, **kwargs)
        self.generator = generator

    def _advance(self) -> None:
        """Propose, read two, and let the proposal stand or replace it; where it stands, the token after it is drawn."""
        rows, cache, decoder = self.rows, self.cache, self.decoder
        here = rows.uniform[cache.rows, rows.count]
        q = distribution(decoder.draft(rows.hidden, rows.following, rows.fresh, cache), self.sampling)
        proposed = invert(q, here[:, :1].contiguous())[0].squeeze(1)
        logits, hidden = decoder.read_two(torch.stack([rows.token, proposed], 1), cache)

        p = distribution(logits[:, 0].contiguous(), self.sampling)
        accepted, first = verify(p, q, proposed, here[:, 1:])
        self._record(rows.job, first, p)
        after = self._ended(rows, first.clone())
        more = (accepted & after.alive).nonzero().squeeze(1)
        second = torch.zeros_like(first)
        if len(more):
            p = distribution(logits[more, 1], self.sampling)
            uniform = rows.uniform[more, after.count[more], 2:].contiguous()
            second[more] = drawn = invert(p, uniform)[0].squeeze(1)
            self._record(rows.job[more], drawn, p)
            kept = self._ended(after[more], drawn)
            for name in ("token", "count", "alive", "said"):
                getattr(after, name)[more] = getattr(kept, name)

        self.generator.proposed += self.num_alive
        self.generator.accepted += int((accepted & rows.alive).sum())
        self.rows = replace(after, hidden=hidden, following=torch.stack([first, second], 1), fresh=1 + accepted.long())
        self.num_alive = int(after.alive.sum())
        # Forget the proposals that did not stand: their latents are written over.
        limit = self.generator.cfg.max_position_embeddings
        cache.keep((cache.lengths + 1 + accepted).clamp_(max=limit))

    def _record(self, job: Tensor, token: Tensor, p: Tensor) -> None:
        """Keep tokens [rows] with their logprobs and entropies under p [rows, vocab]."""
        logprob = p.gather(1, token.unsqueeze(1)).squeeze(1).log()
        self.drawn.append((job, token, logprob, torch.special.entr(p).sum(-1)))

    def _admit(self, count: int) -> tuple[SpeculativeRows, tuple[LatentCache, Tensor]]:
        rows, (cache, place) = super()._admit(count)
        last = cache.hidden[place]
        rows = SpeculativeRows(
            **{field.name: getattr(rows, field.name) for field in fields(rows)},
            hidden=torch.stack([last, torch.zeros_like(last)], 1),
            following=torch.stack([rows.token, torch.zeros_like(rows.token)], 1),
            fresh=torch.ones_like(rows.token),
        )
        return rows, (cache, place)

    def _uniforms(self, jobs: list[int]) -> Tensor:
        numbers = np.zeros((len(jobs), max(self.limits) + 2, 3), dtype=np.float32)
        for row, job in zip(numbers, jobs, strict=True):
            generator = np.random.Generator(np.random.Philox(key=self.seeds[job] % 2**128))
            row[: self.limits[job]] = generator.random((self.limits[job], 3), dtype=np.float32)
        return torch.from_numpy(numbers).to(self.device)

    def _uniform(self, rows: Rows) -> Tensor:
        return rows.uniform[torch.arange(len(rows.count), device=self.device), rows.count, 2:].contiguous()
