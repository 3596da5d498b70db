"""`r1 serve`: who answers is chosen and made ready, then HTTP is listened to until the server is told to stop."""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from infra.errors import ConfigError
from infra.serve.app import Backend, build
from infra.serve.metrics import Metrics
from infra.serve.proxy import ProxyBackend
from infra.serve_config import LOCAL_HOSTS, UPSTREAM_KEY, ServeConfig, ServeEngine

if TYPE_CHECKING:
    from experiments.config import Config

SWITCH_S = 0.001
"How long a thread may keep Python's lock while another wants it: the engine must not wait for a chunk to be written."


def run(cfg: "Config") -> int:
    """Serve until SIGTERM or Ctrl-C; -> 0. Answers that run then have serve.stop_s seconds to end in.

    Raises ConfigError where others could reach us without a key, the port is taken, or there is no model.
    """
    serve, metrics = cfg.serve, Metrics()
    key = serve.check_key()
    listening = _listen(serve)
    with contextlib.ExitStack() as stack:
        stack.callback(listening.close)
        backend, name = _backend(cfg, metrics, stack)
        port = listening.getsockname()[1]
        url = f"http://{f'[{serve.host}]' if ':' in serve.host else serve.host}:{port}/v1"
        local = serve.host in LOCAL_HOSTS and not key
        app = build(backend, metrics, key=key, hosts=LOCAL_HOSTS if local else ())
        settings = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=max(1, round(serve.stop_s)) if serve.stop_s else 0,
            timeout_keep_alive=60,
            server_header=False,
        )
        sys.setswitchinterval(SWITCH_S)
        gc.collect()
        gc.freeze()  # what is loaded stays: no collection needs to walk it while answers wait
        _Server(settings, _greeting(url, name, bool(key))).run([listening])
    return 0


class _Server(uvicorn.Server):
    """Says when it answers. Stops when told to, and tells nobody else: uvicorn would raise the signal again once it has
    ended well."""

    def __init__(self, settings: uvicorn.Config, greeting: str) -> None:
        super().__init__(settings)
        self.greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.greeting, flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        wanted = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self.handle_exit) for number in wanted]
        try:
            yield
        finally:
            for number, handler in zip(wanted, before, strict=True):
                signal.signal(number, handler)


def _listen(serve: ServeConfig) -> socket.socket:
    """The socket, before minutes go into loading a model."""
    family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((serve.host, serve.port))
    except OSError as error:
        listening.close()
        problem = f"cannot be listened to at {serve.host} ({error.strerror or error})"
        raise ConfigError("serve.port", serve.port, problem, "choose another, as serve.port=8001") from None
    return listening


def _backend(cfg: "Config", metrics: Metrics, stack: contextlib.ExitStack) -> tuple[Backend, str]:
    """-> who answers, and the model's name."""
    if cfg.serve.upstream:
        return ProxyBackend(cfg.serve.upstream, metrics, key=os.environ.get(UPSTREAM_KEY, "")), cfg.serve.name
    if cfg.serve.engine is ServeEngine.vllm:
        from infra.serve.vllm import start

        return start(cfg, metrics, stack)
    return _local(cfg, metrics)


def _local(cfg: "Config", metrics: Metrics) -> tuple[Backend, str]:
    import dataclasses

    from experiments.chat import model_folder
    from experiments.stages import load_model
    from infra.serve.engine import Engine
    from infra.serve.local import LocalBackend
    from infra.serve.prompts import Prompts, template_for
    from modeling.speculate import generator_for

    folder = model_folder(cfg.serve.checkpoint)
    model, model_cfg, tokenizer = load_model(cfg, folder)
    sampling = dataclasses.replace(cfg.sampling, speculative=cfg.serve.speculative)
    engine = Engine(
        generator_for(model, model_cfg, sampling),
        tokenizer,
        max_rows=cfg.serve.max_rows,
        max_queue=cfg.serve.max_queue,
        flush_s=cfg.serve.flush_ms / 1000,
    )
    name = cfg.serve.name or name_of(folder)
    prompts = Prompts(template_for(cfg.task.template, tokenizer), tokenizer)
    return LocalBackend(engine, prompts, metrics, name=name, max_n=cfg.serve.max_n), name


def name_of(folder: Path) -> str:
    """What a model is called by its folder: that of its run, where it lies in one."""
    path = folder.resolve()
    while path.name in ("model", "checkpoints") or path.name.startswith("step_"):
        path = path.parent
    return path.name


def _greeting(url: str, name: str, needs_key: bool) -> str:
    """One line: the address, and how to ask."""
    body = json.dumps(
        {"model": name or "...", "messages": [{"role": "user", "content": "Make 19 from 3, 5, 8."}], "stream": True}
    )
    auth = "-H 'Authorization: Bearer '$R1_API_KEY " if needs_key else ""
    return f"serving at {url}   curl -N {url}/chat/completions {auth}-H 'Content-Type: application/json' -d '{body}'"
