"""The examples in module docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import secfad

MODULES = ["secfad"] + [m.name for m in pkgutil.walk_packages(secfad.__path__, "secfad.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_the_main_modules_have_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    count = sum(bool(t.examples) for m in MODULES for t in finder.find(importlib.import_module(m)))
    assert count >= 3
