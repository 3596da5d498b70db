"""What `r1 report` writes, and where."""

from dataclasses import dataclass

from infra.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """A run as one page for a paper or a mail."""

    run: str = ""
    "A run's folder, or its name in the dashboard as in reproduce/zero; several with commas between."
    out: str = "report.html"
    "File to write; one that is there is replaced."
    samples: int = 8
    "Answers in it, drawn by chance from the last held-out step; 0: none."

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ConfigError("report.samples", self.samples, "cannot be negative", "set 0 for none")
        if not self.out:
            raise ConfigError("report.out", "''", "there is no file to write", "set report.html")
