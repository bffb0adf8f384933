"""Who must come back: clients that wait for the cotangent of a sum that they have answered."""

import jax
import jax.numpy as jnp
import pytest

import secfad as fad

S, C = fad.SERVER, fad.CLIENTS
D = 3
W, X = jnp.ones(D), jnp.ones((4, D))


def again(computation, *specs):
    costs = fad.trace(computation, *specs).costs
    return costs.readdressed, costs.state_bytes


@fad.computation(w=S, x=C)
def moments(w, x):
    """Clients answer with their own data, which they need not have kept."""
    image = fad.mean(x.T @ (x @ fad.broadcast(w, name="model")), name="image")
    return jnp.sqrt(jnp.vdot(image, image))


@fad.computation(w=S, x=C)
def power_iteration(w, x):
    def improve(v, _):
        image = fad.mean(x.T @ (x @ fad.broadcast(v)))
        return image / jnp.linalg.norm(image), None

    return jax.lax.scan(improve, w, None, length=4)[0].sum()


@fad.computation(w=S, x=C)
def one_round_each(w, x):
    """Every iteration adds up the same linear function; no cotangent depends on a sum."""

    def add(total, given):
        row, scale = given
        return total + fad.sum(jnp.vdot(row, fad.broadcast(scale * w)), name="part"), None

    return jax.lax.scan(add, 0.0, (x, jnp.arange(4.0)))[0]


@fad.computation(w=S, x=C)
def chosen(w, x):
    received = lambda w: fad.broadcast(w, name="model")
    branches = (lambda w: fad.sum(jnp.sin(x @ received(w))), lambda w: fad.sum(x @ received(w)))
    return jax.lax.cond(w[0] > 0, *branches, w).sum()


@pytest.mark.parametrize("fun", [moments, power_iteration, one_round_each])
def test_reverse_mode_needs_the_same_clients_although_they_keep_nothing(fun):
    made = fad.value_and_grad(fun, mode="reverse")
    assert again(made, W, X) == (True, 0)


@pytest.mark.parametrize("mode", ["forward", "mixed"])
@pytest.mark.parametrize("fun", [moments, power_iteration, one_round_each, chosen])
def test_other_modes_and_values_do_not(fun, mode):
    assert again(fun, W, X) == (False, 0)
    assert again(fad.value_and_grad(fun, mode=mode), W, X) == (False, 0)


def test_a_gradient_without_the_value_has_nothing_to_go_back_to():
    # One sum is enough: that of the value is not needed.
    assert fad.trace(fad.grad(chosen, mode="reverse"), W, X).costs.contacts == 1
    assert again(fad.grad(chosen, mode="reverse"), W, X) == (False, 0)


def loss(w, x):
    return fad.mean(jnp.sum((x @ fad.broadcast(w)) ** 2), name="loss")


def test_rounds_of_gradients_may_have_new_clients_each():
    @fad.computation(w=S, x=C)
    def descent(w, x):
        step = lambda w, _: (w - 0.1 * fad.grad(inner, mode="reverse")(w, x), None)
        w = jax.lax.scan(step, w, None, length=3)[0]
        return jax.lax.scan(step, w, None, length=2)[0]

    inner = fad.computation(w=S, x=C)(loss)
    assert again(descent, W, X) == (False, 0)


def test_rounds_of_gradients_of_a_root_need_their_clients_twice():
    @fad.computation(w=S, x=C)
    def descent(w, x):
        step = lambda w, _: (w - 0.1 * jax.grad(lambda w: jnp.sqrt(loss(w, x)))(w), None)
        return jax.lax.scan(step, w, None, length=3)[0]

    assert again(descent, W, X)[0]


def test_a_second_derivative_in_forward_mode_over_a_late_gradient_waits_too():
    gradient = fad.grad(power_iteration, mode="reverse")
    assert again(fad.jacobian(gradient, mode="forward"), W, X)[0]


def test_a_gradient_that_stays_at_the_clients_waits_as_well():
    made = fad.grad(moments, argnums=1, mode="reverse")
    assert again(made, W, X)[0]


