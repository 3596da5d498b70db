"""`make gpu-check` on a machine with little installed: what is missing is taken from wheels that lie beside.

Usage: python3 scripts/gpu_check.py [wheels=FOLDER] [device=cuda] [size=1b] [name=...]. A wheel is unpacked, not
installed: into a folder that is gone afterwards.
"""

import importlib.util
import runpy
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "numpy", "psutil", "tokenizers", "safetensors", "tqdm", "megatron.core")


def main(given: list[str]) -> None:
    if sys.version_info[:2] < (3, 12):  # noqa: UP036  -- what runs this need not be our environment
        sys.exit(f"gpu-check: needs Python 3.12, this is {sys.version.split()[0]}: make gpu-check PYTHON=python3.12")
    named = [item.partition("=")[2] for item in given if item.startswith("wheels=")]
    folders = named or [ROOT / "wheels", ROOT, ROOT.parent]
    with tempfile.TemporaryDirectory(prefix="gpu_check") as site:
        for wheel in sorted(wheel for folder in folders for wheel in Path(folder).glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(site)
        sys.path[:0] = [str(ROOT), site]
        missing = [name for name in NEEDED if not _there(name)]
        if missing:
            names = ", ".join(missing).replace("megatron.core", "megatron-core")
            sys.exit(
                f"gpu-check: {names} not installed: pip install them, or put their wheels into {ROOT / 'wheels'} "
                "(pip download --no-deps), or say wheels=FOLDER"
            )
        sys.argv = ["gpu_check", *(item for item in given if not item.startswith("wheels="))]
        runpy.run_module("experiments.gpu_check", run_name="__main__")


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
