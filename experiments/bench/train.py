"""Training tokens a second at `tiny`, against transformers' DeepseekV3ForCausalLM of the same shape, data, precision
(FP32), loss (no MTP) and optimiser (AdamW), each in its fastest setting on this machine's cores.

Ours: one data-parallel rank a core. Peer: one process with all cores as threads, and two processes of half the threads
each under torch's DDP; with each of its implementations of experts, and with glibc's allocator as it is and as we set
it (modeling/cpu.py); the fastest of these counts.
"""

import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable

from experiments.bench.result import Result, Worker

ROUNDS, STEPS = 7, 10
ROWS, TOKENS, VOCAB = 64, 64, 576
"A step is ROWS rows of TOKENS tokens: 4,096 tokens, near the corpus' mean length."
IMPLEMENTATIONS = ("eager", "grouped_mm")
ALLOCATORS = {
    "": {},
    ", freed memory kept": {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)},
}


def run() -> Result:
    """Time both sides in turn, after finding the peer's fastest setting."""
    cores = len(os.sched_getaffinity(0))
    settings = {
        f"{name}, {ranks} x {cores // ranks} threads{kept}": (
            name,
            environments(ranks, cores // ranks, ALLOCATORS[kept]),
        )
        for name, ranks, kept in itertools.product(IMPLEMENTATIONS, (1, 2), ALLOCATORS)
        if ranks <= cores
    }
    found = {}
    for label, (name, ranks) in settings.items():
        with Worker("experiments.bench.train", "peer", name, ranks=ranks) as peer:
            found[label] = max(peer.measure()["tokens_per_s"] for _ in range(2))
    best = max(found, key=found.__getitem__)
    name, ranks = settings[best]
    ours, theirs = [], []
    with (
        Worker("experiments.bench.train", "ours", ranks=environments(cores, 1)) as us,
        Worker("experiments.bench.train", "peer", name, ranks=ranks) as them,
    ):
        for worker in (us, them):
            worker.measure()  # warm-up
        for _ in range(ROUNDS):
            ours.append(us.measure()["tokens_per_s"])
            theirs.append(them.measure()["tokens_per_s"])
    peer_name = f"transformers DeepseekV3ForCausalLM ({best})"
    return Result.of("train_tokens", "tokens/s", ours, theirs, peer_name, peer_settings=found, ours_ranks=cores)


def environments(count: int, threads: int, extra: dict[str, str] | None = None) -> list[dict[str, str]]:
    """Environments of `count` processes that find each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo",
        "TRANSFORMERS_VERBOSITY": "error",
        **(extra or {}),
    }
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _our_step() -> Callable[[], None]:
    import torch

    from modeling.config import ModelConfig
    from training import parallel
    from training.config import OptimizerConfig, ParallelConfig
    from training.losses import next_token_loss
    from training.schedules import Now
    from training.state import build_state
    from training.step import MicroBatch, train_step

    layout = ParallelConfig()
    parallel.init(layout, 0)
    state = build_state(ModelConfig.preset("tiny").for_vocab(VOCAB), OptimizerConfig(), layout, stage="bench")
    ids = torch.randint(0, VOCAB, (ROWS, TOKENS + 1), generator=torch.Generator().manual_seed(0))
    mine = ids[parallel.data_rank() :: parallel.data_size()]
    weights = torch.full((len(mine), TOKENS), 1 / (ROWS * TOKENS))
    batch = MicroBatch(tokens=mine[:, :-1], labels=mine[:, 1:], loss_weights=weights)
    now = Now(lr_scale=0.1, mtp_lambda=0.0, bias_speed=1e-3)
    return lambda: train_step(state, [batch], next_token_loss, now)


def _peer_step(implementation: str) -> Callable[[], None]:
    import torch
    import torch.distributed as dist
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    from modeling.config import ModelConfig

    shape = ModelConfig.preset("tiny").for_vocab(VOCAB).to_hf_dict()
    config = DeepseekV3Config(
        **shape, attn_implementation="sdpa", experts_implementation=implementation, use_cache=False
    )
    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(config).float().train()
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    wrapped = model
    if world > 1:
        dist.init_process_group("gloo")
        wrapped = torch.nn.parallel.DistributedDataParallel(model, static_graph=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(0, VOCAB, (ROWS, TOKENS + 1), generator=torch.Generator().manual_seed(0))[rank::world]

    def step() -> None:
        optimizer.zero_grad()
        logits = wrapped(input_ids=ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _work(side: str, implementation: str) -> None:
    """A rank: warm up, then time STEPS steps at each line of stdin."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    step = _our_step() if side == "ours" else _peer_step(implementation)
    step()
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        seconds = time.perf_counter() - start
        print(json.dumps({"tokens_per_s": STEPS * ROWS * TOKENS / seconds}), flush=True)


if __name__ == "__main__":
    _work(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "")
