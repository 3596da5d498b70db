"""Attention over Megatron's paged cache in torch alone: what FlashAttention and FlashMLA do faster where installed.

Shapes: T new tokens, one request after another; N heads; pages of B tokens; R requests.
"""

import torch
from torch import Tensor


def paged_attention(
    query: Tensor, keys: Tensor, values: Tensor, starts: Tensor, lengths: Tensor, pages: Tensor, scale: float
) -> Tensor:
    """Softmax attention of each request's new tokens, its last ones, over all it has cached, causal -> [T, N, d_v].

    query [T, N, d]; keys [pages, B, N, d], values [pages, B, N, d_v]; starts [R + 1]: where each request's new tokens
    begin in the query; lengths [R]: cached tokens, the new ones included; pages [R, most pages]: which ones hold them.
    Rows of the query that belong to no request are padding and give zeros.
    """
    out = query.new_zeros(*query.shape[:2], values.shape[-1])
    borders = starts.tolist()
    for request, size in enumerate(lengths.tolist()):
        begin, end = borders[request], borders[request + 1]
        if begin == end:
            continue
        held = pages[request, : -(-size // keys.shape[1])].long()
        k, v = (cache[held].flatten(0, 1)[:size].transpose(0, 1) for cache in (keys, values))
        scores = scale * torch.bmm(query[begin:end].transpose(0, 1), k.mT)
        new = end - begin
        later = torch.ones(new, size, dtype=torch.bool, device=query.device).triu_(size - new + 1)
        weights = scores.masked_fill_(later, float("-inf")).softmax(-1, dtype=torch.float32).to(v.dtype)
        out[begin:end] = torch.bmm(weights, v).transpose(0, 1)
    return out


def paged_latent_attention(
    query: Tensor, latents: Tensor, lengths: Tensor, pages: Tensor, rank: int, scale: float
) -> Tensor:
    """The same where each request has one new token, on latents that all heads share (V3 §2.1.1) -> [R, N, rank].

    query [R, N, rank + rope], W_UK absorbed; latents [pages, B, rank + rope], whose first rank numbers serve as values.
    """
    longest = int(lengths.max())
    held = pages[:, : max(1, -(-longest // latents.shape[1]))].long().clamp_(min=0)
    keys = latents[held].flatten(1, 2)[:, :longest]
    scores = scale * torch.bmm(query, keys.mT)
    beyond = torch.arange(longest, device=query.device) >= lengths.clamp(min=1).unsqueeze(1)
    weights = scores.masked_fill_(beyond.unsqueeze(1), float("-inf")).softmax(-1, dtype=torch.float32).to(keys.dtype)
    return torch.bmm(weights, keys[..., :rank])
