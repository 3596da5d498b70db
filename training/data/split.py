"""Which questions belong to the tests, by a hash of the question; countdown has its own, by its numbers."""

import hashlib
import re


def in_test_split(question: str) -> bool:
    """Whether a question is asked in tests only: about a tenth, by the sorted tokens of its text.

    `3 + 5` and `5 + 3` fall together, whichever task asks them.
    """
    key = " ".join(sorted(re.findall(r"\w+|[^\w\s]", question.lower())))
    return hashlib.sha256(key.encode()).digest()[0] < 26
