"""Costs are those of a real evaluation: every message weighed, every value that a client kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
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


@pytest.mark.sample(quick=3, slow=40)
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
    kept = max(Walk(program(name, mode), branch).state_bytes for branch in range(3))
    assert costs.readdressed or not kept
    assert costs.state_bytes >= kept if name in BOUNDED else costs.state_bytes == kept


S, C = fad.SERVER, fad.CLIENTS
W, X = np.ones(3), np.ones((4, 3))


@fad.computation(w=S, n=S, x=C)
def rounds(w, n, x):
    """The server hands its own values from round to round."""
    step = lambda i, w: w - 0.1 * fad.mean(x[0] * fad.broadcast(w))
    return jnp.sum(jax.lax.fori_loop(0, n, step, w))


@fad.computation(w=S, n=S, x=C)
def handed_through(w, n, x):
    """Clients carry what is their own, unchanged."""

    def step(i, s):
        w, own = s
        return w - 0.1 * fad.mean(own[0] * fad.broadcast(w)), own

    return jnp.sum(jax.lax.fori_loop(0, n, step, (w, x))[0])


@fad.computation(w=S, n=S, x=C)
def momentum(w, n, x):
    """Clients carry what they computed."""

    def step(i, s):
        w, own = s
        own = own + jnp.sin(x[0] * fad.broadcast(w))
        return w - 0.1 * fad.mean(own), own

    return jnp.sum(jax.lax.fori_loop(0, n, step, (w, x[0]))[0])


@fad.computation(w=S, n=S, x=C)
def decayed(w, n, x):
    """What clients carry follows from their own data and the number of the round."""

    def step(i, s):
        w, own = s
        return w - 0.1 * fad.mean(own * fad.broadcast(w)), 0.5 * own

    return jnp.sum(jax.lax.fori_loop(0, n, step, (w, x[0]))[0])


@fad.computation(w=S, n=S, x=C)
def ended(w, n, x):
    """How often something of their own changed, clients heard from the server."""

    def step(i, s):
        w, own = s
        return w - 0.1 * fad.mean(own * fad.broadcast(w)), 0.5 * own

    w, own = jax.lax.fori_loop(0, n, step, (w, x[0]))
    return jnp.sum(fad.sum(own * fad.broadcast(w)))


@fad.computation(w=S, n=S, x=C)
def computed_together(w, n, x):
    """One call of a client computes something of its own beside what it makes of a message."""
    both = jax.jit(lambda b, x: (jnp.sin(b * x), jnp.cos(x)))
    one, own = both(fad.broadcast(w), x[0])
    first = fad.sum(one)
    return n + jnp.sum(fad.sum(own * fad.broadcast(first)))


@pytest.mark.parametrize("iterations", [2, 5])
@pytest.mark.parametrize(
    ("computation", "state"),
    [
        (rounds, 0),
        (handed_through, 0),
        (momentum, 24),
        (decayed, 0),
        (ended, 24),
        (computed_together, 0),
    ],
    ids=lambda c: getattr(c, "name", None),
)
def test_state_in_loops_of_the_server_and_beside_what_was_received(computation, state, iterations):
    program = fad.trace(computation, W, 3, X[:2])
    assert Walk(program, iterations=iterations).state_bytes == state
    assert program.costs.state_bytes == state
    assert program.costs.readdressed == (state > 0)


@pytest.mark.parametrize("mode", ["forward", "reverse", "factored", "mixed", "blockwise"])
@pytest.mark.parametrize("square", [False, True])
def test_the_clients_of_one_contact_are_those_of_one_contact(mode, square):
    """Cotangents of what is linear are constants, which no client answers."""

    @fad.computation(w=S, x=C)
    def linear(w, x):
        own = fad.mean(jnp.sum(x))
        return fad.mean(jnp.sum(fad.broadcast(w))) + (own**2 if square else own)

    costs = fad.trace(fad.value_and_grad(linear, mode=mode), W, X[:2]).costs
    assert (costs.contacts, costs.readdressed) == (1, False)
