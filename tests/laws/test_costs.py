"""Costs are those of a real evaluation: every message weighed, every value that a client kept."""

import functools

import pytest
from law_programs import CASES
from metering import Metered, Walk

import secfad as fad

# A choice or a while loop may take less than the most that is reported.
OPEN = {"server_while", "implicit_ridge", "cond_in_scan"}
# What a loop collects for later counts as if it were complete: too much by one row, or what another
# branch would have returned.
BOUNDED = {"scaffold_state", "scan_on_received_value", "cond_on_received_value"}
USUAL = {"fedavgm_fig4", "scan_of_rounds", "kept_between_rounds", "server_cond", "hessian_inside"}
ROWS = [
    pytest.param(
        case.name, mode, marks=() if case.name in USUAL else pytest.mark.slow, id=f"{name}-{mode}"
    )
    for name, case in CASES.items()
    for mode in ("value", *(m for m in case.modes() if m != "auto"))
]
each = pytest.mark.parametrize(("name", "mode"), ROWS)


@functools.cache
def program(name, mode):
    case = CASES[name]
    made = case.computation if mode == "value" else case.derivative(mode)
    return fad.trace(made, *case.specs())


@each
def test_reported_messages_are_those_that_an_engine_sends(name, mode):
    costs = program(name, mode).costs
    said = (costs.contacts, costs.rounds, costs.down_bytes, costs.up_bytes, costs.released)
    run = Metered(program(name, mode), CASES[name].args())
    sent = (run.contacts, run.uploads, run.down_bytes, run.up_bytes, run.released)
    if name in OPEN:
        assert all(a <= b for a, b in zip(sent, said))
    else:
        assert sent == said


@each
def test_reported_state_is_what_clients_keep_between_contacts(name, mode):
    costs = program(name, mode).costs
    if costs.contacts == float("inf"):
        pytest.skip("a while loop has no fixed number of contacts")
    kept = max(Walk(program(name, mode), branch).state_bytes for branch in range(3))
    assert costs.readdressed or not kept
    assert costs.state_bytes >= kept if name in BOUNDED else costs.state_bytes == kept
