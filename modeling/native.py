"""Compiles native.c with the machine's C compiler and binds it; without a compiler kernels.py goes on in torch.

The library is kept in the user's cache folder under a name that follows from source, flags and processor.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SOURCE = Path(__file__).with_name("native.c")
# The single steps of -ffast-math that vectorise sums; not finite-math-only, since training looks for NaN.
_FLAGS = (
    "-O3 -march=native -ffp-contract=fast -fno-math-errno -fno-trapping-math -fassociative-math -fno-signed-zeros "
    "-freciprocal-math -shared -fPIC"
).split()
# i: integer, f: float, p: tensor or none.
_SIGNATURES = {
    "rms_norm": "iiifpppp",
    "rms_norm_backward": "iiippppppp",
    "swiglu": "iippp",
    "swiglu_backward": "iipppppp",
    "rope_q": "iiiipppiip",
    "rope_kv": "iiiiiippippipp",
    "rope_kv_backward": "iiiiiippppipp",
    "cross_entropy": "iipppp",
    "cross_entropy_backward": "iippppp",
    "route": "iiiifppppp",
    "route_backward": "iiifpppp",
    "attention": "iiiifppppp",
    "attention_backward": "iiiifpppppppp",
}
_TYPES = {"i": ctypes.c_longlong, "f": ctypes.c_float, "p": ctypes.c_void_p}


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can take these: FP32 on CPU, and torch on one thread, as the kernels are."""
    ours = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    return ours and torch.get_num_threads() == 1 and library() is not None


def call(name: str, *args: Any) -> None:
    """Run one kernel; tensors are passed by address and have to be contiguous where the kernel says nothing else."""
    getattr(library(), name)(*(a.data_ptr() if isinstance(a, Tensor) else a for a in args))


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there is no C compiler, or it fails (reason() says why)."""
    path = _path()
    if path is None or (not path.exists() and _compile(path)):
        return None
    lib = ctypes.CDLL(str(path))
    for name, signature in _SIGNATURES.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = [_TYPES[c] for c in signature], None
    return lib


def reason() -> str:
    """Why library() is None, in a line; empty where it is there."""
    if library() is not None:
        return ""
    path = _path()
    return "no C compiler (cc, gcc or clang) on the PATH" if path is None else _compile(path)


def _compiler() -> str | None:
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def _path() -> Path | None:
    """Where the library of this source, compiler and processor lies; None without a compiler."""
    compiler = _compiler()
    if compiler is None:
        return None
    parts = (_SOURCE.read_bytes(), *_FLAGS, compiler, _processor())
    key = hashlib.sha256(b"\0".join(p if isinstance(p, bytes) else p.encode() for p in parts)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r1lab"
    return cache / f"kernels-{key}.so"


def _processor() -> str:
    """Model and features: a library built for one node of a cluster may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _compile(path: Path) -> str:
    """Build the library at path, whole or not at all, as several ranks may; -> what went wrong, or nothing."""
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".so", dir=path.parent)
        os.close(handle)
        command = [_compiler() or "cc", *_FLAGS, str(_SOURCE), "-o", name, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            return f"{command[0]} failed: {done.stderr.strip()[:300]}"
        os.replace(name, path)
        return ""
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        if name:
            Path(name).unlink(missing_ok=True)
