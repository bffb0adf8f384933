"""In chunks of clients of any size, every program gives what it gives in one piece."""

import functools

import jax
import numpy as np
import pytest
from law_programs import CASES, CLIENTS

import secfad as fad

# Rounding of sums in another order, in float64; a missing term is 1e-3 or more here.
TOLERANCE = 1e-10
SIZES = range(1, CLIENTS + 2)
# In the default profile: constants that are read at both places, client state, choices, loops.
QUICK = {("warm_start", "forward"), ("choice_on_a_constant", "reverse"), ("constant_result", None)}
QUICK |= {("mapped_over_rates", "forward"), ("scaffold_state", "reverse"), ("server_cond", "mixed")}


def rows():
    for case in CASES.values():
        for mode in (None, "factored", "blockwise", *case.modes()):
            for size in SIZES:
                quick = (case.name, mode) in QUICK and size == 2
                marks = () if quick else (pytest.mark.slow,)
                yield pytest.param(case, mode, size, marks=marks, id=f"{case.name}-{mode}-{size}")


@functools.cache
def in_one_piece(name, mode):
    case = CASES[name]
    taken = case.derivative(mode) if mode else case.computation
    return taken, fad.simulate(taken)(*case.args())


@pytest.mark.sample(quick=2, slow=50)
@pytest.mark.parametrize(("case", "mode", "size"), list(rows()))
def test_chunks_change_no_shape_dtype_or_value(case, mode, size):
    try:
        taken, expected = in_one_piece(case.name, mode)
    except fad.errors.ModeError:
        pytest.skip("the program has no derivative in this mode")
    got = fad.simulate(taken, chunk_size=size)(*case.args())
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)
