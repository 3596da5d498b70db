"""One progress line per phase, with rate and time left: a bar on a terminal, now and then a plain line elsewhere."""

import os
import sys
import time
from types import TracebackType

from tqdm import tqdm

_PLAIN_EVERY_S = 10.0


def say(message: str) -> None:
    """One line on stderr, above the bar if there is one; for rank 0 to call."""
    tqdm.write(message, file=sys.stderr)


def compact(value: float) -> str:
    """Three significant digits: 0.123, 1.23, 123, 1.23k, 12.3M, 1.2e-05.

    >>> compact(1234.5), compact(0.000012), compact(float("nan"))
    ('1.23k', '1.2e-05', 'nan')
    """
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size * 0.9995 <= abs(value) < size * 1e3:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


class Progress:
    """Progress of a phase of `total` units; a context manager. Silent on every rank but 0, and when nothing is to do.

    total: what is left to do now (a resumed phase gives the rest). unit: "step", "tok", ...
    """

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._silent = os.environ.get("RANK", "0") != "0" or total <= 0
        self._shown = ""
        self._bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        self._start = self._printed = time.monotonic()
        if not self._silent and sys.stderr.isatty():
            self._bar = tqdm(
                total=self.total,
                desc=self.name,
                unit=f" {self.unit}",
                unit_scale=self.total >= 10_000,
                file=sys.stderr,
                dynamic_ncols=True,
                mininterval=0.5,
                miniters=1,
            )
        return self

    def advance(self, n: int, **shown: float) -> None:
        """n more units are done; shown: the newest values to show, by name."""
        n = min(n, self.total - self.done)  # the last step of a phase in tokens goes a little over
        self.done += n
        if self._silent:
            return
        self._shown = ", ".join(f"{key} {compact(value)}" for key, value in shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._shown, refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._printed >= _PLAIN_EVERY_S:
            self._print()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif not self._silent:
            self._print()

    def _print(self) -> None:
        self._printed = time.monotonic()
        seconds = self._printed - self._start
        rate = self.done / seconds if seconds > 0 else 0.0
        if self.done >= self.total or rate == 0:
            when = f"{tqdm.format_interval(seconds)} passed"
        else:
            when = f"{tqdm.format_interval((self.total - self.done) / rate)} left"
        share = f"{self.name}: {self.done}/{self.total} {self.unit} ({100 * self.done // self.total} %)"
        speed = f"{compact(rate)} {self.unit}/s"
        print(", ".join(part for part in (share, speed, when, self._shown) if part), file=sys.stderr, flush=True)
