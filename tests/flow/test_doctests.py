"""The examples in docstrings of the experiments are true."""

import doctest
import importlib
import pkgutil

import pytest

import audits.experiments

MODULES = [m.name for m in pkgutil.iter_modules(audits.experiments.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    module = importlib.import_module(f"audits.experiments.{name}")
    assert doctest.testmod(module).failed == 0
