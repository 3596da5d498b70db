"""One token for each row from its logits, by the inverse of the cumulative distribution."""

import torch
from torch import Tensor

from modeling.sampling import SamplingConfig

# The cumulative sum runs over blocks first, then inside the one block that is hit: a fifth of the time of a whole one.
BLOCK = 32
# Top-p looks at so many of the likeliest tokens first; rows that hold too little there look further.
NUCLEUS = (16, 128)


def draw(logits: Tensor, uniform: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, their log-probabilities and the entropies in nats, each [rows]: all of the distribution after
    temperature and top-p. logits [rows, vocab] FP32 are overwritten; uniform [rows, 1] lies in [0, 1).

    Example: logits log([[.5, .3, .2]]), uniform [[.6]] -> token 1, log .3, entropy 1.03; with top_p .7 the distribution
    is [.625, .375, 0] and the same uniform gives token 0, log .625, entropy .66.
    """
    if sampling.temperature == 0:
        zeros = logits.new_zeros(len(logits))
        return logits.argmax(-1), zeros, zeros
    if sampling.temperature != 1:
        logits.div_(sampling.temperature)
    logits.sub_(logits.amax(-1, keepdim=True))
    weights = logits.exp()
    if sampling.top_p < 1:
        return _nucleus(weights, uniform, sampling.top_p)
    token, total = invert(weights, uniform)
    log_total = total.log()
    logprob = logits.gather(1, token).sub_(log_total)
    entropy = log_total.squeeze(1) - torch.linalg.vecdot(weights, logits) / total.squeeze(1)
    return token.squeeze(1), logprob.squeeze(1), entropy


def distribution(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """The probabilities that draw draws from, after temperature and top-p. logits [rows, vocab] FP32 are overwritten.

    Example: logits log([[.5, .3, .2]]) give [[.5, .3, .2]], with top_p .7 [[.625, .375, 0]], greedily [[1, 0, 0]].
    """
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    if sampling.temperature != 1:
        logits.div_(sampling.temperature)
    weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    if sampling.top_p < 1:
        kept, ids = weights.sort(-1, descending=True)
        upto = kept.cumsum(-1)
        kept.masked_fill_(upto - kept >= sampling.top_p * upto[:, -1:], 0.0)
        weights = torch.zeros_like(weights).scatter_(1, ids, kept)
    return weights.div_(weights.sum(-1, keepdim=True))


def invert(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """weights [rows, n] not normalised, uniform [rows, 1] -> index drawn and sum of weights, each [rows, 1]."""
    rows, n = weights.shape
    blocks = weights.view(rows, -1, BLOCK if n % BLOCK == 0 else n)
    upto = blocks.sum(-1).cumsum(-1)
    total = upto[:, -1:]
    target = _below(uniform * total, total)
    block = torch.searchsorted(upto, target, right=True)
    before = upto.gather(1, (block - 1).clamp_(min=0)).masked_fill_(block == 0, 0.0)
    inside = blocks[torch.arange(rows, device=weights.device), block.squeeze(1)].cumsum(-1)
    target = _below(target - before, inside[:, -1:])
    return block * blocks.shape[-1] + torch.searchsorted(inside, target, right=True), total


def _below(target: Tensor, end: Tensor) -> Tensor:
    """Rounding must not carry a target to the end of a sum: past its last token with any weight."""
    return torch.minimum(target, torch.nextafter(end, torch.zeros_like(end)))


def _nucleus(weights: Tensor, uniform: Tensor, top_p: float) -> tuple[Tensor, Tensor, Tensor]:
    """draw from the smallest set of likeliest tokens that holds top_p; the token that crosses it belongs to it."""
    wanted = weights.sum(-1, keepdim=True).mul_(top_p)
    token = torch.empty_like(uniform, dtype=torch.long)
    logprob, entropy = torch.empty_like(uniform), torch.empty_like(uniform)
    rows = torch.arange(len(weights), device=weights.device)
    for count in (*NUCLEUS, weights.shape[1]):
        if count > weights.shape[1] or not len(rows):
            continue
        kept, ids = weights[rows].topk(count, -1)
        upto = kept.cumsum(-1)
        enough = (upto[:, -1] >= wanted[rows, 0]) | (count == weights.shape[1])
        kept, ids, upto, here = kept[enough], ids[enough], upto[enough], rows[enough]
        kept.masked_fill_(upto - kept >= wanted[here], 0.0)
        total = kept.sum(-1, keepdim=True)
        upto = kept.cumsum(-1)
        index = torch.searchsorted(upto, _below(uniform[here] * upto[:, -1:], upto[:, -1:]), right=True)
        token[here] = ids.gather(1, index)
        logprob[here] = (kept.gather(1, index) / total).log()
        entropy[here] = torch.special.entr(kept / total).sum(-1, keepdim=True)
        rows = rows[~enough]
    return token.squeeze(1), logprob.squeeze(1), entropy.squeeze(1)
