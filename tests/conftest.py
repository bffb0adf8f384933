"""Settings for all tests: Hypothesis repeats the same examples, and no window system is needed.

Three profiles: quick (`pytest`), slow (`pytest -m "slow and not night"`, run by continuous
integration after it), and night (`pytest -m night`, the rest of the largest tables).

On request (`@pytest.mark.usefixtures(...)`): double precision, and quick compilation.
"""

import hashlib
import os
import pathlib

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Shares tables out over the profiles; long files come first, so that no worker ends alone."""
    tables = {}
    for item in items:
        if marker := item.get_closest_marker("sample"):
            tables.setdefault((item.parent.nodeid, item.originalname), (marker, []))[1].append(item)
    for marker, rows in tables.values():
        _share_out(rows, **marker.kwargs)
    items.sort(key=lambda item: not any(part in LONG for part in item.path.parts))


def _share_out(rows, quick=None, slow=None):
    """`quick` rows of a table stay in the quick profile, `slow` ones in the slow profile.

    Which ones depends on their names only, so it is the same on every machine.
    """
    rows = sorted(rows, key=lambda row: hashlib.sha256(row.name.encode()).digest())
    fast = [row for row in rows if not row.get_closest_marker("slow")]
    if quick is not None:
        for row in fast[quick:]:
            row.add_marker("slow")
    if slow is not None:
        for row in [row for row in rows if row.get_closest_marker("slow")][slow:]:
            row.add_marker("night")


MOST_MEMORY = 2_500_000_000  # bytes of one worker; what JAX has compiled is dropped above


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory():
    """Thousands of programs are compiled in one process, and JAX keeps them all."""
    yield
    statistics = pathlib.Path("/proc/self/statm")
    if statistics.exists():
        pages = int(statistics.read_text().split()[1])
        if pages * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
            import jax

            jax.clear_caches()


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
