"""The process that sends a run's metrics.jsonl to MLflow: `python -m infra.mlflow_sender RUN_DIR URI [PARENT_PID]`.

It reads what is new, sends it in batches, and writes its position to mlflow.json after each. A batch that is sent
twice (killed between the two) stays one in MLflow, as points with equal step, time and value are one. When the
trainer ends the run in run.json, or is gone, it sends the rest, sets the status and ends. PARENT_PID 0 (r1 sync):
send all and end. Exit status: 0 all sent, 3 MLflow could not be reached, 4 another sender is at work.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO, Any

from infra.files import lock, read_json, write_json, write_text
from infra.tracking import SENDER_BUSY, shown

_POLL_S = 1.0
_IDLE_PER_BUSY = 20
"Seconds of rest for each second of CPU time while the run lasts, so that sending takes 5 % of one core at most."
_MAX_REST_S, _MAX_BACKOFF_S = 30.0, 60.0
_BATCH = 1000
"Metrics in a request at most, MLflow's limit."
_ENDED = ("FINISHED", "KILLED", "FAILED")


class Sender:
    """Where a run folder's lines stand in MLflow, and the way to go on."""

    def __init__(self, run_dir: Path, uri: str, parent: int) -> None:
        self.run_dir, self.uri, self.parent = run_dir, uri, parent
        self.position: dict[str, Any] = {}
        self._mlflow = None
        self._lines: IO[bytes] | None = None

    def ended(self) -> str | None:
        """The status the run ended with; None while its process lives."""
        status = read_json(self.run_dir / "run.json")["status"]
        if status in _ENDED:
            return status
        if self.parent == 0:
            free = lock(self.run_dir / "lock", wait=False)  # RunLock's, which the kernel takes from the dead
            if free is not None:
                free.close()
            return None if free is None else "FAILED"
        return "FAILED" if os.getppid() != self.parent else None

    def work(self) -> int:
        """Send until the run has ended and all is sent; -> exit status."""
        from infra.mlflow_run import PROBLEMS  # after nice(): MLflow takes seconds to import

        backoff, tries_left = 1.0, 2
        while True:
            end = self.ended()
            last = end is not None or self.parent == 0
            try:
                if self._lines is None:
                    self._connect()
                start = time.process_time()
                more = self.send_metrics()
                if not more:
                    if end and self.position["status"] != end:
                        self._mlflow.end(end, _last_change(self.run_dir))
                        self._keep(status=end)
                    self.send_artifacts()
            except PROBLEMS as error:
                self._tell(error)
                tries_left -= last
                if tries_left == 0:
                    return 3
                self._rest(backoff, end)
                backoff = min(2 * backoff, _MAX_BACKOFF_S)
                continue
            (self.run_dir / "mlflow_problem.txt").unlink(missing_ok=True)
            backoff = 1.0
            if last and not more:
                return 0
            if not last:
                busy = time.process_time() - start
                self._rest(min(max(_POLL_S, _IDLE_PER_BUSY * busy), _MAX_REST_S), end)

    def send_metrics(self) -> bool:
        """Send one batch of new lines, whole lines only; -> whether there may be more."""
        from infra.mlflow_run import points

        metrics, count, start = [], 0, self._lines.tell()
        while len(metrics) < _BATCH and (line := self._lines.readline()):
            if not line.endswith(b"\n"):  # being written just now
                self._lines.seek(-len(line), os.SEEK_CUR)
                break
            count += 1
            metrics += points(line)
        try:
            for first in range(0, len(metrics), _BATCH):
                self._mlflow.log(metrics[first : first + _BATCH])
        except BaseException:
            self._lines.seek(start)
            raise
        if count:
            self._keep(line=self.position["line"] + count)
        return len(metrics) >= _BATCH

    def send_artifacts(self) -> None:
        """Copy the files named in artifacts.jsonl since last time; one that is gone is left out."""
        try:
            lines = (self.run_dir / "artifacts.jsonl").read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        for line in lines[self.position["artifacts_line"] :]:
            if not line.endswith(b"\n"):
                return
            path = self.run_dir / json.loads(line)["path"]
            if path.exists():
                self._mlflow.artifact(path)
            else:
                print(f"artifact {path} is gone", flush=True)
            self._keep(artifacts_line=self.position["artifacts_line"] + 1)

    def _connect(self) -> None:
        from infra.mlflow_run import MlflowRun

        run = read_json(self.run_dir / "run.json")
        mlflow = MlflowRun(self.uri, run, self.run_dir, running=self.ended() is None)
        kept = read_json(self.run_dir / "mlflow.json")
        if (kept.get("uri"), kept.get("run_id")) != (self.uri, mlflow.run_id):
            kept = {"uri": self.uri, "run_id": mlflow.run_id, "line": 0, "artifacts_line": 0}
        self.position = kept
        self._keep(status="RUNNING")
        lines = (self.run_dir / "metrics.jsonl").open("rb")
        for _ in range(kept["line"]):
            lines.readline()
        self._mlflow, self._lines = mlflow, lines

    def _keep(self, **changed: Any) -> None:
        self.position |= changed
        write_json(self.run_dir / "mlflow.json", self.position)

    def _tell(self, error: Exception) -> None:
        why = shown((str(error).strip() or type(error).__name__).splitlines()[0])
        print(shown(f"{type(error).__name__}: {error}"), flush=True)
        short = why if len(why) <= 160 else why[:160] + "..."
        write_text(self.run_dir / "mlflow_problem.txt", f"cannot be reached ({short})\n")

    def _rest(self, seconds: float, end: str | None) -> None:
        """Rest, but not beyond a change of the run's state."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.ended() == end:
            time.sleep(0.2)


def _last_change(run_dir: Path) -> float:
    """When the run gave its last sign of life, in seconds."""
    return max((run_dir / name).stat().st_mtime for name in ("metrics.jsonl", "run.json"))


def main(run_dir: Path, uri: str, parent: int) -> int:
    """Send with low priority; the signals that stop a trainer do not stop the sender, which ends after it."""
    os.nice(10)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    held = lock(run_dir / "mlflow.lock", wait=parent != 0)  # a dead trainer's sender may still be at work
    if held is None:
        return SENDER_BUSY
    with held:
        held.truncate(0)
        held.write(str(os.getpid()))
        held.flush()
        return Sender(run_dir, uri, parent).work()


if __name__ == "__main__":
    folder, tracking_uri, *rest = sys.argv[1:]
    sys.exit(main(Path(folder), tracking_uri, int(rest[0]) if rest else 0))
