"""A process that compares answers with math-verify: a JSON line [gold, answer] in, a line true, false or null out.

The work is done in a child that the kernel ends, by an alarm without a handler, where an expression runs on: no power
or factorial can outrun that. This process then says null and forks the next child, which has everything imported.
Only TeX is read: math-verify's other reader, for plain expressions, would hand them to Python's eval.
"""

import json
import logging
import os
import resource
import signal
import sys

MEMORY_GIB = 4
"Address space of the child; a number that needs more is no answer."


def main(limit_s: float) -> None:
    """Serve until the other side closes; each comparison has limit_s seconds."""
    logging.disable(logging.CRITICAL)
    import math_verify  # noqa: F401  (slow: once, before the first fork)

    equal("1", "1")
    os.write(1, b"ready\n")
    while True:
        child = os.fork()
        if child == 0:
            _serve(limit_s)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return
        os.write(1, b"null\n")


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify takes the TeX `answer` for `gold`."""
    from math_verify import LatexExtractionConfig, parse, verify

    reader = [LatexExtractionConfig(boxed_match_priority=0)]
    read = [parse(f"${text}$", reader, parsing_timeout=None) for text in (gold, answer)]
    return bool(verify(*read, timeout_seconds=None))


def _serve(limit_s: float) -> None:
    """The child: answer jobs until there are no more, or until one takes too long."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_GIB << 30, MEMORY_GIB << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in iter(_line, b""):
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            right = equal(*json.loads(line))
        except (MemoryError, RecursionError, Exception):  # whatever TeX of a model does to the reader, it is not right
            right = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(1, b"true\n" if right else b"false\n")


def _line() -> bytes:
    """One line of stdin, no byte more: what is buffered would be lost with this process."""
    parts = []
    while (part := os.read(0, 65536)) and not part.endswith(b"\n"):
        parts.append(part)
    return b"".join(parts) + part


if __name__ == "__main__":
    main(float(sys.argv[1]))
