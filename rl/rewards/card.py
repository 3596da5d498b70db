"""What a reward model's folder says of itself, in reward_model.json; without torch."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.errors import CheckpointError
from infra.files import write_json
from rl.reward_model_config import Reads

CARD = "reward_model.json"


@dataclass(frozen=True, slots=True)
class Card:
    """How to ask a reward model, and how its scores become rewards."""

    reads: Reads
    "The part of a response it sees."
    mean: float
    "Of its scores of held-out answers, better and worse ones."
    std: float
    "Of the same."
    pair_accuracy: float
    "Share of held-out pairs whose better answer scores higher."
    train_pairs: int
    held_out_pairs: int

    def normalise(self, score: float) -> float:
        """sigmoid((score - mean) / std): 0 to 1, one half for a middling answer of the held-out pairs."""
        z = (score - self.mean) / max(self.std, 1e-6)
        return 1 / (1 + math.exp(-max(min(z, 30.0), -30.0)))

    def write(self, folder: Path) -> None:
        """Into folder, whole or not at all."""
        write_json(folder / CARD, asdict(self) | {"reads": self.reads.name})


def read_card(folder: str | Path, key: str) -> tuple[Path, Card]:
    """-> (the model's folder, its card) of a run of `r1 reward_model`, or of the folder it exported.

    Raises CheckpointError, naming the setting `key`, for whatever is no reward model.
    """
    given = Path(folder)
    found = next((p for p in (given / "model", given) if (p / CARD).exists() and (p / "config.json").exists()), None)
    if found is None:
        what = "is not there" if not given.exists() else "is no reward model"
        raise CheckpointError(f"{key}={folder}: {what}; give a finished run of r1 reward_model")
    try:
        card = json.loads((found / CARD).read_text())
        return found, Card(**card | {"reads": Reads[card["reads"]]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{key}={folder}: {CARD} cannot be read ({error}); export the model again") from None
