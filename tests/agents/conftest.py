"""The sandbox of rl's tests, and the answer of pytest where there is none."""

from tests.rl.conftest import sandbox  # noqa: F401
