"""Programming problems in LiveCodeBench's shape: a row with a question and its tests.

A row has question_content, public_test_cases and private_test_cases (JSON lists of {input, output, testtype: stdin or
functional}; the private ones also as base64 of zlib of a pickled string), starter_code and metadata ({"func_name"}).
"""

import base64
import io
import json
import pickle
import zlib
from typing import Any

from rl.tasks.rows import Row, column
from training.data.rows import BadRow

MAX_UNPACKED = 256 << 20
"Bytes of a row's tests; more are refused, so that a packed file cannot fill the memory."
STDIN_ASK = "Write a Python program that reads standard input and writes to standard output."
FUNCTION_ASK = "Complete this Python code:\n{starter}"


def parse_problem(row: dict) -> Row:
    """A row as a question. Raises BadRow without a question or tests, and for tests that cannot be read."""
    text = column(row, "question_content", "question", "problem")
    if not text:
        raise BadRow("has no question")
    tests = [*_tests(row, "public_test_cases"), *_tests(row, "private_test_cases")]
    if not tests:
        raise BadRow("has no tests")
    kinds = {test.get("testtype", "stdin") for test in tests}
    if kinds == {"functional"}:
        function = function_of(row)
        starter = row.get("starter_code") or f"def {function}("
        ask, cases = FUNCTION_ASK.format(starter=starter.strip("\n")), [_call(test) for test in tests]
    elif kinds == {"stdin"}:
        function, ask = "", STDIN_ASK
        cases = [{"stdin": _text(test, "input"), "expected": _text(test, "output")} for test in tests]
    else:
        raise BadRow(f"has tests of type {', '.join(sorted(map(str, kinds)))}")
    return Row(f"{text}\n\n{ask}", "", column(row, "question_id", "id"), {"function": function, "cases": cases})


def function_of(row: dict) -> str:
    """The name in a row's metadata. Raises BadRow where there is none."""
    metadata = row.get("metadata") or {}
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:
            raise BadRow("has metadata that is no JSON") from None
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name.isidentifier():
        raise BadRow("has tests of a function, and no func_name in its metadata")
    return name


def _tests(row: dict, key: str) -> list[dict]:
    tests = row.get(key) or []
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except (ValueError, RecursionError):
            tests = _unpack(tests, key)
    if not isinstance(tests, list) or not all(isinstance(test, dict) for test in tests):
        raise BadRow(f"has {key} that are no list of tests")
    return tests


def _unpack(text: str, key: str) -> Any:
    """LiveCodeBench's packing. A pickle may name any function to be called, so only a string is taken from it."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), MAX_UNPACKED)
        unpacked = _StringOnly(io.BytesIO(b"" if unpacker.unconsumed_tail else data)).load()
        return json.loads(unpacked) if isinstance(unpacked, str | bytes) else unpacked
    except (ValueError, zlib.error, pickle.UnpicklingError, EOFError, RecursionError, LookupError) as error:
        raise BadRow(f"has {key} that cannot be read, or are too large ({error})") from None


class _StringOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _text(test: dict, key: str) -> str:
    if not isinstance(test.get(key), str):
        raise BadRow(f"has a test without {key}")
    return test[key]


def _call(test: dict) -> dict:
    """Arguments are one JSON value a line, the result is one."""
    try:
        arguments = [json.loads(line) for line in _text(test, "input").splitlines() if line.strip()]
        return {"arguments": arguments, "expected": json.loads(_text(test, "output"))}
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow(f"has a test that is no JSON ({error})") from None
