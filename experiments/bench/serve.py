"""Serving the tiny base to 64 concurrent streaming clients: tokens a second against our own batch sampler (serve), and
against `transformers serve` (serve_peer), with the same weights, in turn.

Every answer has as many tokens, sampled at temperature 1; no side may stop early. Server, sampler, peer and clients are
processes of their own on the same cores, so that what clients cost counts against the server alone.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.bench.result import Result, Worker
from experiments.chat import RELEASED_BASE
from infra.errors import R1Error
from infra.progress import say

CLIENTS, ROUNDS, NEW = 64, 5, 256
PEER_ROUNDS, PEER_NEW = 3, 32
"transformers answers one request at a time where its continuous batching does not work: minutes for more."
START_S, ROUND_S = 300.0, 900.0


@dataclass(slots=True)
class Load:
    """What the clients of one round saw."""

    tokens_per_s: float
    first_token_s: list[float]

    def quantile(self, share: float) -> float:
        """Of the times to the first token."""
        ordered = sorted(self.first_token_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def prompts() -> list[str]:
    """One for each client."""
    return [f"User: Make {10 + i} from 3, 5, 8.\nAssistant:" for i in range(CLIENTS)]


def load(port: int, model: str, new: int, extra: dict[str, object], clients: int = CLIENTS) -> Load:
    """All clients at once, each with one question. Raises R1Error where one does not get all its tokens."""
    bodies = [
        {"model": model, "prompt": prompt, "max_tokens": new, "temperature": 1.0, "stream": True} | extra
        for prompt in prompts()[:clients]
    ]

    async def all_at_once() -> tuple[float, list[tuple[float, int]]]:
        start = time.perf_counter()
        seen = await asyncio.wait_for(asyncio.gather(*(_client(port, body) for body in bodies)), ROUND_S)
        return time.perf_counter() - start, seen

    seconds, seen = asyncio.run(all_at_once())
    if any(tokens != new for _, tokens in seen):
        raise R1Error(f"bench: a client got {min(tokens for _, tokens in seen)} of {new} tokens")
    return Load(clients * new / seconds, [first for first, _ in seen])


async def _client(port: int, body: dict[str, object]) -> tuple[float, int]:
    """-> seconds to the first token, and tokens as the server counts them. As lean as can be: clients are the load."""
    data = json.dumps(body).encode()
    start, first, tail = time.perf_counter(), 0.0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    while part := await reader.read(1 << 16):
        if not first and b"data:" in part:
            first = time.perf_counter() - start
        tail = (tail + part)[-2000:]
    writer.close()
    counts = re.findall(rb'"completion_tokens": ?(\d+)', tail)
    if not counts:
        raise R1Error(f"bench: a client's stream ended with {tail[-200:]!r}")
    return first, int(counts[-1])


@contextlib.contextmanager
def _process(command: list[str], port: int, log: Path) -> Iterator[None]:
    """A server, ready to answer."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise R1Error(f"bench: {' '.join(command[:4])} does not answer: {last}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _ours(folder: Path) -> Iterator[int]:
    """Our server -> its port."""
    port = _free_port()
    settings = [f"checkpoint={RELEASED_BASE}", f"port={port}", "name=base", f"max_rows={CLIENTS}", f"run.dir={folder}"]
    with _process([sys.executable, "-m", "infra.cli", "serve", *settings], port, folder / "ours.log"):
        yield port


def ours_load(port: int, new: int) -> Load:
    """One round with our server."""
    return load(port, "base", new, {"ignore_eos": True, "stream_options": {"include_usage": True}})


def run() -> Result:
    """Our server against the batch sampler."""
    offline = Worker("experiments.bench.serve", ranks=[dict(os.environ)])
    with tempfile.TemporaryDirectory() as folder, offline, _ours(Path(folder)) as port:
        rounds = []
        for number in range(ROUNDS + 1):
            pair = ours_load(port, NEW), offline.measure()["tokens_per_s"]
            if number:  # the first warms up
                rounds.append(pair)
    told, batch = zip(*rounds, strict=True)
    return Result.of(
        "serve", "tokens/s", [one.tokens_per_s for one in told], list(batch), "batch sampler", new=NEW, **_first(told)
    )


def run_peer() -> Result:
    """Our server against transformers' with continuous batching, or without it where that does not work."""
    problems = []
    with tempfile.TemporaryDirectory() as name, _ours(Path(name)) as port:
        folder = Path(name)
        model = _export(folder / "model")
        for mode in ("--continuous-batching", ""):
            peer_port = _free_port()
            command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
            command += ["--host", "127.0.0.1", "--port", str(peer_port), *([mode] if mode else [])]
            try:
                with _process(command, peer_port, folder / "peer.log"):
                    load(peer_port, str(model), PEER_NEW, {}, clients=2)
                    ours_load(port, PEER_NEW)
                    rounds = [
                        (ours_load(port, PEER_NEW), load(peer_port, str(model), PEER_NEW, {}))
                        for _ in range(PEER_ROUNDS)
                    ]
                break
            except (R1Error, TimeoutError, OSError) as error:
                problems.append(f"{mode or 'plain'}: {type(error).__name__}: {error}"[:300])
                say(problems[-1])
        else:
            raise R1Error(f"bench: transformers serve answers in no mode: {problems}")
    ours, peer = zip(*rounds, strict=True)
    return Result.of(
        "serve_peer",
        "tokens/s",
        *([one.tokens_per_s for one in side] for side in (ours, peer)),
        f"transformers serve {mode}".strip(),
        new=PEER_NEW,
        problems=problems,
        peer_first_token=_first(peer),
        **_first(ours),
    )


def _first(loads: tuple[Load, ...]) -> dict[str, float]:
    """Time to the first token, the median of the rounds'."""
    quantiles = {"p50": 0.5, "p95": 0.95}
    return {"clients": CLIENTS} | {
        f"first_token_{name}_s": statistics.median(one.quantile(share) for one in loads)
        for name, share in quantiles.items()
    }


def _export(folder: Path) -> Path:
    """The released base with what transformers needs to sample from it without end."""
    from modeling.hf_link import lay_out
    from modeling.tokenizer import Tokenizer

    lay_out(RELEASED_BASE, folder, Tokenizer.load(RELEASED_BASE))
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def _offline() -> None:
    """The worker: the batch sampler on the same prompts, a figure for each line of stdin."""
    from experiments.config import compose
    from experiments.stages import load_model
    from modeling.generate import Generator
    from modeling.sampling import SamplingConfig

    model, cfg, tokenizer = load_model(compose("generate"), RELEASED_BASE)
    generator, sampling = Generator(model, cfg), SamplingConfig(max_response_tokens=NEW)
    ids = tokenizer.encode_batch(prompts())
    for _ in sys.stdin:
        start = time.perf_counter()
        answers = generator.generate(ids, sampling, seeds=list(range(CLIENTS)), stop_ids=set(), max_rows=CLIENTS)
        seconds = time.perf_counter() - start
        print(json.dumps({"tokens_per_s": sum(len(a.tokens) for a in answers) / seconds}), flush=True)


if __name__ == "__main__":
    _offline()
