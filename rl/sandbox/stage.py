"""Started as root before bubblewrap: shows nobody the interpreter (it may lie in root's home), becomes nobody, goes on.

python -I -S stage.py PREFIX COMMAND...: in a mount namespace of its own, /mnt becomes PREFIX; then COMMAND runs as
nobody, without root's groups. Root itself would not do: limits on processes do not hold for it.
"""

import ctypes
import os
import sys

CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x00020000, 0x1000, 0x4000, 0x40000
NOBODY = 65534


def main(prefix: str, command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for name, *args in (
        ("unshare", CLONE_NEWNS),
        ("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None),
        ("mount", prefix.encode(), b"/mnt", None, MS_BIND | MS_REC, None),
    ):
        if getattr(libc, name)(*args) == -1:
            sys.exit(f"{name}: {os.strerror(ctypes.get_errno())}")
    os.chdir("/")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
