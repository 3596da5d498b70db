"""Answers of a model to many questions, for the sets that stages train on; resumable chunk by chunk."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from infra.files import write_json
from infra.progress import Progress
from modeling.config import Modules
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.config import RLConfig
from rl.rewards.base import Judge, Reward, RewardConfig, score_groups
from rl.rewards.build import build_rewards
from rl.rollout.build import build_engine
from rl.rollout.sharing import SharingEngine
from rl.types import Group, Question
from training import checkpoint, parallel
from training.config import ParallelConfig
from training.state import build_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One scored answer.

    Example: Sample(text="<think>...</think>\\n<answer>(3+5)*8</answer>", accuracy=1.0, format=1.0, tokens=61)
    """

    text: str
    accuracy: float
    format: float
    tokens: int
    "Tokens of the response."
    judge: float | None = None
    "What a generative judge gave a general answer, 0 to 1; None where none was asked."


@dataclass(kw_only=True, slots=True)
class Sampler:
    """Asks one model; nothing is loaded where all of a question's chunk is there already."""

    start: Path
    cfg: RLConfig
    parallel_cfg: ParallelConfig
    sampling: SamplingConfig
    reward: RewardConfig
    folder: Path
    "Where chunks are kept."
    seed: int
    modules: Modules = Modules.auto
    _engine: SharingEngine | None = None
    _more: list[Reward] | None = None

    def answers(
        self, name: str, questions: Sequence[Question], samples: int, task: Judge, *, chunk: int
    ) -> list[list[Sample]]:
        """[question][sample]; every rank calls it and gets all. name: of the chunks' files and the progress line."""
        found: list[list[Sample]] = []
        with Progress(name, len(questions), "question") as progress:
            for begin in range(0, len(questions), chunk):
                part = list(questions[begin : begin + chunk])
                path = self.folder / f"{name}_{begin:07d}.json"
                found += self._known(path, part, samples) or self._ask(path, part, samples, task)
                progress.advance(len(part), right=_mean([s.accuracy for row in found for s in row]))
        return found

    def close(self) -> None:
        """Give back what the engine holds."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _known(self, path: Path, questions: list[Question], samples: int) -> list[list[Sample]] | None:
        stored = json.loads(path.read_text()) if parallel.is_main() and path.exists() else None
        stored = parallel.broadcast_object(stored)
        if stored is None or (stored["samples"], stored["ids"]) != (samples, [question.id for question in questions]):
            return None
        return [[Sample(**sample) for sample in row] for row in stored["answers"]]

    def _ask(self, path: Path, questions: list[Question], samples: int, task: Judge) -> list[list[Sample]]:
        engine = self._engine = self._engine or self._build()
        written = engine.generate(questions, samples, step=-2)  # -1 is evaluation's: other seeds
        groups = [Group(question=q, completions=c) for q, c in zip(questions, written, strict=True)]
        if self._more is None:
            self._more = build_rewards(self.reward, self.modules)
        score_groups(groups, task, self.reward, self._more)
        answers = [
            [
                Sample(
                    text=c.text,
                    accuracy=c.breakdown["accuracy"],
                    format=c.breakdown["format"],
                    tokens=len(c.tokens),
                    judge=c.breakdown.get("judge"),
                )
                for c in group.completions
            ]
            for group in groups
        ]
        stored = {
            "samples": samples,
            "ids": [q.id for q in questions],
            "answers": [[asdict(s) for s in row] for row in answers],
        }

        def keep() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, stored)

        parallel.on_main(keep)
        return answers

    def _build(self) -> SharingEngine:
        start = checkpoint.resolve(self.start)
        model_cfg, tokenizer = checkpoint.model_config(start, self.modules), Tokenizer.load(start)
        cfg = replace(self.cfg, rollout=replace(self.cfg.rollout, one_step_off=False))
        state = build_state(model_cfg, cfg.optimizer, self.parallel_cfg, stage="sampling", init_from=start)
        return build_engine(cfg, state, tokenizer, self.sampling, seed=self.seed, run_dir=self.folder)


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
