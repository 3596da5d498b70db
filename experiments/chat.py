"""`r1 generate`: a question, and the model's thinking as it is written."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from experiments.config import Config
from experiments.summary import printable
from infra.errors import ConfigError

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer

RELEASED_BASE = Path(__file__).parent / "base"
EXAMPLE = "Make 19 from 3, 5, 8."


def run(cfg: Config) -> None:
    """Answer generate.prompt, or one question a line from stdin. Ctrl-C ends an answer, Ctrl-D the conversation.

    Raises ConfigError for a question that leaves no room for an answer.
    """
    from experiments.stages import load_model
    from modeling.speculate import generator_for
    from modeling.stop import StopText
    from rl.tasks.base import prompter

    path = model_folder(cfg.generate.checkpoint)
    model, model_cfg, tokenizer = load_model(cfg, path)
    generator = generator_for(model, model_cfg, cfg.sampling)
    stop_ids, stop_text = tokenizer.stop_ids, StopText.of(tokenizer, model_cfg, generator.device)
    template = prompter(cfg.task.template, tokenizer)
    asked = [cfg.generate.prompt] if cfg.generate.prompt else _questions(path)
    for number, question in enumerate(asked):
        prompt = tokenizer.encode(template.prompt(question))
        room = model_cfg.max_position_embeddings - cfg.sampling.max_response_tokens
        if len(prompt) > room:
            error = ConfigError(
                "generate.prompt",
                printable(question, limit=40),
                f"is {len(prompt)} tokens long, and {room} are left beside sampling.max_response_tokens",
                "ask something shorter",
            )
            if cfg.generate.prompt:
                raise error
            print(error, file=sys.stderr)
            continue
        stops = dict(stop_ids=stop_ids, stop_text=stop_text)
        stream = generator.stream(prompt, cfg.sampling, seed=cfg.run.seed + number, **stops)
        answer(stream, tokenizer, stop_ids, cfg.sampling.max_response_tokens, sys.stdout)


def model_folder(checkpoint: str) -> Path:
    """The one given, or where that is empty the newest model under runs/, or the released base."""
    if checkpoint:
        return Path(checkpoint)
    trained = [*Path("runs").glob("*/model/config.json"), *Path("runs").glob("*/*/model/config.json")]
    if trained:
        return max(trained, key=lambda path: path.stat().st_mtime).parent
    if (RELEASED_BASE / "config.json").exists():
        return RELEASED_BASE
    raise ConfigError("checkpoint", "", "there is no model yet", "make one by `make reproduce`")


def answer(tokens: Iterator[int], tokenizer: "Tokenizer", stop_ids: set[int], limit: int, out: TextIO) -> None:
    """Write tokens as they come, until one of stop_ids or `limit` of them; Ctrl-C ends the answer alone."""
    ids: list[int] = []
    shown = ""
    try:
        for token in tokens:
            ids.append(token)
            text = tokenizer.decode(ids)
            # A character of several tokens decodes to U+FFFD until its last one is there.
            if not text.endswith("\ufffd") or token in stop_ids or len(ids) >= limit:
                out.write(printable(text[len(shown) :]))
                out.flush()
                shown = text
            if token in stop_ids:
                break
        else:
            if len(ids) >= limit:
                out.write(f" [cut off: sampling.max_response_tokens={limit}]")
    except KeyboardInterrupt:
        out.write(" [stopped]")
    out.write("\n")
    out.flush()


def _questions(path: Path) -> Iterator[str]:
    """Lines of stdin, asked for with a prompt on a terminal."""
    here = sys.stdin.isatty()
    if here:
        print(f"{path}\nAsk as in: {EXAMPLE}  (Ctrl-C ends an answer, Ctrl-D leaves)", file=sys.stderr)
    while True:
        if here:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            if here:
                print(file=sys.stderr)
            return
        if line.strip():
            yield line.strip()
