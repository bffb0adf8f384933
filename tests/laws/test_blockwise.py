"""Blockwise mode is the derivative however its sums are divided, also if none brings a Jacobian."""

import jax
import pytest
from law_programs import CASES
from numpy.testing import assert_allclose

import secfad as fad
from secfad.derivatives import jacobians
from secfad.errors import ModeError

USUAL = {"fedavgm_fig4", "cond_in_scan"}
# What mixed mode refuses, and a rule whose cotangent is no derivative.
GONE = {"server_while", "implicit_ridge", "custom_rule_around_communication"}
GONE |= {"custom_vjp_in_client_code", "scaffold_state"}
NAMES = [
    pytest.param(name, marks=() if name in USUAL else pytest.mark.slow)
    for name in CASES
    if name not in GONE
]


@pytest.mark.sample(quick=1, slow=40)
@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_derivative_equals_the_centralised_one(name, rows, monkeypatch):
    monkeypatch.setattr(jacobians, "SMALL_BYTES", 0)
    monkeypatch.setattr(jacobians, "FEW_ROWS", rows)
    case = CASES[name]
    derived, args = case.derivative("blockwise"), case.args()
    if (name, rows) == ("client_while", 0):
        with pytest.raises(ModeError, match="has no blockwise mode"):
            fad.trace(derived, *case.specs())
        return
    expected = jax.tree.leaves(jax.jit(case.expected_derivative)(*args))
    for got in (
        fad.simulate(derived)(*args),
        fad.execute(fad.trace(derived, *case.specs()), *args),
    ):
        for a, b in zip(jax.tree.leaves(got), expected, strict=True):
            assert_allclose(a, b, rtol=1e-10, atol=1e-10)
