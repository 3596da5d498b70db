"""The commands agents and datagen: what is done with a model that is served."""

from pathlib import Path

from experiments.config import Config


def agents(cfg: Config) -> int:
    """`r1 agents`."""
    from agents import run

    return run.run(cfg.agents, Path(cfg.run.dir))


def datagen(cfg: Config) -> int:
    """`r1 datagen`."""
    from agents import datagen

    return datagen.run(cfg.datagen, Path(cfg.run.dir))
