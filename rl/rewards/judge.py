"""A generative judge: a server that speaks OpenAI's chat completions, or a model of ours; every verdict is kept.

A judge that is down stops the stage with one line; what it said before is in the cache, so that the same command goes
on where it was.
"""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from infra.errors import ConfigError, R1Error
from infra.files import write_json
from infra.http_client import Client
from rl.rewards.base import is_general
from rl.rewards.judge_config import JudgeConfig
from rl.rewards.verdict import score_of, score_prompt
from rl.types import Group
from training import parallel

MAX_ANSWER = 16 << 20
"Bytes of an answer; a verdict has a few thousand, and a server that floods is not to fill the memory."
_REMEDY = (
    "verdicts so far are kept: see whether the server lives and start the same command again, or set retries higher"
)


class Backend(Protocol):
    """Who writes verdicts."""

    identity: str
    "Who it is: another judge has verdicts of its own."

    def write(self, prompts: list[str], keep: Callable[[str, str], None]) -> None:
        """Ask all; keep(prompt, verdict) is called on rank 0 as each comes. Every rank calls it."""
        ...


class Judge:
    """Verdicts of a backend, each asked for once and kept in cfg.cache."""

    def __init__(self, cfg: JudgeConfig, backend: Backend | None = None) -> None:
        """Every rank calls it, after parallel.init. Raises ConfigError where cfg names no judge."""
        self.cfg = cfg
        self.backend = backend or build_backend(cfg)

    def ask(self, prompts: list[str]) -> list[str]:
        """The verdict on each prompt, the same on every rank. Raises R1Error, on every one, where the judge is down."""
        wanted = list(dict.fromkeys(prompts))
        known: dict[str, str] = parallel.broadcast_object(self._known(wanted) if parallel.is_main() else None)
        missing = [prompt for prompt in wanted if prompt not in known]

        def keep(prompt: str, verdict: str) -> None:
            known[prompt] = verdict
            path = self._path(prompt)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"judge": self.backend.identity, "prompt": prompt, "verdict": verdict})

        if missing:
            self.backend.write(missing, keep)
        known = parallel.broadcast_object(known)
        return [known[prompt] for prompt in prompts]

    def check_read(self, verdicts: list[str], unread: int) -> None:
        """Raise R1Error where more verdicts than cfg.max_unread allows could not be read; fewer than 8 pass."""
        if len(verdicts) >= 8 and unread > self.cfg.max_unread * len(verdicts):
            shown = "".join(c if c.isprintable() else " " for c in verdicts[0][-80:])
            raise R1Error(
                f"judge {self.backend.identity}: {unread} of {len(verdicts)} verdicts cannot be read, one ends in "
                f"{shown!r}; take a judge that follows the form, or set judge.max_unread higher"
            )

    def _known(self, prompts: list[str]) -> dict[str, str]:
        found = {}
        for prompt in prompts:
            try:
                entry = json.loads(self._path(prompt).read_text())
            except (FileNotFoundError, ValueError):  # not there, or not whole: asked again
                continue
            if isinstance(entry, dict) and entry.get("prompt") == prompt and isinstance(entry.get("verdict"), str):
                found[prompt] = entry["verdict"]
        return found

    def _path(self, prompt: str) -> Path:
        key = json.dumps([self.backend.identity, prompt]).encode()
        name = hashlib.sha256(key).hexdigest()
        return Path(self.cfg.cache) / name[:2] / f"{name}.json"


class JudgeReward:
    """The judge's grade of an answer to a general question, 0 to 1 for 1 to 5 (verdict.RUBRIC). What it says and cannot
    be read is no grade: the answer earns nothing for it, and has no such part in its breakdown."""

    name = "judge"

    def __init__(self, judge: Judge, weight: float) -> None:
        self.judge, self.weight = judge, weight

    def __call__(self, groups: list[Group]) -> list[list[float | None]]:
        """[question][group] grades; None for questions that are not general, and for verdicts that cannot be read."""
        general = [g for g in groups if is_general(g.question)]
        verdicts = self.judge.ask(
            [score_prompt(g.question.prompt, c.text, g.question.answer) for g in general for c in g.completions]
        )
        grades = [score_of(verdict) for verdict in verdicts]
        self.judge.check_read(verdicts, sum(grade is None for grade in grades))
        rest = iter(grades)
        return [[next(rest) if is_general(g.question) else None for _ in g.completions] for g in groups]


def build_backend(cfg: JudgeConfig) -> Backend:
    """The judge that cfg names."""
    cfg.check("judge")
    return Server(cfg) if cfg.url else Model(cfg)


