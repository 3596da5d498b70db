"""`r1 tokenize`: texts of your own as the token files that `r1 pretrain pretrain.data=[...]` reads."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import ConfigError
from infra.progress import Progress, say

if TYPE_CHECKING:
    from experiments.config import Config

TRAINED_ON = 20_000
"Documents that a tokenizer is trained on where none is given."


@dataclass(kw_only=True, slots=True)
class TokenizeConfig:
    """Texts read here, token ids written there."""

    data: list[str] = field(default_factory=list)
    "JSONL or Parquet files, one document a row."
    text_key: str = "text"
    "The value of a row that is its text."
    out: str = ""
    "Files to write, without .bin and .idx, which are put behind."
    tokenizer: str = ""
    "Folder of a model or run whose tokenizer is taken; empty: one is trained on the texts and put beside out."
    vocab: int = 32_000
    "Largest vocabulary of one that is trained."
    max_bad_share: float = 0.01
    "Share of rows without a text, or not readable, above which nothing is written."

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_share < 1:
            problem = "is a share of the rows"
            raise ConfigError("tokenize.max_bad_share", self.max_bad_share, problem, "set 0.01")

    def check(self) -> None:
        """Raise ConfigError where the command lacks what it reads or writes."""
        if not self.data:
            raise ConfigError("data", "[]", "there is nothing to read", "write data=[texts.jsonl]")
        if not self.out:
            raise ConfigError("out", "", "is not given", "write out=data/mine")


def run(cfg: "Config") -> None:
    """`r1 tokenize`. Raises ConfigError for files that cannot be read, or with too many bad rows."""
    from modeling.tokenizer import Tokenizer
    from training.data.indexed import write

    settings = cfg.tokenize
    out = Path(settings.out)
    if settings.tokenizer:
        tokenizer, folder = Tokenizer.load(Path(settings.tokenizer)), settings.tokenizer
    else:
        folder = out.parent
        say(f"a tokenizer of at most {settings.vocab:,} tokens is trained on the first {TRAINED_ON:,} documents")
        first = itertools.islice(_Texts(settings), TRAINED_ON)
        tokenizer = Tokenizer.train(first, settings.vocab)
        tokenizer.save(folder)
    texts = _Texts(settings)
    with Progress("tokenize", sum(_lines(Path(path)) for path in settings.data), "document") as progress:
        documents, tokens = write(_counted(texts, progress), tokenizer, out)
    if texts.bad:
        say(f"{texts.bad} of {texts.rows:,} rows left out; the first: {texts.first_bad}")
    say(f"{out}.bin, {out}.idx: {documents:,} documents, {tokens:,} tokens")
    say(f"next: r1 pretrain pretrain.data=[{out}] pretrain.tokenizer={folder} pretrain.rows=joined")


def _lines(path: Path) -> int:
    """About how many documents a file holds; none where it is missing, which reading it will say."""
    if not path.is_file():
        return 0
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_metadata(path).num_rows
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def _counted(texts: "_Texts", progress: Progress) -> Iterator[str]:
    for text in texts:
        progress.advance(1)
        yield text


class _Texts:
    """The texts of the files; counts rows that have none, and refuses more of them than allowed."""

    def __init__(self, cfg: TokenizeConfig) -> None:
        self._cfg, self.rows, self.bad, self.first_bad = cfg, 0, 0, ""

    def __iter__(self) -> Iterator[str]:
        from training.data.rows import BadRow, read

        for path in self._cfg.data:
            for where, row in read(Path(path), "tokenize.data"):
                self.rows += 1
                text = None if isinstance(row, BadRow) else row.get(self._cfg.text_key)
                if isinstance(text, str) and text:
                    yield text
                    continue
                reason = row if isinstance(row, BadRow) else f"has no text in {self._cfg.text_key!r}"
                self.bad, self.first_bad = self.bad + 1, self.first_bad or f"{where} {reason}"
        if self.bad > self._cfg.max_bad_share * self.rows:
            problem = f"{self.bad} of {self.rows} rows are bad, the first: {self.first_bad}"
            raise ConfigError("tokenize.data", self._cfg.data[0], problem, "mend them, or set tokenize.max_bad_share")
