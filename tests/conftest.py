"""Settings for all tests: Hypothesis repeats the same examples, and no window system is needed.

On request (`@pytest.mark.usefixtures(...)`): double precision, and quick compilation.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")


# Files of a few long tests.
LONG = ("flow", "experiments", "test_notebooks.py")


def pytest_collection_modifyitems(items):
    """Long files come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: not any(part in LONG for part in item.path.parts))


@pytest.fixture
def double_precision():
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quick_compilation():
    """Many small programs run a few times each: how fast they run does not matter."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
