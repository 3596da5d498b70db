"""What a session runs inside the sandbox: cells of code, one after another, in one set of names.

rl/sandbox/session.py hands it in as a program, as text: the standard library only. Lines of JSON on descriptor 0: first
["tools", names], then ["cell", number, code] and ["value", value] or ["error", text] for a tool that was called. Lines
on descriptor 4: ["ready", 0], ["tool", name, arguments, named arguments], and ["done", number, what it printed, value
of its last expression, error, whether it gave a final answer]. A cell may write any of them itself: they are its own
words, and whoever reads them outside trusts none.
"""

import ast
import io
import json
import os
import sys
import threading

REPORT = 4
PRINTED, VALUE = 20_000, 20_000
"Characters that are kept of what a cell prints, and of its value."


class FinalAnswer(BaseException):
    """Raised by final_answer(value); no Exception, so that a cell's own handlers let it pass."""

    def __init__(self, value: object) -> None:
        self.value = value


class Printed(io.TextIOBase):
    """What a cell prints, up to a limit."""

    def __init__(self) -> None:
        self.text, self.cut = "", False

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        room = PRINTED - len(self.text)
        self.text += text[: max(0, room)]
        self.cut = self.cut or len(text) > room
        return len(text)


class Link:
    """The two pipes to the one who asks; a cell's threads take turns."""

    def __init__(self) -> None:
        self._lines = os.fdopen(os.dup(0), "rb")
        self._turn = threading.Lock()
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)  # input() of a cell finds nothing, and no line that is meant for us
        os.close(nowhere)
        sys.stdin = open(0, closefd=False)

    def read(self) -> list:
        line = self._lines.readline()
        if not line:
            os._exit(0)
        return json.loads(line)

    def say(self, *what: object) -> None:
        line = json.dumps(what).encode() + b"\n"
        while line:
            line = line[os.write(REPORT, line) :]

    def call(self, name: str, arguments: tuple, named: dict) -> object:
        with self._turn:
            self.say("tool", name, arguments, named)
            kind, value = self.read()
        if kind == "error":
            raise RuntimeError(value)
        return value


def tool(link: Link, name: str) -> object:
    """The function by which a cell calls a tool outside."""

    def call(*arguments: object, **named: object) -> object:
        return link.call(name, arguments, named)

    call.__name__ = name
    return call


def final_answer(answer: object = None) -> None:
    raise FinalAnswer(answer)


def plain(value: object) -> object:
    """The value where JSON has it and it is short, else its text."""
    try:
        if len(json.dumps(value)) <= VALUE:
            return value
    except (TypeError, ValueError, RecursionError):
        pass
    return repr(value)[:VALUE]


def run(code: str, names: dict) -> object:
    """Run a cell; -> the value of its last line, where that is an expression."""
    tree = ast.parse(code, "cell.py")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell.py", "exec", dont_inherit=True), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell.py", "eval", dont_inherit=True), names)


def told(error: BaseException) -> str:
    """ValueError: no such thing (line 3)."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "cell.py":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__}: {str(error)[:500]}{f' (line {line})' if line else ''}"


def serve() -> None:
    link = Link()
    names = {"__name__": "__main__", "final_answer": final_answer}
    names |= {name: tool(link, name) for name in link.read()[1]}
    link.say("ready", 0)
    while True:
        kind, *rest = link.read()
        if kind != "cell":  # the answer to a call that a cell wrote by hand
            continue
        number, code = rest
        printed, value, error, final = Printed(), None, "", False
        sys.stdout = printed
        try:
            value = plain(run(code, names))
        except FinalAnswer as answer:
            value, final = plain(answer.value), True
        except BaseException as problem:  # SystemExit and the like end a cell, not the session
            error = told(problem)
        text = printed.text + ("\n[cut here]" if printed.cut else "")
        link.say("done", number, text, value, error, final)


if __name__ == "__main__":
    serve()
