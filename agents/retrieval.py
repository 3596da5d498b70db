"""BM25 (Robertson and Zaragoza 2009, eq. 3.15 and 3.16), over a handful of passages."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from agents.corpus import Passage

K1, B = 1.2, 0.75


def words(text: str) -> list[str]:
    """Lower-case words and numbers."""
    return re.findall(r"\w+", text.casefold())


class Index:
    """Passages by their words; the source's own words count, too."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = list(passages)
        self.counts = [Counter(words(f"{p.source} {p.text}")) for p in self.passages]
        self.lengths = [sum(counts.values()) for counts in self.counts]
        self.mean_length = sum(self.lengths) / max(1, len(self.lengths))
        self.with_word = Counter(word for counts in self.counts for word in counts)

    def search(self, query: str, count: int = 3) -> list[Passage]:
        """The best passages, best first; none that shares no word with the query."""
        asked = set(words(query)[:200])
        scores = [(self._score(asked, i), -i) for i in range(len(self.passages))]
        best = sorted((pair for pair in scores if pair[0] > 0), reverse=True)[:count]
        return [self.passages[-i] for _, i in best]

    def _score(self, asked: set[str], i: int) -> float:
        total, length = len(self.passages), K1 * (1 - B + B * self.lengths[i] / self.mean_length)
        return sum(
            math.log(1 + (total - self.with_word[word] + 0.5) / (self.with_word[word] + 0.5))
            * self.counts[i][word]
            * (K1 + 1)
            / (self.counts[i][word] + length)
            for word in asked
            if self.counts[i][word]
        )
