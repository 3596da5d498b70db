"""Seconds and memory of work on either device."""

import statistics
import time
from collections.abc import Callable

import torch


def wait() -> None:
    """Until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], *, repeat: int, warmup: int = 1) -> float:
    """Median time of a call, each waited for."""
    times = []
    for number in range(warmup + repeat):
        wait()
        start = time.perf_counter()
        work()
        wait()
        if number >= warmup:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def forget() -> None:
    """Free what is no longer used, and start the measure of memory anew."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """Most memory of the GPU since forget(); None without one."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
