"""The mutation run over the checker: its mutants are programs, and the tests kill most of them."""

import ast

import pytest
from mutate_checker import chosen, killed, mutated


def test_mutants_are_other_programs():
    for file, index, way, _, text in chosen(40, seed=0):
        source = mutated(file, index, way)
        compile(source, str(file), "exec")
        assert source != ast.unparse(ast.parse(file.read_text())), (file, text)


@pytest.mark.slow
@pytest.mark.night
def test_most_mutants_are_killed():
    """`python tests/audits/mutate_checker.py` lists the survivors."""
    alive = []
    for file, index, way, line, text in chosen(300, seed=0):
        if not killed(file, index, way, extra=["-m", "not slow"]):
            alive.append(f"{file}:{line}: {text}")
    print("\n".join(alive))
    assert len(alive) <= 30
