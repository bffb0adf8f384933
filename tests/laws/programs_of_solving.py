"""Optimisation and implicit differentiation: local training, solvers, bilevel problems, fixed points."""

import jax
import jax.numpy as jnp
from jax import lax
from practice import normal, program, regression, uniform

from secfad.errors import ModeError

LOOP = {
    "mixed": (ModeError, "data-dependent loop"),
    "blockwise": (ModeError, "data-dependent loop"),
}


def loss(w, x, y):
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


def trained(w, x, y, steps=2, rate=0.3):
    return lax.scan(lambda v, _: (v - rate * jax.grad(loss)(v, x, y), None), w, None, length=steps)[
        0
    ]


def hyper(clients):
    return (jnp.array([0.3, 0.2]), *regression(clients))


def average(over, w, x, y):
    return over.mean(loss, w, x, y)


# Rounds of training.


@program("scc", regression)
def gradient_descent(over, w, x, y):
    for _ in range(3):
        w = w - 0.3 * over.mean(jax.grad(loss), w, x, y)
    return w


@program("scc", regression)
def federated_averaging(over, w, x, y):
    for _ in range(2):
        w = over.mean(trained, w, x, y)
    return average(over, w, x, y)


@program("sscc", hyper)
def federated_averaging_by_its_rates(over, rates, w, x, y):
    w = w + rates[1] * over.mean(
        lambda s, x, y: trained(s[0], x, y, rate=s[1]) - s[0], (w, rates[0]), x, y
    )
    return average(over, w, x, y)


@program("sccc", lambda n: (*regression(n), 0.1 * normal(4, n, 3)))
def scaffold_with_client_variates(over, w, x, y, own):
    server = over.mean(lambda _, c: c, (), own)

    def client(shared, x, y, c):
        v, s = shared
        for _ in range(2):
            v = v - 0.2 * (jax.grad(loss)(v, x, y) - c + s)
        return v

    return average(over, over.mean(client, (w, server), x, y, own), x, y)


@program("sccc", lambda n: (*regression(n), 0.1 * normal(4, n, 3)))
def alternating_directions(over, z, x, y, dual):
    def client(z, x, y, u):
        v = jnp.linalg.solve(x.T @ x + jnp.eye(3), x.T @ y + z - u)
        return v + u

    for _ in range(2):
        z = over.mean(client, z, x, y, dual)
        z = jnp.sign(z) * jax.nn.relu(jnp.abs(z) - 0.01)
    return z


@program("scc", lambda n: (jax.nn.softmax(normal(0, 3)), *regression(n)[1:]))
def mirror_descent(over, p, x, y):
    for _ in range(3):
        p = p * jnp.exp(-0.3 * over.mean(jax.grad(loss), p, x, y))
        p = p / jnp.sum(p)
    return p


@program("scc", regression)
def frank_wolfe(over, w, x, y):
    for t in range(2):
        g = over.mean(jax.grad(loss), w, x, y)
        vertex = -jnp.sign(g[jnp.argmax(jnp.abs(g))]) * jax.nn.one_hot(jnp.argmax(jnp.abs(g)), 3)
        w = w + 2 / (t + 3) * (vertex - w)
    return average(over, w, x, y)


@program("scc", regression)
def armijo_backtracking_by_a_condition(over, w, x, y):
    value, g = over.mean(jax.value_and_grad(loss), w, x, y)
    tried = average(over, w - 2.0 * g, x, y)
    step = jnp.where(tried < value, 2.0, 0.2)
    return average(over, w - step * g, x, y)


@program("scc", regression)
def newton_with_hessian_products(over, w, x, y):
    g = over.mean(jax.grad(loss), w, x, y)
    hvp = lambda p: (
        over.mean(
            lambda s, x, y: jax.jvp(lambda v: jax.grad(loss)(v, x, y), (s[0],), (s[1],))[1],
            (w, p),
            x,
            y,
        )
        + p
    )
    d, r = jnp.zeros(3), g
    p = r
    for _ in range(2):
        hp = hvp(p)
        a = jnp.vdot(r, r) / jnp.vdot(p, hp)
        d, new = d + a * p, r - a * hp
        p, r = new + jnp.vdot(new, new) / jnp.vdot(r, r) * p, new
    return average(over, w - d, x, y)


