"""One process per run folder. The kernel lets go of the lock when its process dies, however it dies."""

import os
from pathlib import Path
from types import TracebackType

from infra.errors import RunLocked
from infra.files import lock


class RunLock:
    """Holds run_dir/lock while the context lasts; RunLocked when another process does. Rank 0 takes it for all."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.path = run_dir / "lock"

    def __enter__(self) -> "RunLock":
        file = lock(self.path, wait=False)
        if file is None:
            pid = self.path.read_text().strip() or "unknown"
            raise RunLocked(
                f"run.dir={self.run_dir}: process {pid} works here; choose another run.dir or wait for its end"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.truncate(0)
        self._file.close()
