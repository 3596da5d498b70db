"""The settings of `r1 claim` and `r1 claims`; without torch."""

from dataclasses import dataclass, field

from infra.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class ClaimConfig:
    """Which claims are run, with which seeds, and where their runs and results are kept."""

    id: str = ""
    "The claim, as C2, or several, as C1,C2,C14; all: every one, the cheapest first."
    seeds: list[int] = field(default_factory=list)
    "Seeds to run; empty: those that the claim names."
    base: str = ""
    "The model that arms start from; empty: the scale's own (conf/claims/scales.yaml)."
    runs: str = "runs/claims"
    "Folder of the runs, <arm>/seed<k>; several processes may work in it at the same time."
    results: str = ""
    """Folder of the raw results and the table; empty: experiments/results/claims, or, where further settings are typed,
    a folder beside the runs."""
    dry_run: bool = False
    "Show the runs, numbered, with their estimated seconds, and start none."
    array: bool = False
    "Do one run alone, that of the number run.seed (dry_run=true shows them), with those it needs: a job array's task."
    json: bool = False
    "Print JSON instead of the table (r1 claims)."
    rebuild: bool = False
    "Make the table anew from the raw results, in its folder and in README.md (r1 claims); nothing is trained."

    def __post_init__(self) -> None:
        if any(seed < 0 for seed in self.seeds) or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("claim.seeds", self.seeds, "have to differ, from 0", "set them as in [0,1,2,3,4]")
