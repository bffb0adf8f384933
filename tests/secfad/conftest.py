"""Double precision on request: `@pytest.mark.usefixtures("double_precision")`."""

import jax
import pytest


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield
