"""The table of DrJAX programs, importable by name; DrJAX itself asks JAX for an old kind of mesh."""

import importlib.util
import sys
from pathlib import Path

import jax
import pytest

_NAME = "drjax_programs"
_SPEC = importlib.util.spec_from_file_location(_NAME, Path(__file__).parent / f"{_NAME}.py")
sys.modules[_NAME] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sys.modules[_NAME])


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(
                pytest.mark.filterwarnings("ignore:.*thread_resources:DeprecationWarning")
            )


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Many small programs are compiled once each: how fast they run does not matter."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
