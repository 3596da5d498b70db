"""A limit on thinking, kept while an answer is written: after so many tokens inside <think> its end is forced."""

OPEN, CLOSE = "<think>", "</think>"


class ThinkingBudget:
    """Watches one answer, token by token, by text: a tokenizer from elsewhere may have no tokens for the tags.

    Example, budget 2 and a token a word: after "<think>" "a" "b" it gives the tokens of closing; after "<think>" "a"
    "</think>" never any.
    """

    __slots__ = ("_closing", "_count", "_left", "_open", "_pieces", "_tail", "budget")

    def __init__(self, budget: int, *, opened: bool, pieces: list[str], closing: list[int]) -> None:
        """opened: whether the prompt has opened the thinking. pieces: each token's text. closing: what is forced."""
        self.budget, self._pieces, self._closing = budget, pieces, closing
        self._open, self._count, self._tail, self._left = opened, 0, "", True

    def at_first(self) -> list[int]:
        """Tokens that the answer has to begin with."""
        return self._spent()

    def after(self, token: int) -> list[int]:
        """Tokens that have to follow this one; none in most cases."""
        if not self._left:
            return []
        # Tokens beyond the tokenizer's are no text.
        self._tail = (self._tail + (self._pieces[token] if token < len(self._pieces) else ""))[-24:]
        if not self._open:
            if OPEN not in self._tail:
                return []
            self._open, self._tail = True, ""
        else:
            self._count += 1
            if CLOSE in self._tail:
                self._left = False
                return []
        return self._spent()

    def _spent(self) -> list[int]:
        if not self._left or not self._open or self._count < self.budget:
            return []
        self._left = False
        return self._closing
