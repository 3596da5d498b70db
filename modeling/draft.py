"""The network and its MTP module walked together (V3 §2.2): the module proposes a token, the network reads two.

The module's entry i joins the hidden state of token i with the embedding of token i + 1 and speaks of token i + 2; its
latents lie in the cache as one more layer. What was read in vain is forgotten by saying how many tokens count.

Shapes: as in decode.py; two new tokens a row.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infra.errors import ConfigError
from modeling.decode import Attend, Decoder, Images, LatentCache, chunked
from modeling.decode_weights import Attention, Norm, attention_weights, mlp_weights, rms_norm


def _norm(module: Any) -> Norm:
    return module.weight.detach(), module.eps


class DraftCache(LatentCache):
    """Prompts that are read: latents [layers + 1, ...], and the hidden state of each prompt's last token."""

    __slots__ = ("hidden",)

    def __init__(self, latents: Tensor, lengths: Tensor, hidden: Tensor) -> None:
        super().__init__(latents, lengths)
        self.hidden = hidden


class DraftingDecoder(Decoder):
    """Raises ConfigError, beyond what Decoder raises, for a network without an MTP module."""

    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the weights as they are now, the MTP module's too (the first one's, where there are several)."""
        super().refresh()
        if not self.cfg.num_nextn_predict_layers:
            raise ConfigError(
                "sampling.speculative",
                "true",
                "the network has no MTP module (model.num_nextn_predict_layers=0)",
                "set sampling.speculative=false",
            )
        module = self.module.mtp.layers[0]
        self.token_norm, self.hidden_norm, self.mtp_norm = map(
            _norm, (module.enorm, module.hnorm, module.final_layernorm)
        )
        self.join = module.eh_proj.weight.detach()
        layer = module.mtp_model_layer
        self.mtp_layer = attention_weights(layer, self.cfg), mlp_weights(layer, self.cfg)

    @torch.inference_mode()
    def prefill(self, prompts: list[list[int]], images: Images = None) -> tuple[Tensor, DraftCache]:
        """Read prompts of any lengths -> logits after the last token of each [rows, vocab] FP32, and their cache.

        The module has read all of a prompt but its last entry, which needs the token that comes next.
        """
        logits, hidden, cache = self._read(prompts, len(self.layers) + 1, images)
        return logits, DraftCache(cache.latents, cache.lengths, hidden)

    def _prefill(self, ids: Tensor, places: Tensor, latents: Tensor, embedded: Tensor) -> Tensor:
        hidden = super()._prefill(ids, places, latents, embedded)
        rows, seq = ids.shape
        if seq > 1:
            # Entries past a row's end are made of padding and written again before they count.
            positions = torch.arange(seq - 1, device=ids.device).repeat(rows)
            attend = self._causal(rows, seq - 1, places, latents)
            self._propose(hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), positions, attend)
        return hidden

    @torch.inference_mode()
    def draft(self, hidden: Tensor, following: Tensor, fresh: Tensor, cache: LatentCache) -> Tensor:
        """The module's logits [rows, vocab] FP32 of the token after the last one drawn, which is not in the cache yet.

        hidden [rows, 2, hidden]: states of the cache's last fresh [rows] tokens (1 or 2), whose entries the module has
        not read; following [rows, 2]: the tokens after them. With fresh 1 the second place is filler.
        """
        positions = self._positions_from(cache.lengths - fresh, cache)
        entries = self._propose(
            hidden.flatten(0, 1), following.flatten(), positions.flatten(), self._two(positions, cache)
        )
        last = entries.unflatten(0, (-1, 2))[cache.rows, fresh - 1]
        return F.linear(rms_norm(last, *self.mtp_norm), self.head).float()

    @torch.inference_mode()
    def read_two(self, ids: Tensor, cache: LatentCache) -> tuple[Tensor, Tensor]:
        """Read ids [rows, 2] -> logits after each [rows, 2, vocab] FP32 and hidden states [rows, 2, hidden].

        The cache's lengths stay: cache.keep says how many of the two count.
        """
        positions = self._positions_from(cache.lengths, cache)
        embedded = F.embedding(ids.flatten(), self.embedding)
        hidden = self._walk(embedded, positions.flatten(), self._two(positions, cache))
        return self._logits(hidden).unflatten(0, (-1, 2)), hidden.unflatten(0, (-1, 2))

    def _positions_from(self, start: Tensor, cache: LatentCache) -> Tensor:
        """[rows, 2] positions from start [rows] on, in the cache's columns; ended rows stay at the limit."""
        limit = self.cfg.max_position_embeddings
        upto = min(max(cache.longest) + 2, limit)
        self._rotations(upto)
        cache.reserve(upto)
        return torch.stack([start, start + 1], 1).clamp_(max=limit - 1)

    def _propose(self, hidden: Tensor, ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """V3 eq. 21-22: hidden [T, hidden] of tokens i and ids [T] of tokens i + 1 -> [T, hidden], not yet normed."""
        token = rms_norm(F.embedding(ids, self.embedding), *self.token_norm)
        state = rms_norm(rms_norm(hidden, *self.final_norm), *self.hidden_norm)
        x = F.linear(torch.cat([token, state], -1), self.join)
        attention, mlp = self.mtp_layer
        query, latent = attention.project(x, self.cos[positions], self.sin[positions])
        x = attention.output(attend(len(self.layers), attention, query, latent)).add_(x)
        return mlp(x).add_(x)

    def _two(self, positions: Tensor, cache: LatentCache) -> Attend:
        """Attention of two new tokens a row, at positions [rows, 2], over the row's own latents up to each."""
        heads, device = self.cfg.num_attention_heads, positions.device
        chunks = []
        for part, longest in zip(chunked(positions), cache.longest, strict=True):
            width = min(longest + 2, cache.latents.shape[2])
            later = torch.arange(width, device=device) > part.unsqueeze(-1)
            mask = torch.zeros(len(part), 2, width, device=device).masked_fill_(later, float("-inf"))
            chunks.append(mask.repeat_interleave(heads, 1))  # [chunk, 2 * heads, columns]

        def attend(number: int, layer: Attention, query: Tensor, latent: Tensor) -> Tensor:
            latents = cache.latents[number]
            latents[cache.rows.unsqueeze(1), positions] = latent.unflatten(0, (-1, 2))
            query = query.unflatten(0, (-1, 2)).flatten(1, 2)
            out = query.new_empty(*query.shape[:2], layer.rank)
            at = 0
            for mask in chunks:
                chunk = slice(at, at + len(mask))
                keys = latents[chunk, : mask.shape[-1]]
                scores = torch.bmm(query[chunk], keys.mT)
                weights = torch.softmax(torch.add(mask, scores, alpha=layer.scale), -1).to(query.dtype)
                torch.bmm(weights, keys[..., : layer.rank], out=out[chunk])
                at += len(mask)
            return out.unflatten(1, (2, heads)).flatten(0, 1)

        return attend
