"""Real gloo ranks inside pytest: run(function, ranks=2) calls it in as many processes and returns what each gave.

A fork server imports torch and Megatron once (seconds); each rank is then a fork of it, there in milliseconds.
"""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from infra.ranks import free_port

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["training.state", "training.checkpoint"])


def run(function: Callable[..., Any], *args: Any, ranks: int = 2, timeout_s: float = 120.0) -> list[Any]:
    """function(*args) on each rank, with RANK, WORLD_SIZE and so on set; -> results in the order of ranks.

    The function has to be importable (at a module's top level), and arguments and results picklable. Raises
    RuntimeError with the traceback of the first rank that failed, or that took longer than timeout_s.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    port = free_port()
    workers, pipes = [], []
    for rank in range(ranks):
        ours, theirs = _context.Pipe()
        worker = _context.Process(target=_work, args=(theirs, rank, ranks, port, function, args))
        worker.start()
        theirs.close()
        workers.append(worker)
        pipes.append(ours)
    try:
        return _results(pipes, timeout_s)
    finally:
        for worker in workers:
            worker.join(timeout=0.2)
            worker.kill()


def _results(pipes: list[Connection], timeout_s: float) -> list[Any]:
    results: dict[int, Any] = {}
    deadline = time.monotonic() + timeout_s
    while len(results) < len(pipes):
        waiting = {pipe: rank for rank, pipe in enumerate(pipes) if rank not in results}
        ready = multiprocessing.connection.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"ranks {sorted(waiting.values())} gave no answer in {timeout_s} s")
        for pipe in ready:
            rank = waiting[pipe]
            try:
                failure, results[rank] = pickle.loads(pipe.recv_bytes())
            except EOFError:
                raise RuntimeError(f"rank {rank} died") from None
            if failure is not None:
                raise RuntimeError(f"rank {rank}:\n{failure}")
    return [results[rank] for rank in range(len(pipes))]


def _work(
    pipe: Connection, rank: int, ranks: int, port: int, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import torch

    torch.set_num_threads(1)
    try:
        answer = (None, function(*args))
    except BaseException:  # the parent shows it, whatever it is
        answer = (traceback.format_exc(), None)
    pipe.send_bytes(pickle.dumps(answer))  # by value: pipe.send would share tensors by handles that die with us
    pipe.close()
    os._exit(0)  # process groups of a failed test would wait for each other
