"""Being told to stop by SIGTERM, or by SIGUSR1 (SLURM's warning), where training does not listen (training/loop.py).
Word is left for whoever launched the process.

A rank that SLURM started remembers the signal until all ranks meet in the loop. Elsewhere one process speaks for all,
and leaves at once. A stage that was told to stop ends with status 0 on every rank: srun kills the others as soon as one
leaves with another. Word that it is not done is therefore a file, which a launcher names in R1_STOP_FILE.
"""

import os
import signal
from pathlib import Path
from types import FrameType

STOP_FILE = "R1_STOP_FILE"
"Environment variable: the file that says a stage was told to stop before it was done."
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_received: list[signal.Signals] = []


class Stopped(BaseException):
    """The process was told to stop where nothing is left to save; no `except Exception` takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def raise_on_signals() -> None:
    """From now on such a signal raises Stopped in the main thread; a second one ends the process the hard way."""
    for number in _SIGNALS:
        signal.signal(number, _raise)


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


def _raise(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)
