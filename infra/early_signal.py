"""SIGUSR1 from the first moment on: a job may be told to save before training is there to listen."""

import signal
from types import FrameType

_received: list[signal.Signals] = []


def remember() -> None:
    """Note the signal instead of dying of it; the loop leaves as soon as it begins."""
    signal.signal(signal.SIGUSR1, _note)


def received() -> signal.Signals | None:
    """The signal, if it came."""
    return _received[0] if _received else None


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number))
