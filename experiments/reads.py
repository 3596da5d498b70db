"""What each command reads: whose settings, from which folder, and what it cannot do without."""

STAGES = {
    name: name
    for name in (
        "pretrain reproduce ppo dpo long2short cold_start reasoning rejection sft all_scenarios distill captions"
    ).split()  # by conf/stage
}
"The stage whose settings a command takes by itself; the others take zero."
FOLDERS = {
    "pretrain": "pretrain.checkpoint",
    "zero": "rl.checkpoint",
    "ppo": "rl.checkpoint",
    "dpo": "dpo.checkpoint",
    "evaluate": "evaluate.checkpoint",
    "generate": "generate.checkpoint",
    "serve": "serve.checkpoint",
    "reproduce": "reproduce.base",
    "reward_model": "reward_model.checkpoint",
    "rlaif": "rlaif.checkpoint",
    "long2short": "long2short.checkpoint",
    "cold_start": "sft.checkpoint",
    "sft": "sft.checkpoint",
    "distill": "sft.checkpoint",
    "captions": "sft.checkpoint",
    "reasoning": "rl.checkpoint",
    "rejection": "rl.checkpoint",
    "all_scenarios": "rl.checkpoint",
    "r1": "r1.base",
}
"The setting that names the folder whose network a command starts from."
SHORT = {name: name for name in "plan evaluate doctor lineage tokenize agents datagen serve report".split()}
SHORT |= {"import": "convert", "export": "convert"}
"The section whose settings `--help` of a command shows without it; any command takes those of its own name so."
ALIASES = {
    "evaluate": {"k": "evaluate.samples"},
    "agents": {"url": "agents.endpoint.url"},
    "datagen": {"url": "datagen.endpoint.url", "task": "datagen.task"},
}
"Other names of a command's settings."
SHORT |= {"claim": "claim", "claims": "claim", "reference": "reference", "compare": "compare"}
STAGED = ("pretrain", "zero", "ppo", "dpo", "reproduce", "reward_model", "long2short", "cold_start", "sft", "distill")
STAGED += ("reasoning", "all_scenarios", "captions", "r1")
"Commands of FOLDERS that train."
NEEDED = {
    "zero": ("rl.checkpoint",),
    "ppo": ("rl.checkpoint",),
    "dpo": ("dpo.checkpoint", "dpo.data"),
    "evaluate": ("evaluate.checkpoint",),
    "reward_model": ("reward_model.checkpoint",),
    "rlaif": ("rlaif.checkpoint",),
    "long2short": ("long2short.checkpoint",),
    "cold_start": ("sft.checkpoint",),
    "sft": ("sft.checkpoint", "sft.data"),
    "distill": ("sft.checkpoint", "sft.data"),
    "captions": ("sft.checkpoint",),
    "reasoning": ("rl.checkpoint",),
    "rejection": ("rl.checkpoint",),
    "all_scenarios": ("rl.checkpoint",),
    "lineage": ("lineage.checkpoint",),
}
"The settings that a command cannot do without."
FILES = {"dpo": "dpo.data"}
"The setting that names the file which a command reads."
MODELS = ("pretrain", "zero", "ppo", "dpo", "cold_start", "reasoning", "sft", "all_scenarios", "distill", "long2short")
"Commands whose run.dir is then a model that others start from."
SETS = {
    "sft": ("sft.data", "rejection", "data.parquet"),
    "distill": ("sft.data", "rejection", "data.parquet"),
    "dpo": ("dpo.data", "rlaif", "pairs.jsonl"),
    "reward_model": ("reward_model.pairs", "rlaif", "pairs.jsonl"),
}
"The setting that names the set a command reads, the command that makes such a set, and its file in that one's run.dir."
