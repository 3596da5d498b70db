"""Jobs on this machine, one after the other in the foreground.

Their ranks are those of infra/ranks.py and not torchrun's, which NeMo-Run's LocalExecutor would start: torchrun dies of
SIGUSR1 and leaves its ranks behind, ends every orderly stop with a traceback, and shows rank 0's terminal to nobody.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from infra.launch.chain import Job
from infra.progress import say
from infra.stopping import STOP_FILE

_PROJECT = Path(__file__).resolve().parents[2]


def run(jobs: Sequence[Job], seeds: Sequence[int]) -> int:
    """Each job in turn, for each seed; -> exit status: of the first that failed, 0 where one was told to stop."""
    commands = [job.command(seed) for seed in seeds for job in jobs]
    with tempfile.TemporaryDirectory() as folder:
        word = Path(folder) / "stopped"
        for number, command in enumerate(commands, start=1):
            if len(commands) > 1:
                say(f"{number}/{len(commands)}: r1 {command[0]}")
            code = _run(command, word)
            if code or word.exists():
                return code if code >= 0 else 128 - code
    return 0


def _run(command: list[str], word: Path) -> int:
    """One stage in this terminal; a signal that asks it to stop is handed on. -> its exit status."""
    path = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))
    env = os.environ | {STOP_FILE: str(word), "PYTHONPATH": path}
    process = subprocess.Popen([sys.executable, "-P", "-m", "infra.cli", *command], env=env)
    handlers = dict.fromkeys((signal.SIGTERM, signal.SIGUSR1), lambda number, frame: process.send_signal(number))
    handlers[signal.SIGINT] = lambda number, frame: None  # Ctrl-C reaches the stage by the terminal, as it reaches us
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
