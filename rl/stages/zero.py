"""R1-Zero: GRPO on a base model with rule-based rewards, no supervised step before it (R1 §2.2).

The same with PPO, or any other objective of rl/objectives, by rl.objective.name alone.

Departs from R1 §2.2 at the tiny scale by config only: higher lr, no KL, asymmetric clip, shorter answers. The stages of
RL after it (reasoning, all_scenarios) are this loop under another name, with rewards and questions of their own.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from infra.progress import say
from infra.tracking import Tracker
from modeling.config import DType, Fp8, Head, Modules
from modeling.sampling import SamplingConfig
from modeling.tokenizer import Tokenizer
from rl.alarms import Watch
from rl.config import RLConfig
from rl.curriculum import build_questions
from rl.evaluate import EvaluateConfig, evaluate, write_answers
from rl.memory import Activations, memory_by_part
from rl.metrics import sample_rows
from rl.objective_config import ObjectiveName
from rl.policy import Reference
from rl.questions import Questions
from rl.rewards.base import RewardConfig
from rl.rewards.build import build_rewards
from rl.rollout.ahead import OneStepOff
from rl.rollout.build import build_engine
from rl.rollout.engine import RolloutEngine
from rl.rollout.partial import PartialRollouts
from rl.step import rl_step
from rl.tasks.base import Task, TaskConfig
from rl.tasks.mix import build_task
from training import checkpoint, parallel
from training.config import LoopConfig, ParallelConfig
from training.export import as_folder
from training.loop import run_loop
from training.schedules import Schedule
from training.state import TrainState, build_state


@dataclass(kw_only=True, slots=True)
class ZeroData:
    """What a resumed stage has to remember besides the policy: where it is in the questions, the reference, what is
    written ahead, and what is unfinished."""

    questions: Questions
    reference: Reference | None
    ahead: OneStepOff | None = None
    partial: PartialRollouts | None = None

    def state_dict(self) -> dict:
        return {
            "questions": self.questions.state_dict(),
            "reference": self.reference.state_dict() if self.reference else None,
            "ahead": self.ahead.state_dict() if self.ahead else None,
            "partial": self.partial.state_dict() if self.partial else None,
        }

    def load_state_dict(self, state: dict) -> None:
        self.questions.load_state_dict(state["questions"])
        if self.reference and state["reference"] is not None:
            self.reference.load_state_dict(state["reference"])
        if self.ahead and state.get("ahead") is not None:
            self.ahead.load_state_dict(state["ahead"])
        if self.partial and state.get("partial") is not None:
            self.partial.load_state_dict(state["partial"])


def run(
    base: Path,
    *,
    parallel_cfg: ParallelConfig,
    task_cfg: TaskConfig,
    reward: RewardConfig,
    sampling: SamplingConfig,
    evaluation: EvaluateConfig,
    cfg: RLConfig,
    run_dir: Path,
    seed: int,
    tracker: Tracker,
    config: dict,
    modules: Modules = Modules.auto,
    fp8: Fp8 = Fp8.none,
    stage: str = "zero",
    make_task: Callable[[TaskConfig, Tokenizer], Task] = build_task,
) -> Path:
    """Train the model in folder `base`; -> folder of the trained model (Hugging Face layout), run_dir/model.

    Every rank calls it, after parallel.init. A stage cut short goes on from its last checkpoint. config: the resolved
    config, kept with every checkpoint. modules: building blocks, as checkpoint.model_config takes them. fp8: what
    carries the trainer's products; the sampler's are not in FP8. stage: whose checkpoints they are, and the name on the
    progress line. make_task: what is asked.
    """
    base = checkpoint.resolve(base)
    model_cfg, tokenizer = replace(checkpoint.model_config(base, modules), fp8=fp8), Tokenizer.load(base)
    parallel.on_main(lambda: tokenizer.save(run_dir))  # a checkpoint of the run can be used alone
    task, more_rewards = make_task(task_cfg, tokenizer), build_rewards(reward, modules)
    state = build_state(model_cfg, cfg.optimizer, parallel_cfg, stage=stage, init_from=base)
    if cfg.objective.name is ObjectiveName.ppo:
        scores = replace(model_cfg, head=Head.score, num_nextn_predict_layers=0)
        start = as_folder(base, run_dir / "start")
        state.beside["critic"] = build_state(scores, cfg.ppo.optimizer, parallel_cfg, stage=stage, init_from=start)
    reference = Reference(state.module) if cfg.objective.kl_coef > 0 else None
    questions = build_questions(task, cfg, seed=seed)
    engine = build_engine(cfg, state, tokenizer, sampling, seed=seed, run_dir=run_dir)
    ahead = OneStepOff(engine) if cfg.rollout.one_step_off else None
    partial = PartialRollouts(engine, cfg.rollout) if cfg.rollout.partial_tokens else None
    state.data = ZeroData(questions=questions, reference=reference, ahead=ahead, partial=partial)
    schedule = Schedule(cfg.schedule, total=cfg.steps)
    activations: Activations | None = Activations(state)
    watch = Watch(cfg, full_precision=model_cfg.dtype is DType.fp32 and fp8 is Fp8.none)

    def step(state: TrainState) -> dict[str, float]:
        nonlocal activations
        if ahead is None:
            _follow(engine, state)
        if reference is not None and state.step > 0 and state.step % cfg.reference_every == 0:
            reference.refresh()
        now = schedule.at(state.step)
        beside = dict(seed=seed, ahead=ahead, partial=partial, more_rewards=more_rewards)
        with activations.measured() if activations else nullcontext():
            metrics, groups = rl_step(state, engine, questions, reference, task, reward, cfg, now, **beside)
        if activations:  # once in a stage is enough
            metrics |= memory_by_part(state, reference, activations)
            activations = None
        for line in watch.lines(metrics, state.step + 1):
            if parallel.is_main():
                say(line)
        tracker.samples(state.step, sample_rows(groups[: cfg.sample_groups], state.step, tokenizer))
        return metrics

    def small_evaluation(state: TrainState) -> dict[str, float]:
        if ahead is not None:
            ahead.wait()  # one engine, one set of weights
        _follow(engine, state)
        count, samples = evaluation.curve_questions, evaluation.curve_samples
        result = evaluate(engine, task, reward, questions=count, samples=samples)
        path = run_dir / "evaluations" / f"step_{state.step:06d}.parquet"
        parallel.on_main(lambda: write_answers(path, result, state.step, tokenizer))
        return result.metrics(task.name)

    try:
        run_loop(
            state,
            LoopConfig(evaluate_every=cfg.evaluate_every, save_every=cfg.save_every),
            name=stage,
            step_fn=step,
            run_dir=run_dir,
            config=config,
            tracker=tracker,
            total_steps=cfg.steps,
            evaluate_fn=small_evaluation if evaluation.curve_questions > 0 else None,
            shown=("rl/reward/accuracy", "rl/response_tokens"),
        )
    finally:
        if ahead is not None:
            ahead.close()
        engine.close()
    return checkpoint.export(state, run_dir / "model", tokenizer)


def _follow(engine: RolloutEngine, state: TrainState) -> None:
    """Give the engine the weights of a resumed run; after a step it has them already."""
    if engine.version != state.updates:
        engine.load_weights(state.module, version=state.updates)
