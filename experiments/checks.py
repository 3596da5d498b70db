"""What settings of different sections ask of each other; each section judges its own fields."""

from typing import TYPE_CHECKING

from infra.errors import ConfigError
from rl.config import EngineName, OldLogprobs
from rl.tasks.countdown import Countdown
from rl.tasks.countdown_image import CountdownImage
from rl.tasks.mix import build_task
from training.config import OptimizerName
from training.layout import check_model

if TYPE_CHECKING:
    from experiments.config import Config

ANSWER_TOKENS = 16
"Room for an answer behind a thinking that is cut at its budget."
QUESTION_BYTES, IN_WORDS_BYTES = 64, 192
"Room for a question inside its template, in its short form and with its rules; a byte is a token at worst."


def check(cfg: "Config") -> None:
    """Raise ConfigError where they do not fit."""
    for judge in (_lengths, _questions, _images, _layout, _sampling, _repetition):
        judge(cfg)


def _lengths(cfg: "Config") -> None:
    """A response has to fit the model's context, together with the longest prompt."""
    context, response = (cfg.model.max_position_embeddings, cfg.sampling.max_response_tokens)
    question = "x" * (IN_WORDS_BYTES if cfg.task.template.in_words else QUESTION_BYTES)
    prompt = len(cfg.task.template.prompt(question).encode())
    if response + prompt <= context:
        thinking = min(max(cfg.evaluate.budget, default=0), response)
        if cfg.evaluate.budget and prompt + thinking + ANSWER_TOKENS > context:
            why = f"behind a prompt of up to {prompt} tokens no room for an answer is left in {context} tokens"
            raise ConfigError(
                "evaluate.budget", cfg.evaluate.budget, why, f"set at most {context - prompt - ANSWER_TOKENS}"
            )
        return
    why = f"a prompt of up to {prompt} tokens and the response are longer than model.max_position_embeddings={context}"
    room = context - prompt
    remedy = f"set at most {room}" if room > 0 else f"set model.max_position_embeddings={response + prompt} or more"
    raise ConfigError("sampling.max_response_tokens", response, why, remedy)


def _sampling(cfg: "Config") -> None:
    """What RL assumes of the sampler: logprobs that mean what the trainer's mean, and a drafter where one is wanted."""
    if cfg.rl.old_logprobs is OldLogprobs.sampler and (cfg.sampling.temperature != 1 or cfg.sampling.top_p < 1):
        raise ConfigError(
            "rl.old_logprobs",
            "sampler",
            f"temperature={cfg.sampling.temperature}, top_p={cfg.sampling.top_p} make them of another distribution",
            "set rl.old_logprobs=trainer",
        )
    if cfg.rl.importance_cap > 0 and (cfg.sampling.temperature != 1 or cfg.sampling.top_p < 1):
        raise ConfigError(
            "rl.importance_cap",
            cfg.rl.importance_cap,
            f"temperature={cfg.sampling.temperature}, top_p={cfg.sampling.top_p} make the sampler's logprobs of "
            "another distribution than the trainer's",
            "set sampling.temperature=1 sampling.top_p=1, or rl.importance_cap=0",
        )
    if cfg.sampling.speculative and not cfg.model.num_nextn_predict_layers:
        raise ConfigError(
            "sampling.speculative",
            "true",
            "the network has no MTP module (model.num_nextn_predict_layers=0)",
            "set sampling.speculative=false",
        )
    if cfg.sampling.speculative and cfg.rl.rollout.engine is not EngineName.local:
        raise ConfigError(
            "sampling.speculative",
            "true",
            f"drafts by MTP are of our own engine, not of {cfg.rl.rollout.engine.name}'s",
            "set rl.rollout.engine=local, or sampling.speculative=false",
        )


def _repetition(cfg: "Config") -> None:
    """A penalty needs something that it is for."""
    if cfg.reward.repetition > 0 and not cfg.rl.rollout.repeat_ngram:
        raise ConfigError(
            "reward.repetition",
            cfg.reward.repetition,
            "no answer is cut for repeating itself",
            "set rl.rollout.repeat_ngram=32 rl.rollout.partial_tokens=64, or reward.repetition=0",
        )


def _questions(cfg: "Config") -> None:
    """Names of tasks, and countdown's number of held-out questions; other tasks take seconds to count theirs."""
    task = build_task(cfg.task)
    if isinstance(task, Countdown):
        task.test_questions(max(cfg.evaluate.questions, cfg.evaluate.curve_questions))


def _images(cfg: "Config") -> None:
    """Who reads pictures: our own engine, a whole answer at a time. Whether the model can see is judged with it."""
    if CountdownImage.name not in cfg.task.names:
        return
    rollout = cfg.rl.rollout
    if rollout.engine is not EngineName.local:
        name = rollout.engine.name
        raise ConfigError("rl.rollout.engine", name, "reads no images", "set rl.rollout.engine=local")
    if rollout.partial_tokens:
        key, value = "rl.rollout.partial_tokens", rollout.partial_tokens
        raise ConfigError(key, value, "goes on with text alone", "set rl.rollout.partial_tokens=0")


def _layout(cfg: "Config") -> None:
    """The network has to divide by the layout, whatever the number of processes."""
    layout = cfg.parallel
    if not cfg.plan.search:
        check_model(cfg.model, layout)
    whole = layout.tensor == 1 and not layout.zero1
    stages = ("pretrain", cfg.pretrain.optimizer), ("sft", cfg.sft.optimizer), ("rl", cfg.rl.optimizer)
    more = ("dpo", cfg.dpo.optimizer), ("rl.ppo", cfg.rl.ppo.optimizer), ("reward_model", cfg.reward_model.optimizer)
    for key, optimizer in (*stages, *more):
        if optimizer.name is OptimizerName.muon and not whole:
            raise ConfigError(
                f"{key}.optimizer.name",
                "muon",
                f"Muon needs whole matrices, and parallel.tensor={layout.tensor}, parallel.zero1={layout.zero1}",
                f"set {key}.optimizer.name=adamw",
            )
