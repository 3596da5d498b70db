"""Where a model that is named for the Hugging Face Hub lies on this machine. Loads without torch."""

import re
from pathlib import Path

from infra.errors import ConfigError

FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "LICENSE*"]
"What is fetched: data, never code."


def resolve(key: str, name: str) -> Path:
    """The folder `name`, or that of the Hub's model `owner/name`: the cached one, else fetched.

    Raises ConfigError, naming the setting `key`, where there is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        problem = "is no folder" if folder.exists() else "is not there"
        raise ConfigError(key, name, problem, "give a Hugging Face folder, or a model's name as in owner/name")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ConfigError(
            key, name, f"is no folder here and cannot be fetched ({why})", "give the path of a downloaded model"
        ) from error
