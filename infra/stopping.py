"""Being told to stop: heard from the first moment on, and word left for whoever launched the process.

A stage that was told to stop has saved, and ends with status 0 on every rank: srun kills the others as soon as one
leaves with another. Word that it is not done is therefore a file, which a launcher names in R1_STOP_FILE.
"""

import os
import signal
from pathlib import Path
from types import FrameType

STOP_FILE = "R1_STOP_FILE"
"Environment variable: the file that says a stage was told to stop before it was done."
_received: list[signal.Signals] = []


def remember() -> None:
    """Note SIGUSR1 instead of dying of it before training is there to listen; the loop leaves as soon as it begins."""
    signal.signal(signal.SIGUSR1, _note)


def received() -> signal.Signals | None:
    """The signal, if it came."""
    return _received[0] if _received else None


def leave_word() -> None:
    """For rank 0 of a stage that leaves before it is done."""
    if os.environ.get(STOP_FILE):
        Path(os.environ[STOP_FILE]).touch()


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number))
