"""Every `r1` command: what it does, where it lives, which settings it reads."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of `r1`."""

    about: str
    "What it does, a sentence."
    function: str
    "Where it lives, as module:name; it takes the Config."
    sections: tuple[str, ...]
    "The parts of Config that it reads; nothing else is in its help."
    ranks: bool = False
    "Whether it works on the scale's number of processes."
    writes: bool = False
    "Whether it works in run.dir, which no other process may do at the same time."
    trains: bool = False
    "Whether run.dir becomes a run, with a config.yaml that later starts have to agree with."
    graph: bool = False
    "Whether it is several stages, each of which judges its own folder; its function takes (cfg, settings as typed)."
    verbs: tuple[str, ...] = ()
    "Words that may follow the command; its function then takes (cfg, verb, settings as typed)."


RANK_COMMAND = [sys.executable, "-P", "-m", "infra.cli"]
"What another rank of the same command is started by; -P keeps the user's folder from shadowing our packages."

_RL = ("rl", "task", "reward", "sampling", "evaluate")
_PRETRAIN = ("model", "corpus", "pretrain")
_PLACE = ("parallel", "tracking")
COMMANDS = {
    "pretrain": Command(
        about="Train a tokenizer and a base model on the tiny corpus.",
        function="experiments.stages:pretrain",
        sections=("scale", "run", *_PRETRAIN, "parallel", "tracking"),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "zero": Command(
        about="R1-Zero: GRPO with rule-based rewards on the base rl.checkpoint.",
        function="experiments.stages:zero",
        sections=("scale", "run", *_RL, "parallel", "tracking"),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "cold_start": Command(
        about="R1, stage 1: SFT of the base sft.checkpoint on long answers of a solver and of R1-Zero.",
        function="experiments.stage_commands:cold_start",
        sections=("scale", "run", "cold_start", "filter", "sft", "task", "sampling", *_PLACE),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "reasoning": Command(
        about="R1, stage 2: GRPO with language consistency from the cold start rl.checkpoint.",
        function="experiments.stage_commands:reasoning",
        sections=("scale", "run", *_RL, *_PLACE),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "rejection": Command(
        about="R1, stage 3: a set of right, readable answers of rl.checkpoint, three to one with general ones.",
        function="experiments.stage_commands:rejection",
        sections=("scale", "run", "rejection", "filter", *_RL, *_PLACE),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "sft": Command(
        about="Supervised fine-tuning of sft.checkpoint on the prompts and responses in sft.data.",
        function="experiments.stage_commands:sft",
        sections=("scale", "run", "sft", "task", "evaluate", *_PLACE),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "captions": Command(
        about="Eyes for sft.checkpoint: an encoder of images, and SFT on captions (Kimi k1.5).",
        function="experiments.captions:run",
        sections=("scale", "run", "captions", "corpus", "sft", "task", *_PLACE),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "all_scenarios": Command(
        about="R1, stage 4: GRPO by rules, and by preferences for general questions in the last steps.",
        function="experiments.stage_commands:all_scenarios",
        sections=("scale", "run", "all_scenarios", *_RL, *_PLACE),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "distill": Command(
        about="SFT of a student sft.checkpoint, of another family, on the set that rejection sampling made.",
        function="experiments.stage_commands:distillation",
        sections=("scale", "run", "sft", "task", "evaluate", *_PLACE),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "r1": Command(
        about="All of R1: base, cold start, reasoning RL, rejection sampling, SFT, RL for all scenarios, a student.",
        function="experiments.r1_graph:run",
        sections=("scale", "run", "r1", "cold_start", "rejection", "filter", "sft", "all_scenarios", *_RL, *_PLACE),
        ranks=True,
        writes=True,
        trains=True,
        graph=True,
    ),
    "ppo": Command(
        about="The same with PPO: a value model beside the policy, and GAE.",
        function="experiments.stages:ppo",
        sections=("scale", "run", *_RL, "parallel", "tracking"),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "dpo": Command(
        about="DPO: train the model dpo.checkpoint on the preference pairs dpo.data.",
        function="experiments.stages:dpo",
        sections=("scale", "run", "dpo", "evaluate", "task", "reward", "sampling", "parallel", "tracking"),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "reward_model": Command(
        about="Train a reward model on preference pairs, from the language model reward_model.checkpoint.",
        function="experiments.preferences:reward_model",
        sections=("scale", "run", "reward_model", "parallel", "tracking"),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "rlaif": Command(
        about="Write preference pairs: rlaif.checkpoint answers, a judge compares by written principles.",
        function="experiments.preferences:rlaif",
        sections=("scale", "run", "rlaif", "task", "sampling", "parallel"),
        ranks=True,
        writes=True,
    ),
    "long2short": Command(
        about="Kimi k1.5's long2short: from a model that thinks long to one that thinks short.",
        function="experiments.long2short:run",
        sections=("scale", "run", "long2short", "sft", "dpo", *_RL, *_PLACE),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "evaluate": Command(
        about="Measure the model evaluate.checkpoint on held-out questions.",
        function="experiments.stages:evaluate",
        sections=("scale", "run", "evaluate", "task", "reward", "sampling", "parallel"),
        ranks=True,
        writes=True,
    ),
    "generate": Command(
        about="Ask a model and watch it think.",
        function="experiments.chat:run",
        sections=("generate", "sampling", "task", "run"),
    ),
    "agents": Command(
        about="Questions with tools, answered by agents and simple patterns over a served model; scores as they are.",
        function="experiments.uses:agents",
        sections=("run", "agents"),
        writes=True,
    ),
    "datagen": Command(
        about="Make test data by a served model, with a sheet to review; export what was accepted.",
        function="experiments.uses:datagen",
        sections=("run", "datagen"),
        writes=True,
    ),
    "serve": Command(
        about="An OpenAI-compatible server: chat completions, completions, streaming, thinking apart.",
        function="infra.serve.command:run",
        sections=("serve", "task", "run"),
    ),
    "lineage": Command(
        about="Where a model comes from: parents, data, settings, commits, back to its base.",
        function="experiments.lineage:show",
        sections=("lineage",),
    ),
    "import": Command(
        about="Rewrite a Hugging Face model as a folder that every command starts from, each tensor checked.",
        function="experiments.convert:import_model",
        sections=("convert",),
    ),
    "export": Command(
        about="Write a run or a checkpoint, of whatever layout, as a Hugging Face folder.",
        function="experiments.convert:export_model",
        sections=("convert",),
    ),
    "tokenize": Command(
        about="Write texts of your own as token files, which r1 pretrain reads.",
        function="experiments.tokenize_data:run",
        sections=("tokenize",),
    ),
    "plan": Command(
        about="What pre-training needs and costs on a cluster: memory, time, traffic, dollars.",
        function="infra.cli:plan",
        sections=("model", "cluster", "parallel", "plan"),
    ),
    "report": Command(
        about="A run as one HTML page: charts, tables, answers; nothing else is needed to read it.",
        function="dashboard.report_page:write",
        sections=("report",),
    ),
    "launch": Command(
        about="Run stages as jobs, here or on SLURM; takes the settings of the stages, too.",
        function="infra.launch.command:run",
        sections=("scale", "launch", "run", "tracking"),
        verbs=("status", "logs", "cancel"),
    ),
    "reproduce": Command(
        about="The whole journey: base, R1-Zero, table, figures, answers.",
        function="experiments.reproduce:run",
        sections=("scale", "run", "reproduce", *_PRETRAIN, *_RL, "parallel", "tracking"),
        ranks=True,
        writes=True,
        trains=True,
    ),
    "claim": Command(
        about="Run claims of the papers over seeds and judge them by their rules; takes the settings of stages, too.",
        function="experiments.claims.commands:claim",
        sections=("scale", "claim", "run", *_RL, *_PRETRAIN, "sft", "tracking"),
        graph=True,
    ),
    "claims": Command(
        about="The table of the claims: what the papers say, what came out here, verdicts.",
        function="experiments.claims.commands:claims",
        sections=("scale", "claim"),
    ),
    "reference": Command(
        about="A band for ten chief metrics from three runs or more of the same settings.",
        function="experiments.curves:reference",
        sections=("reference",),
    ),
    "compare": Command(
        about="Whether a run stays within a reference, step by step, and which metric left first.",
        function="experiments.curves:compare",
        sections=("compare",),
    ),
    "sync": Command(
        about="Send to MLflow what it has not got of the run in run.dir.",
        function="infra.cli:sync",
        sections=("run", "tracking"),
    ),
    "doctor": Command(
        about="What this machine can run, and why not; before a run: r1 doctor zero rl.checkpoint=...",
        function="infra.cli:doctor",
        sections=("doctor",),
        verbs=("zero", "ppo"),
    ),
}
