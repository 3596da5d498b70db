"""Where an answer is over by what it says: a text such as "</answer>", however the tokenizer cuts it."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from modeling.config import ModelConfig

if TYPE_CHECKING:
    from modeling.tokenizer import Tokenizer


class StopText:
    """An automaton over tokens: how much of the text an answer ends with. It looks at no more than the next token.

    Example, the text "ab" and tokens "a", "b", "xa", "abx": after "xa" the state is 1, after "xa" "b" it is 2, the end;
    "abx" holds the text inside and ends it at once.
    """

    def __init__(self, text: str, pieces: list[str], vocab_size: int, device: torch.device | str = "cpu") -> None:
        """pieces: each token's text; ids from there up to vocab_size are no text."""
        wanted, pieces = text.encode(), pieces[:vocab_size]
        self.end = len(wanted)
        table = np.tile(np.arange(self.end + 1, dtype=np.int8)[:, None], (1, vocab_size))
        table[:, : len(pieces)] = _advance(_matcher(wanted), [piece.encode() for piece in pieces])
        self.table = torch.from_numpy(table).to(device)

    @classmethod
    def of(cls, tokenizer: "Tokenizer", cfg: ModelConfig, device: torch.device | str) -> "StopText | None":
        """The tokenizer's stop text; None where a token of its own says so."""
        if not tokenizer.stop_text:
            return None
        return cls(tokenizer.stop_text, tokenizer.pieces(), cfg.vocab_size, device)

    def after(self, state: Tensor, token: Tensor) -> Tensor:
        """The states [rows], 0 at first, after one more token in each; `end` where the text is there."""
        return self.table[state, token].long()

    def read(self, tokens: list[int]) -> int:
        """The state after all of an answer's tokens."""
        table, state = self.table.cpu().numpy(), 0
        for token in tokens:
            state = int(table[state, token])
        return state


def _matcher(wanted: bytes) -> np.ndarray:
    """Knuth, Morris and Pratt's automaton [states, 256] -> state; the last state keeps."""
    end = len(wanted)
    step = np.zeros((end + 1, 256), dtype=np.int8)
    step[end] = end
    step[0, wanted[0]] = 1
    fallback = 0
    for state in range(1, end):
        step[state] = step[fallback]
        step[state, wanted[state]] = state + 1
        fallback = step[fallback, wanted[state]]
    return step


def _advance(step: np.ndarray, pieces: list[bytes]) -> np.ndarray:
    """[states, pieces]: the state after each piece, from each state."""
    order = sorted(range(len(pieces)), key=lambda i: -len(pieces[i]))
    lengths = np.array([len(pieces[i]) for i in order])
    flat = np.frombuffer(b"".join(pieces[i] for i in order), dtype=np.uint8)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    state = np.tile(np.arange(len(step), dtype=np.int8)[:, None], (1, len(pieces)))
    for at in range(lengths.max(initial=0)):
        longer = int((lengths > at).sum())  # the longest come first
        state[:, :longer] = step[state[:, :longer], flat[starts[:longer] + at]]
    out = np.empty_like(state)
    out[:, order] = state
    return out