@program("scc", regression)
def gauss_newton(over, w, x, y):
    def client(w, x, y):
        residual = jnp.tanh(x @ w) - y
        j = jax.jacrev(lambda v: jnp.tanh(x @ v) - y)(w)
        return j.T @ j, j.T @ residual

    h, g = over.sum(client, w, x, y)
    return average(over, w - jnp.linalg.solve(h + jnp.eye(3), g), x, y)


@program("scc", regression)
def natural_gradient(over, w, x, y):
    def client(w, x, y):
        g = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(w, x[:, None], y[:, None])
        return g.T @ g / 5, g.mean(0)

    fisher, g = over.mean(client, w, x, y)
    lower = jax.scipy.linalg.cho_factor(fisher + 0.1 * jnp.eye(3))
    return average(over, w - jax.scipy.linalg.cho_solve(lower, g), x, y)


@program("scc", regression)
def agnostic_weights(over, logits, x, y):
    own = over.mean(lambda v, x, y: jnp.exp(loss(v, x, y)), logits, x, y)
    return jnp.log(own)


@program("scc", regression)
def fair_power_of_losses(over, w, x, y):
    return over.mean(lambda v, x, y: loss(v, x, y) ** 2.5, w, x, y) ** 0.4


@program("scc", regression)
def conditional_value_at_risk(over, w, x, y):
    return over.mean(
        lambda s, x, y: s[0] + jax.nn.relu(loss(s[1], x, y) - s[0]) / 0.3, (jnp.sum(w) / 5, w), x, y
    )


@program("sccc", lambda n: (*regression(n), jnp.arange(1.0, n + 1)))
def weighted_by_sample_counts(over, w, x, y, n):
    w = over.mean(trained, w, x, y, weights=n)
    return over.mean(loss, w, x, y, weights=n)


@program(
    "sccc", lambda n: (*regression(n), (jnp.arange(n * 5).reshape(n, 5) % n > 1).astype(float))
)
def masked_examples_and_empty_clients(over, w, x, y, mask):
    total, count = over.sum(
        lambda v, x, y, m: (jnp.sum(m * (x @ v - y) ** 2), jnp.sum(m)), w, x, y, mask * 0 + mask
    )
    return total / jnp.maximum(count, 1.0)


@program("scc", regression)
def personalised_heads(over, w, x, y):
    def client(w, x, y):
        features = jnp.tanh(x * w)
        head = jnp.linalg.solve(features.T @ features + 0.1 * jnp.eye(3), features.T @ y)
        return jnp.mean((features @ head - y) ** 2)

    return over.mean(client, w, x, y)


@program("scc", regression)
def clustered_models_by_soft_assignment(over, w, x, y):
    models = jnp.stack([w, -w])

    def client(m, x, y):
        losses = jax.vmap(lambda v: loss(v, x, y))(m)
        share = jax.nn.softmax(-5 * losses)
        return share[:, None] * m + 0.1 * share[:, None], share

    moved, share = over.sum(client, models, x, y)
    return jnp.sum(jnp.sin(moved / share[:, None]))


# Meta-learning and bilevel problems.


@program("scc", regression)
def model_agnostic_meta_learning(over, w, x, y):
    return over.mean(
        lambda w, x, y: loss(w - 0.3 * jax.grad(loss)(w, x[:3], y[:3]), x[3:], y[3:]), w, x, y
    )


@program("scc", regression)
def first_order_meta_learning(over, w, x, y):
    step = lambda w, x, y: w - 0.3 * lax.stop_gradient(jax.grad(loss)(w, x, y))
    return over.mean(lambda w, x, y: loss(step(w, x[:3], y[:3]), x[3:], y[3:]), w, x, y)


@program("scc", regression)
def reptile(over, w, x, y):
    return w + 0.5 * over.mean(lambda w, x, y: trained(w, x, y) - w, w, x, y)


@program("sscc", lambda n: (jnp.array(0.1), *regression(n)))
def unrolled_bilevel_problem_with_a_scan(over, penalty, w, x, y):
    def step(w, _):
        return w - 0.3 * (over.mean(jax.grad(loss), w, x, y) + jnp.exp(penalty) * w), None

    return average(over, lax.scan(step, w, None, length=2)[0], x, y)


def inner(v, hyper, x, y):
    return jnp.mean((x @ v - y) ** 2) + jnp.exp(hyper) * jnp.sum(v**2)


