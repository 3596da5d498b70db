"""The one set of efficiencies that every plan uses, whatever the GPU; hardware.py holds what differs between GPUs.

Two kinds, and each field says which it is. *Measured*: others' measurements of that very thing, cited. *Fitted*: five
figures chosen so that the twelve rows marked `fit` in published.py come out, DeepSeek's own with the most weight; the
six rows marked `test` were left out of the fit. `r1 plan published=true` shows all eighteen.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Shares of what hardware.py says."""

    matmul: float = 0.77
    "Of the best measured matrix product, over a network's products, grouped ones too. Fitted."
    attention: float = 0.5
    """Of the best measured matrix product, by the attention core, forward and backward: 397 TFLOPS on H100. Measured:
    between FlashAttention-2 (368) and 3 (638), forward, 4K tokens, head dimension 128 (arXiv 2407.08608, fig. 5)."""
    memory: float = 0.8
    "Of the memory's bandwidth, by kernels that it bounds. Assumed, as usual for streaming kernels."
    nic: float = 0.92
    """Of the network's bandwidth, by all-to-all and collectives. Measured: 46 of 50 GB/s, HybridEP on 64 H100 (DeepEP,
    branch hybrid-ep, docs/README_Hybrid-EP.md); DeepEP has 50 to 51 on 64 H800 (docs/legacy.md)."""
    nvlink: float = 0.53
    """Of NVLink's bandwidth, one way. Measured: 479 of 900 GB/s, HybridEP on 36 GB200, BF16, as called from torch (the
    same table; the kernels alone reach 632)."""
    hidden: float = 0.5
    """Share of overlapped all-to-all time that computation hides. Fitted; measured in NVIDIA's overlap on 16 H100: 0.37
    (Megatron-Bridge, skills/nemo-mbridge-perf-moe-comm-overlap)."""
    launch_us: float = 1800.0
    "Time that the host costs a layer and micro-batch, forward and backward, without CUDA graphs. Fitted."
    launch_expert_us: float = 140.0
    "The same for each expert on the GPU: its casts, its products, its share of the synchronisation. Fitted."
    partial_graphs: float = 0.45
    "What graphs of attention and router alone leave of that time; graphs of the whole step leave nothing. Fitted."


EFFICIENCY = Efficiency()
