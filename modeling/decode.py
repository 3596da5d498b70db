"""The network walked with a latent cache (V3 §2.1.1): per token and layer, the compressed key-value after its norm and
the rotated key that all heads share are kept, nothing per head. Dense families keep each head's key and value in the
same cache (modeling/grouped.py).

W_UK is absorbed into the query and W_UV into the output, so that the heads attend to the latents themselves. The
weights are the Megatron modules' own; `refresh` derives what depends on them.

Shapes: T tokens, N heads, C = kv_lora_rank, R = qk_rope_head_dim, W what is cached per token, C + R for latents.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infra.errors import ConfigError, R1Error
from modeling.config import ModelConfig
from modeling.decode_weights import Attention, attention_weights, mlp_weights, rms_norm
from modeling.grouped import GroupedAttention, grouped_weights
from modeling.merge import merge

# Rows that attend together: they share one length, and what they cache stays near the processor.
CHUNK_ROWS = 64
# The cache grows by so many positions at a time.
GROW = 64
# Tokens of one prefill pass, padding included.
PREFILL_TOKENS = 16384

Images = Sequence[np.ndarray | None] | None
Attend = Callable[[int, Attention | GroupedAttention, Tensor, Tensor], Tensor]


class LatentCache:
    """What the rows have read so far: latents [layers, rows, capacity, W] and how many each row has, [rows].

    A row starts in column 0; what lies beyond its length is finite and never counts. Rows of like length should be
    neighbours: each run of CHUNK_ROWS attends over the length of its longest.
    """

    __slots__ = ("latents", "lengths", "longest", "rows")

    def __init__(self, latents: Tensor, lengths: Tensor) -> None:
        self.latents, self.lengths = latents, lengths
        self.rows = torch.arange(len(lengths), device=lengths.device)
        self.longest = [max(part) for part in chunked(lengths.tolist())]

    def __len__(self) -> int:
        return self.rows.shape[0]

    def advance(self, limit: int) -> None:
        """One more position in every row, up to `limit`, where ended rows stay. Grows where it is full."""
        self.lengths = (self.lengths + 1).clamp_(max=limit)
        self.longest = [min(length + 1, limit) for length in self.longest]
        if max(self.longest) > self.latents.shape[2]:
            self.latents = F.pad(self.latents, (0, 0, 0, GROW))

    def reserve(self, columns: int) -> None:
        """Room for so many positions in every row."""
        if columns > self.latents.shape[2]:
            self.latents = F.pad(self.latents, (0, 0, 0, columns - self.latents.shape[2] + GROW))

    def keep(self, lengths: Tensor) -> None:
        """Of each row the first lengths [rows] tokens count; what lies beyond is written again."""
        self.lengths = lengths
        self.longest = [max(part) for part in chunked(lengths.tolist())]

    @staticmethod
    def gather(parts: list[tuple["LatentCache", Tensor]]) -> "LatentCache":
        """A new cache of the chosen rows, [(cache, row numbers), ...], in this order."""
        lengths = torch.cat([cache.lengths[rows] for cache, rows in parts])
        first = parts[0][0].latents
        capacity = (int(lengths.max()) // GROW + 1) * GROW if len(lengths) else GROW
        latents = first.new_zeros(first.shape[0], len(lengths), capacity, first.shape[3])
        at = 0
        for cache, rows in parts:
            used = min(max(cache.longest, default=0), capacity)
            latents[:, at : at + len(rows), :used] = cache.latents[:, rows, :used]
            at += len(rows)
        return LatentCache(latents, lengths)


def chunked(items: Any) -> list[Any]:
    """Cut a list or tensor into runs of CHUNK_ROWS."""
    return [items[at : at + CHUNK_ROWS] for at in range(0, len(items), CHUNK_ROWS)]


class Decoder:
    """prefill, then step by step. The module may be wrapped (DDP, Float16Module); its gradients and its routers'
    token counts are not touched.

    Raises ConfigError for a model that is cut over ranks, R1Error for one built with Transformer Engine.
    """

    def __init__(self, model: nn.Module, cfg: ModelConfig) -> None:
        while hasattr(model, "module"):
            model = model.module
        self.module, self.cfg = model, cfg
        _check(model)
        self._positions = 0
        self.refresh()

    @torch.inference_mode(False)
    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the module's weights as they are now. Views where the module's layout serves, else copies."""
        module, cfg = self.module, self.cfg
        self.embedding = module.embedding.word_embeddings.weight.detach()
        self.final_norm = (module.decoder.final_layernorm.weight.detach(), module.decoder.final_layernorm.eps)
        self.head = self.embedding if cfg.tie_word_embeddings else module.output_layer.weight.detach()
        attention = grouped_weights if cfg.is_dense else attention_weights
        self.layers = [(attention(layer, cfg), mlp_weights(layer, cfg)) for layer in module.decoder.layers]

    @torch.inference_mode()
    def prefill(self, prompts: list[list[int]], images: Images = None) -> tuple[Tensor, LatentCache]:
        """Read prompts of any lengths -> logits after the last token of each [rows, vocab] FP32, and their cache.

        images: the image of each prompt, uint8 [height, width], None where it has none.
        """
        logits, _, cache = self._read(prompts, len(self.layers), images)
        return logits, cache

    def _read(self, prompts: list[list[int]], depth: int, images: Images) -> tuple[Tensor, Tensor, LatentCache]:
        """The same with a cache of `depth` layers -> logits, hidden state of the last token [rows, hidden], cache."""
        longest = max(len(prompt) for prompt in prompts)
        self._rotations(longest)
        device, width = self.head.device, self.layers[0][0].cached
        capacity = (longest // GROW + 1) * GROW
        latents = self.head.new_zeros(depth, len(prompts), capacity, width)
        logits = torch.empty(len(prompts), self.head.shape[0], device=device)
        ends = self.head.new_empty(len(prompts), self.head.shape[1])

        # Prompts of like length go together: little padding.
        order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
        while order:
            longest = len(prompts[order[0]])
            rows, order = _cut(order, max(1, PREFILL_TOKENS // longest))
            ids = torch.tensor([prompts[row] + [0] * (longest - len(prompts[row])) for row in rows], device=device)
            last = torch.tensor([len(prompts[row]) - 1 for row in rows], device=device)
            places = torch.tensor(rows, device=device)
            embedded = self._embedded(ids, [images[row] for row in rows] if images else [])
            hidden = self._prefill(ids, places, latents, embedded)
            ends[places] = end = hidden[torch.arange(len(rows), device=device), last]
            logits[places] = self._logits(end)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        return logits, ends, LatentCache(latents, lengths)

    def _embedded(self, ids: Tensor, images: Sequence[np.ndarray | None]) -> Tensor:
        """ids [rows, seq] -> [rows, seq, hidden], images in their places."""
        there = [image for image in images if image is not None]
        embedded = F.embedding(ids, self.embedding)
        if not there:
            return embedded
        with torch.inference_mode(False), torch.no_grad():  # what Megatron's modules keep must stay usable for training
            features = self.module.vision(torch.from_numpy(np.stack(there)).to(ids.device))
        rows = torch.tensor([row for row, image in enumerate(images) if image is not None], device=ids.device)
        return merge(embedded, ids == self.module.image_id, features, rows)

    def _prefill(self, ids: Tensor, places: Tensor, latents: Tensor, embedded: Tensor) -> Tensor:
        """ids [rows, seq], embedded [rows, seq, hidden] -> hidden of the same shape; latents go to their places."""
        rows, seq = ids.shape
        positions = torch.arange(seq, device=ids.device).repeat(rows)
        attend = self._causal(rows, seq, places, latents)
        return self._walk(embedded.flatten(0, 1), positions, attend).unflatten(0, (rows, seq))

    @staticmethod
    def _causal(rows: int, seq: int, places: Tensor, latents: Tensor) -> Attend:
        """Attention of whole rows from position 0 on; their latents go to their places."""

        def attend(number: int, layer: Attention | GroupedAttention, query: Tensor, latent: Tensor) -> Tensor:
            latent = latent.unflatten(0, (rows, seq))
            latents[number, places, :seq] = latent
            # Causal, and padding comes last: no token sees any.
            return layer.prefill(query.unflatten(0, (rows, seq)), latent).flatten(0, 1)

        return attend

    @torch.inference_mode()
    def step(self, ids: Tensor, cache: LatentCache) -> Tensor:
        """Read one more token in every row, ids [rows] -> logits [rows, vocab] FP32. The cache moves on by one."""
        limit = self.cfg.max_position_embeddings
        positions, rows = cache.lengths.clamp(max=limit - 1), cache.rows
        cache.advance(limit)
        self._rotations(max(cache.longest))
        columns = torch.arange(max(cache.longest), device=ids.device)
        # What a row has not read yet, or has from another's padding, gets no weight: [chunk, 1, columns] each.
        hidden = (columns > positions.unsqueeze(1)).unsqueeze(1)
        masks = [
            torch.zeros(len(part), 1, longest, device=ids.device).masked_fill_(part[..., :longest], float("-inf"))
            for part, longest in zip(chunked(hidden), cache.longest, strict=True)
        ]

        def attend(number: int, layer: Attention | GroupedAttention, query: Tensor, latent: Tensor) -> Tensor:
            latents = cache.latents[number]
            latents[rows, positions] = latent
            out = query.new_empty(*query.shape[:2], layer.attended)
            at = 0
            for mask in masks:
                chunk = slice(at, at + len(mask))
                layer.attend(query[chunk], latents[chunk, : mask.shape[-1]], mask, out[chunk])
                at += len(mask)
            return out

        return self._logits(self._walk(F.embedding(ids, self.embedding), positions, attend))

    def _walk(self, x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """x [T, hidden] at positions [T] through all layers -> hidden [T, hidden], the last norm not yet applied."""
        cos, sin = self.cos[positions], self.sin[positions]
        for number, (attention, mlp) in enumerate(self.layers):
            query, latent = attention.project(x, cos, sin)
            x = attention.output(attend(number, attention, query, latent)).add_(x)
            x = mlp(x).add_(x)
        return x

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(rms_norm(hidden, *self.final_norm), self.head).float()

    def _rotations(self, positions: int) -> None:
        """Tables of cos and sin [positions, R] for at least so many positions."""
        if positions <= self._positions:
            return
        wanted = min(max(2 * self._positions, 512, positions), self.cfg.max_position_embeddings)
        # Of all places, also where context ranks share a row. It must stay usable for training.
        with torch.inference_mode(False), torch.no_grad():
            owner = self.module if self.cfg.is_dense else self.module.decoder.layers[0].self_attention
            table = owner.rotary_pos_emb.get_emb(wanted)
            angles, mscale = table if isinstance(table, tuple) else (table, 1.0)
            angles = angles.reshape(wanted, -1)
            self.cos, self.sin = ((f(angles) * mscale).to(self.head.dtype) for f in (torch.cos, torch.sin))
        self._positions = wanted


def _cut(items: list[int], count: int) -> tuple[list[int], list[int]]:
    return items[:count], items[count:]


def _check(module: nn.Module) -> None:
    """Raise where the weights are not all here, or not under the names of Megatron's local modules."""
    config = module.config
    for key, size in (
        ("tensor", config.tensor_model_parallel_size),
        ("pipeline", config.pipeline_model_parallel_size),
        ("expert", config.expert_model_parallel_size),
    ):
        if size > 1:
            raise ConfigError(
                f"parallel.{key}", size, "generation needs the whole model on each rank", f"set parallel.{key}=1"
            )
    for name, parameter in module.named_parameters():
        if "layer_norm_weight" in name or parameter.is_meta:
            raise R1Error(
                f"{name}: generation walks Megatron's local modules, and this model is built with Transformer Engine; "
                "set model.modules=local"
            )
