"""SIGTERM and SIGUSR1 (SLURM's warning) outside the training loop, which has handlers of its own (training/loop.py)."""

import signal
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(BaseException):
    """The process was told to stop where nothing is left to save; no `except Exception` takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def raise_on_signals() -> None:
    """From now on such a signal raises Stopped in the main thread; a second one ends the process the hard way."""
    for number in _SIGNALS:
        signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)
