"""The law suites run in double precision, over tables of programs kept beside them."""

import importlib.util
import sys
from pathlib import Path

import jax
import pytest


def _load(name: str) -> None:
    """Makes a table beside this file importable by name; tests have no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_load("federated_programs")
_load("programs_of_one_round")
_load("programs_of_rounds")
_load("programs_with_choices")
_load("programs_transformed")
_load("metering")
_load("random_operations")
_load("random_worlds")
_load("random_programs")
_load("random_drawing")


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Thousands of tiny programs are compiled once each: how fast they run does not matter."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def pytest_collection_modifyitems(config, items):
    """Longer evidence runs when it is asked for: `pytest -m slow`."""
    if "slow" not in config.option.markexpr:
        here = Path(__file__).parent
        late = [i for i in items if i.get_closest_marker("slow") and here in i.path.parents]
        items[:] = [i for i in items if i not in late]
        config.hook.pytest_deselected(items=late)
