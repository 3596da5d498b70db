"""Attention over Megatron's paged cache of latents (V3 §2.1.1) in torch: W_UK is absorbed into the query, so that all
heads attend to the latents themselves, whose first numbers serve as values.

Shapes: T new tokens, one request after another; N heads; C = kv_lora_rank, R = qk_rope_head_dim; pages of B tokens.
"""

import torch
from torch import Tensor


def paged_attention(
    query: Tensor, latents: Tensor, starts: Tensor, lengths: Tensor, pages: Tensor, rank: int, scale: float
) -> Tensor:
    """Softmax attention of each request's new tokens, its last ones, over all it has cached, causal -> [T, N, C].

    query [T, N, C + R]; latents [pages, B, C + R]; starts [requests + 1]: where each request's new tokens begin in the
    query; lengths [requests]: cached tokens, the new ones included; pages [requests, most pages]: which ones hold them.
    Rows of the query that belong to no request are padding and give zeros. rank: C.
    """
    out = query.new_zeros(*query.shape[:2], rank)
    borders = starts.tolist()
    for request, size in enumerate(lengths.tolist()):
        begin, end = borders[request], borders[request + 1]
        if begin == end:
            continue
        held = pages[request, : -(-size // latents.shape[1])].long()
        keys = latents[held].flatten(0, 1)[:size]
        scores = scale * (query[begin:end].transpose(0, 1) @ keys.T)  # [N, new, size]
        new = end - begin
        later = torch.ones(new, size, dtype=torch.bool, device=query.device).triu_(size - new + 1)
        weights = scores.masked_fill_(later, float("-inf")).softmax(-1, dtype=torch.float32).to(keys.dtype)
        out[begin:end] = (weights @ keys[:, :rank]).transpose(0, 1)
    return out


def paged_decode(query: Tensor, latents: Tensor, lengths: Tensor, pages: Tensor, rank: int, scale: float) -> Tensor:
    """The same where each request has one new token: query [requests, N, C + R] -> [requests, N, C]."""
    longest = int(lengths.max())
    held = pages[:, : max(1, -(-longest // latents.shape[1]))].long().clamp_(min=0)
    keys = latents[held].flatten(1, 2)[:, : max(1, longest)]
    scores = scale * torch.bmm(query, keys.mT)
    beyond = torch.arange(keys.shape[1], device=query.device) >= lengths.clamp(min=1).unsqueeze(1)
    weights = scores.masked_fill_(beyond.unsqueeze(1), float("-inf")).softmax(-1, dtype=torch.float32).to(keys.dtype)
    return torch.bmm(weights, keys[..., :rank])
