"""Federated programs with derivatives and other transformations inside; they add themselves."""

import jax
import jax.numpy as jnp
from federated_programs import entry, local_delta, loss, normal, over, regression
from jax.scipy.sparse.linalg import cg
from programs_of_rounds import client_rate_oracle, two_rounds_oracle

import secfad as fad


@entry(
    "scc",
    regression,
    lambda w, x, y: jax.grad(lambda w: jnp.mean(over(loss, None, 0, 0)(w, x, y)))(w),
)
def gradient_inside(w, x, y):
    return jax.grad(lambda w: fad.mean(loss(fad.broadcast(w), x, y), name="loss"))(w)


@entry(
    "scc",
    regression,
    lambda w, x, y: jnp.sum(
        jax.hessian(lambda w: jnp.mean(over(loss, None, 0, 0)(w, x, y)))(w) ** 2
    ),
)
def hessian_inside(w, x, y):
    return jnp.sum(
        jax.hessian(lambda w: fad.mean(loss(fad.broadcast(w), x, y), name="loss"))(w) ** 2
    )


@entry("scc", regression, two_rounds_oracle)
def remat_around_rounds(w, x, y):
    @jax.checkpoint
    def step(w, _):
        return w - 0.5 * fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="gradient"), None

    w = jax.lax.scan(step, w, None, length=2)[0]
    return jax.checkpoint(lambda w: fad.mean(loss(fad.broadcast(w), x, y), name="loss"))(w)


@jax.jit
def jitted_mean_loss(w, x, y):
    return fad.mean(jax.jit(loss)(fad.broadcast(w), x, y), name="loss")


@entry("scc", regression, lambda w, x, y: jnp.exp(jnp.mean(over(loss, None, 0, 0)(w, x, y))))
def jitted_helpers(w, x, y):
    return jnp.exp(jitted_mean_loss(w, x, y))


@entry(
    "sscc",
    lambda n: (jnp.array([0.1, 0.5, 0.9]), *regression(n)),
    lambda rates, w, x, y: over(lambda r: client_rate_oracle(r, w, x, y), 0)(rates),
)
def vmap_over_hyperparameters(rates, w, x, y):
    def evaluate(rate):
        delta = local_delta(fad.broadcast(w), x, y, fad.broadcast(rate))
        return fad.mean(loss(fad.broadcast(w - fad.mean(delta, name="delta")), x, y), name="loss")

    return jax.vmap(evaluate)(rates)


def _ridge_oracle(penalty, x, y):
    gram = jnp.mean(over(lambda x: x.T @ x, 0)(x), 0) + penalty * jnp.eye(3)
    return jnp.sum(jnp.linalg.solve(gram, jnp.mean(over(lambda x, y: x.T @ y, 0, 0)(x, y), 0)) ** 2)


@entry(
    "scc",
    lambda n: (jnp.array(0.3), *regression(n)[1:]),
    _ridge_oracle,
    refused=(("mixed", "data-dependent loop"),),
)
def implicit_ridge(penalty, x, y):
    def matvec(v):
        return (
            fad.mean(x.T @ (x @ fad.broadcast(v, name="direction")), name="product") + penalty * v
        )

    return jnp.sum(cg(matvec, fad.mean(x.T @ y, name="moment"), tol=1e-14)[0] ** 2)


@jax.custom_jvp
def federated_square(w, x):
    return fad.sum(jnp.sum((fad.broadcast(w) * x) ** 2), name="square")


@federated_square.defjvp
def _(primals, tangents):
    w, x = primals
    received = fad.broadcast(w)
    slope = fad.sum(2 * received * x**2, name="slope")
    return federated_square(w, x), jnp.vdot(slope, tangents[0])


@entry(
    "sc",
    lambda n: (normal(0, 3), normal(1, n, 3)),
    lambda w, x: jnp.log(jnp.sum((w * x) ** 2)),
    refused=(("mixed", "custom derivative rule"),),
)
def custom_rule_around_communication(w, x):
    return jnp.log(federated_square(w, x))
