"""What each command reads: whose settings, from which folder, and what it cannot do without."""

STAGES = {
    name: name
    for name in (
        "pretrain reproduce ppo dpo long2short cold_start reasoning rejection sft all_scenarios distill".split()
    )  # by conf/stage
}
"The stage whose settings a command takes by itself; the others take zero."
FOLDERS = {
    "pretrain": "pretrain.checkpoint",
    "zero": "rl.checkpoint",
    "ppo": "rl.checkpoint",
    "dpo": "dpo.checkpoint",
    "evaluate": "evaluate.checkpoint",
    "generate": "generate.checkpoint",
    "reproduce": "reproduce.base",
    "reward_model": "reward_model.checkpoint",
    "rlaif": "rlaif.checkpoint",
    "long2short": "long2short.checkpoint",
    "cold_start": "sft.checkpoint",
    "sft": "sft.checkpoint",
    "distill": "sft.checkpoint",
    "reasoning": "rl.checkpoint",
    "rejection": "rl.checkpoint",
    "all_scenarios": "rl.checkpoint",
    "r1": "r1.base",
}
"The setting that names the folder whose network a command starts from."
SHORT = {name: name for name in ("plan", "evaluate", "doctor", "lineage", "report")} | {
    "import": "convert",
    "export": "convert",
}
"The section whose settings `--help` of a command shows without it; any command takes those of its own name so."
ALIASES = {"evaluate": {"k": "evaluate.samples"}}
"Other names of a command's settings."
STAGED = ("pretrain", "zero", "ppo", "dpo", "reproduce", "reward_model", "long2short", "cold_start", "sft", "distill")
STAGED += ("reasoning", "all_scenarios", "r1")
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
    "reasoning": ("rl.checkpoint",),
    "rejection": ("rl.checkpoint",),
    "all_scenarios": ("rl.checkpoint",),
    "lineage": ("lineage.checkpoint",),
}
"The settings that a command cannot do without."
FILES = {"dpo": "dpo.data"}
"The setting that names the file which a command reads."
