"""Answers of an evaluation as they come, kept on disk: one that was cut short asks only for what is missing.

An answer's seed is its question's and its number's, so that what is read is what would be written again.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rl.types import Completion, Question
from training import parallel

_COLUMNS = ("tokens", "text", "sampler_logprobs", "entropies", "stopped", "version", "repeats", "thinking_tokens")
"What of a completion the engine says; what it earned is worked out anew."


@dataclass(frozen=True, slots=True)
class Kept:
    """Parquet files in a folder, one for each call of `answers`, whole or not there."""

    folder: Path
    "Named after all that decides the answers: model, sampling, answers to each question."

    def answers(
        self, name: str, questions: list[Question], ask: Callable[[], list[list[Completion]]]
    ) -> list[list[Completion]]:
        """[question][sample] from the file `name` where it holds these questions', else from `ask`.

        Every rank calls it; rank 0 reads and writes.
        """
        path = self.folder / f"{name}.parquet"
        found = parallel.broadcast_object(_read(path, questions) if parallel.is_main() else None)
        if found is None:
            found = ask()
            parallel.on_main(lambda: _write(path, questions, found))
        return found


def _write(path: Path, questions: list[Question], answers: list[list[Completion]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    kinds = [pa.list_(pa.int64()), pa.string(), pa.list_(pa.float64()), pa.list_(pa.float64()), pa.bool_(), pa.int64()]
    schema = pa.schema(
        [("id", pa.string()), ("prompt", pa.string()), *zip(_COLUMNS, [*kinds, pa.bool_(), pa.int64()], strict=True)]
    )
    rows = [
        {"id": question.id, "prompt": question.prompt} | {name: getattr(completion, name) for name in _COLUMNS}
        for question, row in zip(questions, answers, strict=True)
        for completion in row
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema), scratch, compression="zstd")
    os.replace(scratch, path)


def _read(path: Path, questions: list[Question]) -> list[list[Completion]] | None:
    """None where there is no such file, or it is of other questions."""
    if not path.exists():
        return None
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(path).to_pylist()
    samples = len(rows) // max(1, len(questions))
    held = [(row.pop("id"), row.pop("prompt")) for row in rows]
    if held != [(q.id, q.prompt) for q in questions for _ in range(samples)]:
        return None
    answers = [Completion(**row) for row in rows]
    return [answers[i : i + samples] for i in range(0, len(answers), samples)]
