"""A Hugging Face folder of links to another's weights, with a tokenizer that transformers loads."""

import json
from pathlib import Path

from modeling.tokenizer import EOS, PAD, Tokenizer

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json")


def lay_out(folder: Path, out: Path, tokenizer: Tokenizer) -> Path:
    """A folder with links to the weights, and with what transformers needs to know of a tokenizer made here."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.iterdir():
        old.unlink()
    for pattern in _WEIGHTS:
        for file in folder.glob(pattern):
            (out / file.name).symlink_to(file.resolve())
    tokenizer.save(out)
    if tokenizer.is_own:
        known = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "pad_token": PAD}
        (out / "tokenizer_config.json").write_text(json.dumps(known))
        ends = {"eos_token_id": sorted(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}
        (out / "generation_config.json").write_text(json.dumps(ends))
    return out