@program("scc", lambda n: (jnp.array(-0.5), *regression(n)[1:]))
def implicit_ridge_at_clients(over, penalty, x, y):
    def client(p, x, y):
        v = jnp.linalg.solve(x.T @ x / 5 + jnp.exp(p) * jnp.eye(3), x.T @ y / 5)
        return jnp.mean((x @ v - y) ** 2)

    return over.mean(client, penalty, x, y)


def fixed_point_of(step, hyper):
    """A root by a hand-written implicit rule, of both modes, by `custom_root`."""
    solve = lambda f, x0: lax.fori_loop(0, 60, lambda _, v: v + f(v), x0)
    tangent = lambda g, y: jnp.linalg.solve(jax.jacobian(g)(y), y)
    return lax.custom_root(lambda v: step(v, hyper) - v, jnp.zeros(3), solve, tangent)


@program("scc", lambda n: (0.3 * normal(0, 3), *regression(n)[1:]))
def deep_equilibrium_at_clients(over, w, x, y):
    step = lambda z, s: jnp.tanh(0.3 * z + s)
    return over.mean(lambda w, x, y: jnp.mean(fixed_point_of(step, x[0] * w) * x), w, x, y)


@program("scc", lambda n: (0.3 * normal(0, 3), *regression(n)[1:]))
def equilibrium_of_the_server(over, w, x, y):
    moment = over.mean(lambda w, x, y: x.T @ y * w, w, x, y)
    z = fixed_point_of(lambda z, s: jnp.tanh(0.3 * z + s), moment)
    return over.mean(lambda z, x, y: jnp.mean((x @ z - y) ** 2), z, x, y)


@program("scc", lambda n: (uniform(0, 3), *regression(n)[1:]))
def custom_linear_solve_at_clients(over, s, x, y):
    def client(s, x, y):
        matvec = lambda v: x.T @ (x @ v) + s * v
        direct = lambda mv, b: jnp.linalg.solve(jax.jacobian(mv)(b), b)
        return jnp.sum(lax.custom_linear_solve(matvec, x.T @ y, direct, symmetric=True) ** 2)

    return over.mean(client, s, x, y)


@program("scc", lambda n: (uniform(0, 3), *regression(n)[1:]))
def conjugate_gradients_at_clients(over, s, x, y):
    def client(s, x, y):
        matvec = lambda v: x.T @ (x @ v) + s * v
        return jnp.sum(jax.scipy.sparse.linalg.cg(matvec, x.T @ y, tol=1e-15)[0] ** 2)

    return over.mean(client, s, x, y)


@program("scc", lambda n: (uniform(0, 3), *regression(n)[1:]))
def custom_linear_solve_of_the_server(over, s, x, y):
    gram, moment = over.mean(lambda s, x, y: ((x * s).T @ x, x.T @ y), s, x, y)
    gram = gram + gram.T + 3 * jnp.eye(3)
    direct = lambda mv, b: jnp.linalg.solve(jax.jacobian(mv)(b), b)
    return jnp.sum(lax.custom_linear_solve(lambda v: gram @ v, moment, direct, symmetric=True))


@program("scc", lambda n: (uniform(0, 3), *regression(n)[1:]))
def newton_root_by_the_implicit_function_theorem(over, s, x, y):
    @jax.custom_jvp
    def root(a):
        return lax.fori_loop(0, 30, lambda _, v: v - (v**3 + v - a) / (3 * v**2 + 1), a)

    root.defjvp(lambda p, t: (root(*p), t[0] / (3 * root(*p) ** 2 + 1)))
    return over.mean(lambda s, x, y: jnp.mean(root(x @ s - y) ** 2), s, x, y)


@program("sc", lambda n: (normal(0, 3), normal(1, n, 4, 3)))
def sinkhorn_across_clients(over, u, x):
    for _ in range(2):
        marginal = over.sum(lambda u, x: jnp.sum(jax.nn.softmax(x + u, axis=1), 0), u, x)
        u = u - jnp.log(marginal / jnp.sum(marginal))
    return u


@program("sc", lambda n: (normal(0, 3), normal(1, n, 4, 3)))
def barycentre_by_fixed_point(over, m, x):
    for _ in range(2):
        m, weight = over.sum(
            lambda m, x: (
                jnp.sum(x / jnp.sqrt(1 + jnp.sum((x - m) ** 2, 1, keepdims=True)), 0),
                jnp.sum(1 / jnp.sqrt(1 + jnp.sum((x - m) ** 2, 1))),
            ),
            m, x,
        )  # fmt: skip
        m = m / weight
    return m
