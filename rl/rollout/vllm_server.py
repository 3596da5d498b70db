"""vLLM's server as a process of its own, in its own environment.

Nothing of vLLM is imported: its pins clash with ours.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from infra.errors import ConfigError, R1Error
from infra.http_client import direct
from modeling.config import ModelConfig

MODEL = "policy"
"Name under which a server that we start knows the weights, whatever their version."
_SHAPE_OF_KERNELS = (512, 64)
"kv_lora_rank and qk_rope_head_dim of DeepSeek's models, for which vLLM's latent attention kernels are made."

# A trainer that is killed must not leave a server behind on the GPUs: the kernel ends it then (Linux).
_DIE_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
# What torchrun and SLURM say to a rank would lead vLLM's own workers astray.
_RANK_VARIABLES = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK MASTER_ADDR MASTER_PORT PYTHONPATH".split()


def kernels_for(cfg: ModelConfig) -> dict[str, str]:
    """Environment of a server of this network: without the latent kernels where they do not fit its shape."""
    fits = (cfg.kv_lora_rank, cfg.qk_rope_head_dim) == _SHAPE_OF_KERNELS
    return {} if fits else {"VLLM_MLA_DISABLE": "1"}


class Server:
    """A server that we start on a folder of weights, may put to sleep, and end.

    Raises ConfigError where vLLM's environment is not there.
    """

    def __init__(
        self, folder: Path, log: Path, *, python: Path, arguments: list[str], devices: str, environment: dict[str, str]
    ) -> None:
        self.folder, self.log, self.arguments = folder, log, arguments
        self.program = python.parent / "vllm"
        if not self.program.exists():
            raise ConfigError("rl.rollout.vllm.python", python, f"there is no {self.program}", "run make vllm-env")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        own = {key: value for key, value in os.environ.items() if key not in _RANK_VARIABLES}
        own |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"} | environment
        self.environment = own | ({"CUDA_VISIBLE_DEVICES": devices} if devices else {})
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float) -> None:
        """Until it answers. Raises R1Error, with the last line of its log, where it ends or takes too long."""
        command = [self.program, "serve", self.folder, "--host", "127.0.0.1", "--port", self.port, *self.arguments]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_PARENT, *map(str, command)],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline, pause = time.monotonic() + timeout_s, 0.05
        while not self._healthy():
            status = self.process.poll()
            late = time.monotonic() > deadline
            if status is not None or late:
                self.stop()
                what = f"did not answer in {timeout_s:g} s" if status is None else f"ended with status {status}"
                last = _last_line(self.log)
                raise R1Error(f"vLLM {what}: {last}; the whole of it is in {self.log}")
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    @property
    def runs(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """End it and what it started."""
        if self.process is None:
            return
        for ask in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, ask)
                self.process.wait(timeout=30)
                break
            except ProcessLookupError:
                self.process.wait()
                break
            except subprocess.TimeoutExpired:
                continue
        self.process = None

    def _healthy(self) -> bool:
        try:
            with direct().open(f"{self.url}/health", timeout=5) as response:
                return response.status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["it said nothing"]
    return "".join(c if c.isprintable() else " " for c in lines[-1])[:200]