class Server:
    """OpenAI's chat completions over HTTP, cfg.requests at a time; rank 0 asks."""

    def __init__(self, cfg: JudgeConfig, first_pause_s: float = 0.5) -> None:
        self.cfg, self.identity = cfg, f"{cfg.model} at {cfg.url.rstrip('/')}, {cfg.max_tokens} tokens"
        headers = {}
        if cfg.key_variable:
            key = os.environ.get(cfg.key_variable)
            if not key:
                raise ConfigError("judge.key_variable", cfg.key_variable, "is not set", "export it, or leave this out")
            headers["Authorization"] = f"Bearer {key}"
        self.client = Client(
            cfg.url,
            retries=cfg.retries,
            who="the judge",
            remedy=_REMEDY,
            first_pause_s=first_pause_s,
            headers=headers,
            proxies=True,
            max_bytes=MAX_ANSWER,
        )

    def write(self, prompts: list[str], keep: Callable[[str, str], None]) -> None:
        """Raises R1Error, on every rank, after the requests under way have ended; the others are not begun."""

        def ask_all() -> None:
            failure: list[R1Error] = []

            def ask(prompt: str) -> None:
                if failure:
                    return
                try:
                    keep(prompt, self._verdict(prompt))
                except R1Error as error:
                    failure.append(error)

            with ThreadPoolExecutor(self.cfg.requests) as pool:
                list(pool.map(ask, prompts))
            if failure:
                raise failure[0]

        parallel.on_main(ask_all)

    def _verdict(self, prompt: str) -> str:
        body = {
            "model": self.cfg.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.cfg.max_tokens,
        }
        answer = self.client.post("/chat/completions", body, timeout_s=self.cfg.timeout_s)
        content = _content(answer)
        if content is None:
            raise R1Error(f"the judge at {self.cfg.url} answers without a message; is it a server of chat completions?")
        return content


def _content(answer: Any) -> str | None:
    """The text of a chat completion; None for whatever is none."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return content if isinstance(content, str) else None


class Model:
    """A model of ours, whole on every rank, each of which writes its share; greedy."""

    def __init__(self, cfg: JudgeConfig) -> None:
        from modeling.generate import Generator
        from modeling.sampling import SamplingConfig
        from modeling.stop import StopText
        from modeling.tokenizer import Tokenizer
        from training import checkpoint
        from training.whole import build_whole

        found = checkpoint.resolve(Path(cfg.checkpoint))
        model_cfg, self.tokenizer = checkpoint.model_config(found), Tokenizer.load(found)
        model = build_whole(model_cfg)
        checkpoint.load_weights(model, model_cfg, found)
        self.sampling = SamplingConfig(temperature=0.0, max_response_tokens=cfg.max_tokens)
        self.generator = Generator(model.eval(), model_cfg)
        self.stop_text = StopText.of(self.tokenizer, model_cfg, self.generator.device)
        self.room = model_cfg.max_position_embeddings - cfg.max_tokens
        self.identity = f"{found.absolute()} {_fingerprint(found)}, {cfg.max_tokens} tokens"

    def write(self, prompts: list[str], keep: Callable[[str, str], None]) -> None:
        """Raises ConfigError, on every rank, for a prompt that leaves no room for max_tokens."""
        rows = [self.tokenizer.encode(self._chat(prompt)) for prompt in prompts]
        longest = max(map(len, rows))
        if longest > self.room:
            problem = f"a question of {longest} tokens and the verdict are longer than the judge's context"
            raise ConfigError("judge.max_tokens", self.sampling.max_response_tokens, problem, "set less, or judge.url")
        mine = range(parallel.rank(), len(rows), parallel.world())
        written = self.generator.generate(
            [rows[i] for i in mine],
            self.sampling,
            seeds=list(mine),
            stop_ids=self.tokenizer.stop_ids,
            stop_text=self.stop_text,
        )
        texts = {i: self.tokenizer.decode(one.tokens) for i, one in zip(mine, written, strict=True)}
        everyone = parallel.gather_objects(texts)

        def keep_all() -> None:
            for share in everyone:
                for i, text in share.items():
                    keep(prompts[i], text)

        parallel.on_main(keep_all)

    def _chat(self, prompt: str) -> str:
        return self.tokenizer.chat(prompt) if self.tokenizer.has_chat else f"{self.tokenizer.start}{prompt}\n"


def _fingerprint(folder: Path) -> str:
    """Other weights in the same place are another judge: names, sizes and times of the files."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:12]
