"""The settings of `r1 serve`."""

import os
from dataclasses import dataclass
from enum import Enum

from infra.errors import ConfigError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
API_KEY, UPSTREAM_KEY = "R1_API_KEY", "R1_UPSTREAM_KEY"
"Environment variables: the key that clients have to give, and ours for the upstream server. Never on a command line."


class ServeEngine(Enum):
    """Who writes the answers."""

    local = "local"
    vllm = "vllm"


@dataclass(kw_only=True, slots=True)
class ServeConfig:
    """An OpenAI-compatible server: /v1/chat/completions, /v1/completions, /v1/models, /health, /metrics."""

    checkpoint: str = ""
    "A run, a checkpoint or a Hugging Face folder; empty: the newest run's model, else the released base."
    name: str = ""
    "What clients call the model; empty: the name of its folder."
    host: str = "127.0.0.1"
    "Address to listen at. Beyond this machine clients need a key: set it in the environment as R1_API_KEY."
    port: int = 8000
    "Port to listen at; 0 takes a free one."
    engine: ServeEngine = ServeEngine.local
    "local (ours, in process) or vllm (vLLM's own server, which is started behind this one on a machine with a GPU)."
    upstream: str = ""
    "Address of a compatible server that answers instead, as http://10.0.0.1:8000/v1; its key is R1_UPSTREAM_KEY."
    speculative: bool = False
    "Let the MTP module draft (sampling.speculative): pays for few clients on a GPU."
    max_rows: int = 64
    "Answers written at the same time."
    max_queue: int = 256
    "Answers that may wait for a place; more are refused with status 429."
    max_n: int = 16
    "Most answers to one request (n)."
    flush_ms: int = 100
    "Milliseconds between two chunks of a stream: each carries all tokens since the last."
    stop_s: float = 30.0
    "Seconds that running answers have to end in when the server is told to stop (SIGTERM, Ctrl-C)."

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError("serve.port", self.port, "is no port", "set it from 0 to 65535")
        for key in ("max_rows", "max_queue", "max_n", "flush_ms"):
            if getattr(self, key) < 1:
                raise ConfigError(f"serve.{key}", getattr(self, key), "has to be positive", "set at least 1")
        if self.stop_s < 0:
            raise ConfigError("serve.stop_s", self.stop_s, "cannot be negative", "set 0 to cut answers at once")
        if self.upstream and not self.upstream.startswith(("http://", "https://")):
            raise ConfigError("serve.upstream", self.upstream, "is no address", "set it as in http://10.0.0.1:8000/v1")
        if self.upstream and self.engine is ServeEngine.vllm:
            raise ConfigError("serve.upstream", self.upstream, "serve.engine=vllm answers already", "leave one out")
        if self.speculative and (self.upstream or self.engine is ServeEngine.vllm):
            raise ConfigError("serve.speculative", "true", "is the local engine's", "leave it out")

    def check_key(self) -> str:
        """The key that clients need, empty for none. Raises ConfigError where strangers could reach us without one."""
        key = os.environ.get(API_KEY, "")
        if not key and self.host not in LOCAL_HOSTS:
            raise ConfigError("serve.host", self.host, "others can reach it, and there is no key", f"set {API_KEY}")
        return key