def test_a_cost_model_without_the_same_clients_does_not_choose_it():
    strict = fad.CostModel(contact=0, state=0, up_byte=1, down_byte=1, readdress=False)
    plan = fad.plan(power_iteration, W, X, cost=strict)
    assert not plan["reverse"].usable
    assert not plan[plan.mode].program.costs.readdressed


def product(x, name=None):
    return lambda w: fad.sum(jnp.vdot(x, fad.broadcast(w, name=name)), name=name)


@pytest.mark.parametrize("named", [False, True])
def test_where_a_repeated_call_may_be_the_partner_the_same_clients_are_needed(named):
    """Clients answer for the second round in its contact; a name says that it is not for the first."""

    @fad.computation(w=S, x=C)
    def rounds(w, x):
        first = product(x)(jnp.sin(w))
        loss = product(x, "second" if named else None)
        second, pull = jax.vjp(lambda w: loss(w * first) * first, w)
        return first + second, pull(1.0)[0]

    assert again(rounds, W, W) == (not named, 0)


@pytest.mark.parametrize("named", [False, True])
def test_a_tangent_may_belong_to_any_value_of_its_name(named):
    """Client code is linear in the model, so that dataflow does not tell the rounds apart."""

    @fad.computation(w=S, x=C)
    def rounds(w, x):
        first = product(x, "first" if named else None)(jnp.sin(w))
        second, along = jax.linearize(lambda w: product(x)(w * first), w)
        return first + second, along(W)

    assert again(rounds, W, W) == (not named, 0)


def test_a_tangent_in_another_loop_than_its_value_needs_the_same_clients():
    @fad.computation(w=S, x=C)
    def rounds(w, x):
        step = lambda w, _: (jnp.sin(fad.sum(x * fad.broadcast(w))), None)
        value, along = jax.linearize(lambda w: jax.lax.scan(step, w, length=3)[0], w)
        return value, along(W)

    assert again(rounds, W, W) == (True, 0)


def test_a_broadcast_that_was_merged_into_one_of_another_name_is_still_a_partner():
    @fad.computation(w=S, x=C)
    def rounds(w, x):
        first = product(x, "one")(w)
        value, pull = jax.vjp(product(x, "other"), w)
        return first, pull(value)[0]

    assert again(rounds, W, W) == (True, 0)


def test_gradient_steps_by_one_function_may_have_new_clients_each():
    """Each answer is for the broadcast of its contact, which no other answer is for."""

    @fad.computation(w=S, x=C)
    def steps(w, x):
        for _ in range(3):
            value, slope = jax.value_and_grad(lambda w: jnp.tanh(loss(w, x)))(w)
            w = w - 0.1 * slope / (1 + value)
        return w

    @fad.computation(w=S, x=C)
    def plain(w, x):
        for _ in range(3):
            w = w - 0.1 * jax.grad(lambda w: loss(w, x))(w)
        return loss(w, x)

    assert again(plain, W, X) == (False, 0)
    assert again(steps, W, X)[0]


def test_an_answer_that_may_be_for_an_earlier_round_too_needs_its_clients():
    """The same messages as a step and a loss, but the answer is a part of both rounds' derivative."""

    @fad.computation(w=S, x=C)
    def rounds(w, x):
        def value(w):
            received = fad.broadcast(w)
            first = fad.sum(jnp.vdot(x, received))
            later = fad.broadcast(jax.lax.stop_gradient(first))
            return first + fad.sum(jnp.vdot(x, received) * jnp.sin(later)), first

        slope, first = jax.grad(value, has_aux=True)(w)
        return slope, first

    assert again(rounds, W, W)[0]


@pytest.mark.parametrize("named", [False, True])
def test_a_round_by_the_same_name_without_an_answer_of_its_own_may_be_the_partner_too(named):
    """The gradient by a rate of the server needs no client of the first round, which only a name says."""

    @fad.computation(rate=S, w=S, x=C)
    def tuned(rate, w, x):
        step = fad.mean(x.T @ (x @ fad.broadcast(w, name="model" if named else None)))
        return fad.mean(jnp.sum((x @ fad.broadcast(w - rate * step)) ** 2))

    assert again(fad.value_and_grad(tuned, mode="factored"), jnp.ones(()), W, X) == (not named, 0)
