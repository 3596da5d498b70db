"""Packages that only `r1 agents` needs, or the line that says how to get them."""

import importlib
from types import ModuleType

from infra.errors import R1Error


def need(name: str) -> ModuleType:
    """The module. Raises R1Error where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise R1Error(f"r1 agents: {error.name} is not installed; run make setup AGENTS=1") from None
