"""Time series and control flow: filters, differential equations, loops and branches of every kind."""

import jax
import jax.numpy as jnp
from jax import lax
from practice import normal, objective, program, regression, uniform

from secfad.errors import ModeError

WHILE = (ModeError, "while")
LOOP = (ModeError, "data-dependent loop")


def series(clients):
    return 0.3 * normal(0, 3), normal(1, clients, 6)


def symbols(clients):
    return 0.5 * normal(0, 3, 3), jnp.arange(clients * 6).reshape(clients, 6) % 3


@objective(symbols)
def forward_algorithm_of_a_hidden_markov_model(w, seen):
    move, emit = jax.nn.log_softmax(w, axis=1), jax.nn.log_softmax(w.T, axis=1)

    def step(a, s):
        return jax.nn.logsumexp(a[:, None] + move, axis=0) + emit[:, s], None

    return -jax.nn.logsumexp(lax.scan(step, jnp.zeros(3), seen)[0])


@objective(symbols)
def viterbi_score(w, seen):
    step = lambda a, s: (jnp.max(a[:, None] + w, axis=0) + jnp.sin(w[:, s]), None)
    return jnp.max(lax.scan(step, jnp.zeros(3), seen)[0])


@program("sc", symbols)
def baum_welch_step(over, w, seen):
    def client(w, seen):
        like = lambda v: jax.nn.logsumexp(
            lax.scan(
                lambda a, s: (jax.nn.logsumexp(a[:, None] + v, axis=0) + v[:, s], None),
                jnp.zeros(3),
                seen,
            )[0]
        )
        return jax.grad(like)(w)

    expected = over.sum(client, w, seen)
    return jnp.log(jnp.abs(expected) + 1) - jnp.log(
        jnp.sum(jnp.abs(expected) + 1, 1, keepdims=True)
    )


@objective(series)
def kalman_filter(p, y):
    def step(state, seen):
        mean, spread = state
        mean, spread = p[0] * mean, p[0] ** 2 * spread + jnp.exp(p[1])
        total = spread + jnp.exp(p[2])
        gain = spread / total
        cost = (seen - mean) ** 2 / total + jnp.log(total)
        return (mean + gain * (seen - mean), (1 - gain) * spread), cost

    return jnp.sum(lax.scan(step, (0.0 * p[0], 1.0 + 0 * p[0]), y)[1])


@objective(series)
def autoregression(p, y):
    lagged = jnp.stack([y[2:5], y[1:4], y[:3]], axis=1)
    return jnp.mean((y[3:] - lagged @ p) ** 2)


@objective(series)
def exponential_smoothing(p, y):
    a = jax.nn.sigmoid(p[0])
    step = lambda m, v: (a * v + (1 - a) * m, (v - m) ** 2)
    return jnp.mean(lax.scan(step, p[1], y)[1]) + p[2] ** 2


def rates(clients):
    return uniform(0, 3), uniform(1, clients, 2), normal(2, clients, 4)


@program("scc", rates, refused={"reverse": WHILE, "factored": WHILE})
def adaptive_steps_at_clients(over, p, start, y):
    def client(p, u, y):
        def body(state):
            u, t, h = state
            return u + h * p[0] * jnp.cos(u), t + h, 0.9 * h

        return jnp.sum(lax.while_loop(lambda s: s[1] < 0.5, body, (u, 0.0, 0.1))[0] * p[1]) * p[2]

    return over.mean(client, p, start, y)


# Loops and branches.


@objective(regression)
def branch_of_a_client(w, x, y):
    return lax.cond(jnp.sum(y) > 0, lambda v: jnp.sum(jnp.sin(x @ v)), lambda v: jnp.sum(v**2), w)


@objective(regression)
def switch_of_a_client(w, x, y):
    kind = jnp.abs(y[0] * 3).astype(int) % 3
    return lax.switch(
        kind, [jnp.sum, lambda v: jnp.sum(v**2), lambda v: jnp.prod(v)], w
    ) + jnp.mean(x @ w)


