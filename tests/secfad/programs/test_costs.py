"""Costs are those of the messages that an engine really sends; Fig. 4 has the paper's figures."""

import jax
import jax.numpy as jnp
import pytest

import secfad as fad
from secfad.engines.local import plain_sum
from secfad.programs.costs import Costs
from secfad.programs.stages import Nested, walk

S, C = fad.SERVER, fad.CLIENTS
D = 3


def loss(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


@fad.computation(hyper=S, w=S, m=S, x=C, y=C)
def figure4(hyper, w, m, x, y):
    """A FedAvgM round, then the loss of the new model."""
    delta = fad.mean(0.1 * jax.grad(loss)(fad.broadcast(w, name="model"), x, y), name="delta")
    new = w - hyper[0] * (hyper[1] * m + delta)
    return fad.mean(loss(fad.broadcast(new, name="new_model"), x, y), name="loss")


FLOAT = jnp.float32
SPECS = [jax.ShapeDtypeStruct(s, FLOAT) for s in ((2,), (D,), (D,), (4, D), (4,))]
ARGS = [jnp.ones(s.shape if i < 3 else (6, *s.shape)) for i, s in enumerate(SPECS)]


def derived(mode):
    return fad.trace(fad.value_and_grad(figure4, mode=mode), *SPECS)


def test_value_of_figure_4():
    costs = fad.trace(figure4, *SPECS).costs
    assert (costs.contacts, costs.rounds, costs.readdressed) == (2, 2, False)
    assert (costs.down_bytes, costs.up_bytes) == (2 * D * 4, (D + 1) * 4)


def test_reverse_mode_of_figure_4_needs_three_contacts_with_the_same_clients():
    costs = derived("reverse").costs
    assert costs.contacts == 3
    assert costs.readdressed
    assert costs.state_bytes > 0


def test_forward_mode_of_figure_4_needs_two_contacts():
    costs = derived("forward").costs
    assert (costs.contacts, costs.readdressed, costs.state_bytes) == (2, False, 0)
    assert costs.down_bytes > fad.trace(figure4, *SPECS).costs.down_bytes


def test_mixed_mode_of_figure_4_needs_two_contacts_no_state_and_no_further_download():
    costs, value = derived("mixed").costs, fad.trace(figure4, *SPECS).costs
    assert (costs.contacts, costs.readdressed, costs.state_bytes) == (2, False, 0)
    assert costs.down_bytes == value.down_bytes
    # The Jacobian of the loss with respect to the new model; none of the first round, whose model
    # does not depend on the hyperparameters.
    assert costs.up_bytes == value.up_bytes + D * 4
    assert costs.sums == 3


def test_released_numbers_are_those_that_sums_give():
    assert fad.trace(figure4, *SPECS).costs.released == D + 1
    assert derived("mixed").costs.released == D + 1 + D
    # One loss and its derivative for each of the two hyperparameters.
    assert derived("forward").costs.released == D + 1 + 2


def test_dear_releases_choose_the_mode_that_releases_least():
    dear = fad.CostModel(contact=1, state=1, up_byte=0, down_byte=0, released_number=1e6)
    assert fad.plan(figure4, *SPECS, cost=dear).mode == "forward"


def test_a_weight_of_zero_ignores_what_has_no_bound():
    assert fad.CostModel(up_byte=0).total(Costs(contacts=1, up_bytes=float("inf"))) < float("inf")


def test_auto_takes_mixed_mode_for_figure_4():
    assert derived("auto").digest == derived("mixed").digest


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_reported_uploads_are_those_that_the_engine_sends(mode):
    sent = []

    def watch(upload):
        sent.append(sum(v[0].nbytes for v in upload.values))
        return plain_sum(upload)

    program = derived(mode)
    fad.execute(program, *ARGS, aggregate=watch)
    assert sum(sent) == program.costs.up_bytes
    assert len(sent) == program.rounds


def test_sums_that_can_travel_together_share_a_round():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        received = fad.broadcast(w)
        return fad.sum(received * x, name="one") * fad.sum(x**2, name="two")

    assert fad.trace(fun, 1.0, 1.0).costs.contacts == 1


def test_numerator_and_denominator_of_a_mean_share_a_message():
    @fad.computation(w=S, x=C, n=C)
    def fun(w, x, n):
        first = fad.sum(x, name="first")
        return fad.mean(x * fad.broadcast(first), weights=n, name="mean")

    rounds = [len(getattr(i, "uploads", ())) for i in fad.trace(fun, 1.0, 1.0, 1.0).schedule.items]
    assert rounds.count(1) == 2


def test_scan_multiplies_the_costs_of_its_body():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        step = lambda w, _: (w - fad.sum(fad.broadcast(w) * x), None)
        return jax.lax.scan(step, w, None, length=1000)[0]

    program = fad.trace(fun, jnp.ones(D), jnp.ones(D))
    assert program.costs.contacts == 1000
    assert program.costs.up_bytes == 1000 * D * 4
    assert len(program.schedule.items) < 5


def test_while_loop_costs_have_no_bound():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        return jax.lax.while_loop(lambda w: w < 1, lambda w: w + fad.sum(x * fad.broadcast(w)), w)

    assert fad.trace(fun, 1.0, 1.0).rounds == float("inf")


def test_a_while_loop_of_rounds_inside_a_loop_has_no_bound_either():
    def rounds(w, x):
        return jax.lax.while_loop(lambda v: v < 3, lambda v: v + fad.sum(x * fad.broadcast(v)), w)

    @fad.computation(w=S, x=C)
    def fun(w, x):
        return jax.lax.fori_loop(0, 2, lambda i, v: 0.5 * rounds(v, x), w)

    costs = fad.trace(fun, 1.0, 1.0).costs
    assert costs.contacts == costs.up_bytes == float("inf")


def test_branch_costs_at_most_its_dearest_branch():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        return jax.lax.cond(
            w[0] > 0, lambda w: fad.sum(fad.broadcast(w) * x), lambda w: fad.sum(x) * w, w
        )

    costs = fad.trace(fun, jnp.ones(D), jnp.ones(D)).costs
    assert (costs.rounds, costs.up_bytes, costs.down_bytes) == (1, D * 4, D * 4)


def test_client_state_is_what_a_later_round_needs():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        held = jnp.exp(x * fad.broadcast(w))
        return fad.sum(held * fad.broadcast(fad.sum(held)))

    costs = fad.trace(fun, jnp.ones(D), jnp.ones(D)).costs
    assert (costs.state_bytes, costs.readdressed) == (D * 4, True)


def test_second_visit_that_needs_no_state_is_no_readdressing():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        return fad.sum(x * fad.broadcast(fad.sum(x)))

    assert not fad.trace(fun, jnp.ones(D), jnp.ones(D)).costs.readdressed


def test_a_silent_loop_over_values_of_both_places_is_no_barrier():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        step = lambda c, _: ((jnp.sin(c[0]), jnp.cos(c[1])), None)
        w, x = jax.lax.scan(step, (w, x * fad.broadcast(w)), None, length=2)[0]
        return w + fad.sum(x)

    costs = fad.trace(fun, jnp.ones(D), jnp.ones(D)).costs
    assert (costs.contacts, costs.state_bytes) == (1, 0)


def test_state_that_a_loop_collects_for_a_later_one_is_counted():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        step = lambda w, _: (w - fad.sum(jnp.sin(fad.broadcast(w) * x)), None)
        return jnp.sum(jax.lax.scan(step, w, None, length=7)[0])

    program = fad.trace(fad.grad(fun, mode="reverse"), jnp.ones(D), jnp.ones(D))
    # The cosine of every round, for the way back.
    assert (program.costs.state_bytes, program.costs.readdressed) == (7 * D * 4, True)
    assert "kept  84 B at every client" in program.table()


def test_what_follows_from_data_alone_is_no_state():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        features = jnp.exp(x)
        first = fad.sum(features * fad.broadcast(w))
        return fad.sum(features * fad.broadcast(jnp.sin(first)))

    costs = fad.trace(fun, jnp.ones(D), jnp.ones(D)).costs
    assert (costs.contacts, costs.state_bytes, costs.readdressed) == (2, 0, False)


def test_what_a_client_computed_in_the_branch_that_the_server_chose_is_state():
    @fad.computation(w=S, x=C)
    def fun(w, x):
        branches = [lambda: (jnp.exp(x), fad.sum(x)), lambda: (x, fad.sum(x**2))]
        mine, total = jax.lax.cond(w[0] > 0, *branches)
        return fad.sum(mine * fad.broadcast(total))

    assert fad.trace(fun, jnp.ones(D), jnp.ones(D)).costs.readdressed


@pytest.mark.parametrize("mode", ["forward", "reverse", "factored", "mixed", "blockwise"])
def test_a_sum_that_a_loop_repeats_is_repeated_in_every_mode(mode):
    @fad.computation(w=S, x=C)
    def fun(w, x):
        def step(w, _):
            # The first sum is the same in every iteration, and under noise another release.
            return w - fad.sum(x, name="same") * fad.sum(fad.broadcast(w) * x), None

        return jax.lax.scan(step, w, None, length=3)[0].sum()

    made = fad.trace(fad.value_and_grad(fun, mode=mode), jnp.ones(D), jnp.ones(D))
    sent = [m for plan, item in walk(made.schedule) for m in getattr(item, "uploads", ())]
    same = [m for m in sent if m.name == "same"]
    assert len(same) == 1
    looped = [i.bodies[0] for _, i in walk(made.schedule) if isinstance(i, Nested)]
    assert any(same[0] in body.placed.steps for body in looped)


@pytest.mark.parametrize("mode", ["forward", "mixed"])
def test_gradients_inside_rounds_add_no_contact(mode):
    """Their cotangents, which do not change, are sent in every round rather than before all."""

    @fad.computation(w=S, x=C)
    def descent(w, x):
        loss = lambda w: fad.mean(jnp.sum(jnp.sin(x * fad.broadcast(w))))
        return jax.lax.scan(lambda w, _: (w - jax.grad(loss)(w), None), w, length=3)[0].sum()

    costs = fad.trace(fad.grad(descent, mode=mode), jnp.ones(D), jnp.ones(D)).costs
    assert (costs.contacts, costs.state_bytes, costs.readdressed) == (3, 0, False)
