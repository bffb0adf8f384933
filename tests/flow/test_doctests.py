"""The examples in docstrings of the experiments are true."""

import doctest
import importlib
import pkgutil

import pytest

import audits.quickstart

MODULES = [m.name for m in pkgutil.iter_modules(audits.quickstart.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    module = importlib.import_module(f"audits.quickstart.{name}")
    assert doctest.testmod(module).failed == 0