@objective(regression)
def branch_inside_a_scan_of_a_client(w, x, y):
    step = lambda c, r: (
        lax.cond(r[1] > 0, lambda a: a + r[0] @ w, lambda a: a * jnp.sin(w[0]), c),
        None,
    )
    return lax.scan(step, 0.5, (x, y))[0]


@objective(regression)
def loop_with_a_dynamic_slice(w, x, y):
    take = lambda i, c: c + lax.dynamic_slice_in_dim(x, i, 1)[0] @ w * y[i]
    return lax.fori_loop(0, 5, take, 0.0) ** 2


@objective(regression)
def loop_that_writes_slots(w, x, y):
    out = lax.fori_loop(0, 5, lambda i, a: a.at[i].set(jnp.sin(x[i] @ w)), jnp.zeros(5))
    return jnp.mean((out - y) ** 2)


@objective(regression)
def mapped_examples_in_batches(w, x, y):
    return jnp.mean(lax.map(lambda r: (r[0] @ w - r[1]) ** 2, (x, y), batch_size=2))


@objective(regression)
def checkpoint_of_a_loop(w, x, y):
    f = jax.checkpoint(lambda v: lax.fori_loop(0, 3, lambda _, u: jnp.sin(u), x @ v))
    return jnp.mean((f(w) - y) ** 2)


@objective(regression)
def checkpoint_with_a_policy(w, x, y):
    f = jax.checkpoint(
        lambda v: jnp.sin(jnp.tanh(x @ v)), policy=jax.checkpoint_policies.dots_saveable
    )
    return jnp.mean((f(w) - y) ** 2)


@objective(regression, refused={"reverse": WHILE, "factored": WHILE})
def while_loop_of_a_client(w, x, y):
    halved = lambda v: lax.while_loop(lambda u: jnp.sum(u**2) > 0.1, lambda u: 0.5 * u, v)
    return jnp.mean(halved(x @ w) * y)


@objective(regression, refused={"reverse": WHILE, "factored": WHILE})
def while_loop_inside_a_branch(w, x, y):
    halved = lambda v: lax.while_loop(lambda u: jnp.sum(u**2) > 0.1, lambda u: 0.5 * u, v)
    return jnp.mean(lax.cond(y[0] > 0, halved, jnp.sin, x @ w) * y)


@objective(regression)
def mapped_gradients_of_examples(w, x, y):
    g = jax.vmap(jax.grad(lambda v, a, b: jnp.tanh(a @ v - b)), in_axes=(None, 0, 0))(w, x, y)
    return jnp.sum(jnp.linalg.norm(g, axis=1))


@objective(regression)
def mapped_over_two_axes(w, x, y):
    pair = jax.vmap(jax.vmap(lambda a, b: jnp.tanh(a @ w - b), (None, 0)), (0, None))
    return jnp.mean(pair(x, y) ** 2)


@objective(regression)
def gradient_of_a_gradient(w, x, y):
    g = jax.grad(lambda v: jnp.mean(jnp.tanh(x @ v - y)))
    return jnp.vdot(jax.grad(lambda v: jnp.sum(g(v) ** 2))(w), w)


@objective(regression)
def directional_derivative_inside(w, x, y):
    return jax.jvp(lambda v: jnp.mean(jnp.sin(x @ v) * y), (w,), (jnp.ones(3),))[1]


@objective(regression)
def linear_transpose_inside(w, x, y):
    return jnp.sum(jax.linear_transpose(lambda v: x @ v, w)(y)[0] * jnp.sin(w))


@objective(regression)
def custom_rule_of_a_client(w, x, y):
    @jax.custom_jvp
    def safe(a):
        return jnp.log1p(jnp.exp(a))

    safe.defjvp(lambda p, t: (safe(*p), t[0] * jax.nn.sigmoid(p[0])))
    return jnp.mean(safe(x @ w) * y)


@jax.custom_vjp
def cubed(a):
    return a**3


