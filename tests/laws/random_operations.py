"""What random programs do in one place: functions of one vector of three entries, or of two.

Values and derivatives are of order one. Thresholds are not at zero, where rounding would decide.
"""

import jax
import jax.numpy as jnp

THRESHOLD = 0.0173


@jax.custom_jvp
def with_jvp_rule(v):
    return jnp.tanh(v)


with_jvp_rule.defjvp(lambda p, t: (jnp.tanh(p[0]), t[0] * (1 - jnp.tanh(p[0]) ** 2)))


@jax.custom_vjp
def with_vjp_rule(v):
    return jnp.sin(v)


with_vjp_rule.defvjp(lambda v: (jnp.sin(v), v), lambda v, g: (g * jnp.cos(v),))


def _loop(v):
    return jax.lax.fori_loop(0, 2, lambda i, u: jnp.sin(u + 0.1 * i), v)


def _scan(v):
    last, seen = jax.lax.scan(
        lambda c, a: (0.7 * jnp.sin(c + a), jnp.cos(c)), v[0], v, reverse=True
    )
    return seen * last


def _while(v):
    def going_on(state):
        return (state[0] < 3) & (jnp.sum(state[1] ** 2) > 0.3)

    return jax.lax.while_loop(going_on, lambda s: (s[0] + 1, 0.6 * jnp.sin(s[1])), (0, v))[1]


def _branch(v):
    return jax.lax.cond(v[0] > THRESHOLD, jnp.sin, lambda u: 0.4 * u * u[1], v)


def _choose(v):
    choices = [jnp.tanh, lambda u: 0.3 * u, lambda u: jnp.ones_like(u)]
    return jax.lax.switch(jnp.argmax(v), choices, v)


def _solve(v):
    return jnp.linalg.solve(jnp.eye(3, dtype=v.dtype) + 0.1 * jnp.outer(v, v), jnp.cos(v))


def _draw(v):
    key = jax.random.fold_in(jax.random.key(0), jnp.argmax(v))
    return v + 0.1 * jax.random.normal(key, v.shape, v.dtype)


def _single(v):
    return (0.5 * jnp.sin(v.astype(jnp.float32))).astype(v.dtype)


# Every operation that has a derivative in both directions.
LOCAL = {
    "sin": jnp.sin,
    "tanh": jnp.tanh,
    "shift": lambda v: 0.5 * v + 0.1,
    "roll": lambda v: jnp.roll(v, 1),
    "gate": lambda v: jnp.where(v > THRESHOLD, v, 0.3 * v),
    "center": lambda v: v - jnp.mean(v),
    "cumulate": lambda v: jnp.tanh(jnp.cumsum(v)),
    "normalise": lambda v: v / jnp.sqrt(1.0 + v @ v),
    "sort": lambda v: jnp.sort(jnp.sin(v)),
    "scatter": lambda v: v.at[1].multiply(0.5),
    "take": lambda v: v * jnp.cos(v[jnp.argmax(v)]),
    "count": lambda v: v / (1 + jnp.sum((v > THRESHOLD).astype(jnp.int32))),
    "stop": lambda v: 0.5 * (v + jnp.sin(jax.lax.stop_gradient(v))),
    "forget": lambda v: jnp.cos(jax.lax.stop_gradient(v)),
    "gradient": jax.grad(lambda v: jnp.sum(jnp.cos(v) * v[::-1])),
    "hessian": lambda v: jax.hessian(lambda u: jnp.sum(jnp.sin(u) * u[0]))(v) @ v,
    "jit": jax.jit(lambda v: jnp.cos(v) * v),
    "checkpoint": jax.checkpoint(lambda v: jnp.sin(jnp.cos(v) * v)),
    "vmap": lambda v: jax.vmap(lambda a: jnp.sin(a * v))(v).sum(0),
    "loop": _loop,
    "scan": _scan,
    "branch": _branch,
    "choose": _choose,
    "solve": _solve,
    "draw": _draw,
    "jvp": with_jvp_rule,
}
# Those that have not, or not exactly.
SPECIAL = {"while": _while, "vjp": with_vjp_rule, "single": _single}
# What an operation with a rule of its own means.
MEANING = {"jvp": jnp.tanh, "vjp": jnp.sin}

PAIR = {
    "add": lambda a, b: 0.5 * (a + b),
    "multiply": lambda a, b: jnp.sin(a * b),
    "dot": lambda a, b: a * jnp.tanh(a @ b),
    "outer": lambda a, b: jnp.tanh(jnp.outer(a, b) @ jnp.cos(a)),
    "select": lambda a, b: jnp.where(a > THRESHOLD, a, jnp.sin(b)),
    "state": lambda a, b: jax.lax.scan(lambda c, r: (jnp.sin(c + r * b), None), a, b)[0],
}
