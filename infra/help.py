"""What `--help` says: each setting with its value and the sentence that stands under it in the source."""

import ast
import dataclasses
import functools
import inspect
import shutil
import sys
import textwrap
import typing
from enum import Enum
from pathlib import Path
from typing import Any


@functools.cache
def _module(name: str) -> ast.Module:
    return ast.parse(Path(inspect.getfile(sys.modules[name])).read_text())


def sentences(cls: type) -> dict[str, str]:
    """Field -> the text literal under it in the source of the dataclass."""
    body = next(n for n in ast.walk(_module(cls.__module__)) if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
    found = {}
    for line, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
            found[line.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def settings(value: Any, prefix: str = "") -> list[tuple[str, str, str]]:
    """Every setting of a dataclass object -> (key, value as typed on the command line, sentence)."""
    rows = []
    said, hints = sentences(type(value)), typing.get_type_hints(type(value))
    for f in dataclasses.fields(value):
        now = getattr(value, f.name)
        if dataclasses.is_dataclass(now):
            rows += settings(now, f"{prefix}{f.name}.")
            continue
        sentence = said[f.name]
        if isinstance(now, Enum):
            missing = [m.name for m in hints[f.name] if m.name not in sentence]
            sentence += f" One of {', '.join(m.name for m in hints[f.name])}." if missing else ""
        rows.append((prefix + f.name, typed(now), sentence))
    return rows


def typed(value: Any) -> str:
    """A value as it is written behind the `=`."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if dataclasses.is_dataclass(value):
        return f"{{{', '.join(f'{f.name}: {typed(getattr(value, f.name))}' for f in dataclasses.fields(value))}}}"
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    return str(value)


def page(
    title: str, groups: list[tuple[str, str, str]], sections: list[tuple[str, str, Any]], bare: str | None = None
) -> str:
    """The whole page. groups: (name, its options, sentence); sections: (sentence, key, dataclass object).

    bare: the section whose settings are typed without its name.
    """
    width = max(60, min(120, shutil.get_terminal_size().columns))
    blocks = [title]
    if groups:
        blocks.append(f"Many settings at once.\n{_rows(groups, width)}")
    for sentence, key, value in sections:
        blocks.append(f"{sentence}\n{_rows(settings(value, '' if key == bare else f'{key}.'), width)}")
    return "\n\n".join(blocks)


def _rows(rows: list[tuple[str, str, str]], width: int) -> str:
    """`  key=value   sentence`, the sentence wrapped in its own column; long settings have a line to themselves."""
    column = 38
    lines = []
    for key, value, sentence in rows:
        head = f"  {key}={value}"
        text = textwrap.wrap(sentence, width - column, break_on_hyphens=False) or [""]
        if len(head) + 1 < column and sentence:
            head = head.ljust(column) + text.pop(0)
        lines += [head, *(" " * column + line for line in text if line)]
    return "\n".join(lines)