cubed.defvjp(lambda a: (a**3, a), lambda a, g: (3 * a**2 * g,))
NO_TANGENT = (ModeError, "custom_vjp")


@objective(regression, jacobian=jax.jacrev, refused={"forward": NO_TANGENT})
def reverse_rule_of_a_client(w, x, y):
    return jnp.mean(cubed(x @ w) * y)


@objective(regression, jacobian=jax.jacrev, refused={"forward": NO_TANGENT})
def reverse_rule_inside_a_scan(w, x, y):
    return lax.scan(lambda c, r: (c + cubed(r[0] @ w) * r[1], None), 0.0, (x, y))[0]


@objective(regression, jacobian=jax.jacrev, refused={"forward": NO_TANGENT})
def reverse_rule_inside_a_checkpoint(w, x, y):
    return jnp.mean(jax.checkpoint(lambda v: cubed(x @ v))(w) * y)


@objective(regression, jacobian=jax.jacrev, refused={"forward": NO_TANGENT})
def reverse_rule_inside_a_branch(w, x, y):
    return jnp.mean(lax.cond(y[0] > 0, cubed, jnp.sin, x @ w) * y)


@program("scc", regression)
def scan_of_rounds_over_a_schedule(over, w, x, y):
    step = lambda v, r: (
        v - r * over.mean(lambda v, x, y: x.T @ (jnp.tanh(x @ v) - y), v, x, y),
        jnp.sum(v),
    )
    out, seen = lax.scan(step, w, jnp.array([0.3, 0.2, 0.1]))
    return jnp.sum(out**2) + jnp.sum(seen)


@program("scc", regression)
def loop_of_rounds(over, w, x, y):
    step = lambda i, v: (
        v - 0.1 * (i + 1) * over.mean(lambda v, x, y: x.T @ (x @ v - y), v, x, y) / 5
    )
    return lax.fori_loop(0, 3, step, w)


@program("scc", regression)
def server_branch_between_rounds(over, w, x, y):
    total = over.sum(lambda v, x, y: jnp.sum((x @ v - y) ** 2), w, x, y)
    w = lax.cond(total > 1.0, lambda v: 0.5 * v, lambda v: v + 1.0, w)
    return over.mean(lambda v, x, y: jnp.mean((x @ v - y) ** 2), w, x, y)


@program("scc", regression)
def server_loop_between_rounds(over, w, x, y):
    total = over.mean(lambda v, x, y: x.T @ y * v, w, x, y)
    w = lax.scan(lambda v, _: (jnp.sin(v + total), None), w, None, length=3)[0]
    return over.mean(lambda v, x, y: jnp.mean((x @ v - y) ** 2), w, x, y)


@program("scc", regression)
def checkpoint_of_a_round(over, w, x, y):
    step = jax.checkpoint(
        lambda v: v - 0.3 * over.mean(lambda v, x, y: x.T @ (x @ v - y) / 5, v, x, y)
    )
    return step(step(w))


@program("scc", regression)
def jit_of_a_round(over, w, x, y):
    step = jax.jit(lambda v: v - 0.3 * over.mean(lambda v, x, y: x.T @ (x @ v - y) / 5, v, x, y))
    return step(step(w))


@program("scc", regression)
def vmap_of_a_round(over, w, x, y):
    models = jnp.stack([w, 2 * w])
    return jax.vmap(lambda v: over.mean(lambda v, x, y: jnp.mean((x @ v - y) ** 2), v, x, y))(
        models
    )


@program("scc", regression)
def gradient_of_a_round(over, w, x, y):
    goal = lambda v: over.mean(lambda v, x, y: jnp.mean(jnp.tanh(x @ v - y) ** 2), v, x, y)
    return w - 0.3 * jax.grad(goal)(w)


@program("scc", regression)
def value_that_is_kept_between_rounds(over, w, x, y):
    first = over.sum(lambda v, x, y: jnp.tanh(x @ v) @ y, w, x, y)
    return over.sum(lambda s, x, y: jnp.sum(jnp.tanh(x @ s[0]) * s[1]), (w, first), x, y)
