"""A sandbox for the tests of code, or the reason why there is none."""

import pytest

from infra.errors import SandboxError
from rl.sandbox.runner import Sandbox, shared
from tests.sandbox import LIMITS


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    """One pool for all tests; skips them where programs cannot be shut in."""
    try:
        return shared(LIMITS)
    except SandboxError as error:
        pytest.skip(str(error))
