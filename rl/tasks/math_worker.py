"""A process that compares answers with math-verify: a JSON line [gold, answer] in, a line true, false or null out.

The work is done in a child that the kernel ends, by a timer without a handler, where an expression runs on: no power
or factorial can outrun that. The timer counts the child's own processor time: a busy machine makes no answer wrong.
This process then says null and forks the next child, which has everything imported. Only TeX is read: math-verify's
other reader, for plain expressions, would hand them to Python's eval.
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
    """Serve until the other side closes; each comparison has limit_s seconds of processor time."""
    logging.disable(logging.CRITICAL)
    out = os.dup(1)
    equal("x + 1", "1 + x")  # imports what a comparison needs, before the first fork
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what the parser says to the terminal is about a model's text
    os.dup2(nowhere, 2)
    os.write(out, b"ready\n")
    while True:
        child = os.fork()
        if child == 0:
            _serve(out, limit_s)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):  # there are no more jobs
            return
        os.write(out, b"null\n")


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify takes the TeX `answer` for `gold`."""
    from math_verify import LatexExtractionConfig, parse, verify

    reader = [LatexExtractionConfig(boxed_match_priority=0)]
    read = [parse(f"${text}$", reader, parsing_timeout=None) for text in (gold, answer)]
    return bool(verify(*read, timeout_seconds=None))


def _serve(out: int, limit_s: float) -> None:
    """The child: answer jobs until there are no more, or until one takes too long."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    most = MEMORY_GIB << 30
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in iter(_line, b""):
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        try:
            right = equal(*json.loads(line))
        except Exception:  # whatever a model's TeX does to the parser, it is not right
            right = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(out, b"true\n" if right else b"false\n")


def _line() -> bytes:
    """One line of stdin, no byte more: what is buffered would be lost with this process."""
    parts = []
    while (part := os.read(0, 65536)) and not part.endswith(b"\n"):
        parts.append(part)
    return b"".join(parts) + part


if __name__ == "__main__":
    main(float(sys.argv[1]))
