"""The plan shows every mode with its price or its reason; tables and pictures say what is sent."""

import jax
import jax.numpy as jnp
import pytest

import secfad as fad
from secfad.errors import ArgumentError, ModeError

S, C = fad.SERVER, fad.CLIENTS
ROW = jax.ShapeDtypeStruct((3,), jnp.float32)


@fad.computation(w=S, x=C)
def two_rounds(w, x):
    first = fad.mean(jnp.sin(fad.broadcast(w, name="model") * x), name="first")
    return fad.mean(jnp.sum(fad.broadcast(w - first, name="new") * x) ** 2, name="loss")


@fad.computation(w=S, x=C)
def endless(w, x):
    body = lambda w: w - fad.sum(fad.broadcast(w) * x)
    return jnp.sum(jax.lax.while_loop(lambda w: w[0] > 0, body, w))


def test_plan_agrees_with_what_auto_takes():
    made = fad.plan(two_rounds, ROW, ROW)
    auto = fad.trace(fad.value_and_grad(two_rounds, mode="auto"), ROW, ROW)
    assert made[made.mode].program.digest == auto.digest


def test_plan_prices_by_the_model():
    bytes_only = fad.CostModel(contact=0, state=0, up_byte=1, down_byte=0, state_byte=0)
    made = fad.plan(two_rounds, ROW, ROW, cost=bytes_only)
    for option in made.options:
        assert option.cost == option.program.costs.up_bytes


def test_refused_modes_keep_their_reasons():
    made = fad.plan(endless, ROW, ROW)
    assert made.mode == "forward"
    assert made["reverse"].program is None
    assert "while loop" in made["reverse"].note
    assert "data-dependent" in made["mixed"].note


def test_plan_of_a_value_with_aux_is_of_the_value_alone():
    def with_aux(w, x):
        return two_rounds.fun(w, x), {"count": fad.sum(1.0), "own": x}

    made = fad.plan(fad.computation(w=S, x=C)(with_aux), ROW, ROW, has_aux=True)
    assert [o.cost for o in made.options] == [
        o.cost for o in fad.plan(two_rounds, ROW, ROW).options
    ]
    with pytest.raises(ArgumentError, match="pair"):
        fad.plan(two_rounds, ROW, ROW, has_aux=True)


def test_forbidden_readdressing_is_shown_as_not_allowed():
    strict = fad.CostModel(readdress=False)
    assert "not usable" in fad.plan(two_rounds, ROW, ROW, cost=strict).table()


def test_plan_without_any_mode_names_each_reason():
    strict = fad.CostModel(readdress=False)

    @fad.computation(w=S, x=C)
    def impossible(w, x):
        body = lambda w: w - fad.sum(x * stay(fad.broadcast(w)))
        return jnp.sum(jax.lax.while_loop(lambda w: w[0] > 0, body, w))

    made = fad.plan(impossible, ROW, ROW, cost=strict)
    assert "no mode can be used" in made.table()
    with pytest.raises(ModeError, match=r"mixed: .* forward: .* reverse: "):
        made.mode


@jax.custom_vjp
def stay(x):
    return x


stay.defvjp(lambda x: (x, None), lambda _, g: (g,))


def test_table_of_modes_has_a_line_per_mode_and_a_choice():
    lines = fad.plan(two_rounds, ROW, ROW).table().splitlines()
    assert [line.split()[0] for line in lines[3:7]] == ["value", "mixed", "forward", "reverse"]
    assert "cheapest: mixed" in lines


def test_table_of_modes_says_what_the_others_cost_on_top():
    made = fad.plan(two_rounds, ROW, ROW)
    best, other = made["mixed"], made["reverse"]
    contacts = other.program.costs.contacts - best.program.costs.contacts
    text = " ".join(made.table().split())
    assert f"reverse: +{other.cost - best.cost:,.0f} (contacts +{contacts},000,000" in text
    assert "weights: contact 1,000,000, same clients 1,000,000, byte up 4, byte down 1" in text


@pytest.mark.parametrize("side", [3, 10**9])
def test_table_of_modes_fits_eighty_columns(side):
    row = jax.ShapeDtypeStruct((side,), jnp.float32)
    assert max(map(len, fad.plan(two_rounds, row, row).table().splitlines())) <= 80


def test_table_of_modes_rounds_sizes_that_are_long():
    row = jax.ShapeDtypeStruct((12_345,), jnp.float32)
    text = fad.plan(two_rounds, row, row).table()
    assert "98.8 kB" in text  # Two models of 49,380 B.


def test_modes_that_a_while_loop_leaves_open_are_still_compared():
    """Without a count, every mode would cost infinitely much and the first would win."""

    @fad.computation(w=S, x=C)
    def solve(w, x):
        normal = lambda v: v + fad.sum(x * jnp.vdot(x, fad.broadcast(v, name="direction")))
        return jnp.sum(jax.scipy.sparse.linalg.cg(normal, w**2)[0])

    wide = jax.ShapeDtypeStruct((1000,), jnp.float32)
    made = fad.plan(solve, wide, wide)
    assert made[made.mode].program.costs.contacts == float("inf")
    assert made["forward"].cost > 10 * made["reverse"].cost
    assert made.mode in ("reverse", "factored")
    assert "open" in made.table()
    assert "counts as 10 iterations" in made.table()


def test_program_table_lists_every_message_and_the_costs():
    table = fad.trace(two_rounds, ROW, ROW).table()
    for word in ("model", "first", "new", "loss", "float32[3]", "round 2", "contacts 2"):
        assert word in table


def test_table_names_what_the_server_repeats():
    @fad.computation(w=S, x=C)
    def looped(w, x):
        step = lambda w, _: (w - fad.sum(fad.broadcast(w) * x), None)
        return jax.lax.scan(step, w, None, length=7)[0]

    assert "repeat 7 times" in fad.trace(looped, ROW, ROW).table()
