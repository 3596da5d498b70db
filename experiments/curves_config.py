"""The settings of `r1 reference` and `r1 compare`; without torch."""

from dataclasses import dataclass, field

from infra.errors import ConfigError

MIN_RUNS = 3


@dataclass(kw_only=True, slots=True)
class ReferenceConfig:
    """A band for each chief metric from several runs of the same settings, to which others are compared."""

    run: list[str] = field(default_factory=list)
    "Folders of three runs or more, equal but for the seed: [runs/a,runs/b,runs/c]."
    name: str = ""
    "What the reference is called; empty: the runs' stage."
    folder: str = ""
    "Where references are kept; empty: experiments/results/reference."

    def __post_init__(self) -> None:
        if "/" in self.name or self.name.startswith("."):
            raise ConfigError("reference.name", self.name, "is no name of a file", "set quick")


@dataclass(kw_only=True, slots=True)
class CompareConfig:
    """One run against a reference, step by step."""

    run: str = ""
    "Folder of the run."
    to: str = "reference"
    "reference (the one of the nearest settings), its name, or a file."
    tolerance: float = 0.25
    "Share by which the band is widened to both sides."
    patience: int = 3
    "Points in a row that have to lie outside before a metric has left."
    folder: str = ""
    "Where references are kept; empty: experiments/results/reference."
    json: bool = False
    "Print JSON instead of the table."

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise ConfigError("compare.tolerance", self.tolerance, "cannot be negative", "set 0 or more")
        if self.patience < 1:
            raise ConfigError("compare.patience", self.patience, "has to be positive", "set 1 or more")
