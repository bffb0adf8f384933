"""One program for every kind of equation that has a view."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

from secfad.jaxprs.equations import Call, Cond, Scan, Solve, While


def scan(x):
    return jax.lax.scan(lambda c, r: (c * r * x[1], c + r), x[0], x, length=3, reverse=True)


def while_loop(x):
    return jax.lax.while_loop(lambda c: c.sum() < x[0] * 50, lambda c: c * 2 + x, x)


def cond(x):
    return jax.lax.switch(jnp.int32(x[0]), [jnp.sin, lambda y: y * x, jnp.cos], x)


def solve(x):
    return cg(lambda v: v * (1 + x**2), x, maxiter=5)[0]


@jax.custom_vjp
def ruled(x):
    return jnp.sin(x)


ruled.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))
PROGRAMS = {
    "scan": (scan, Scan),
    "while": (while_loop, While),
    "cond": (cond, Cond),
    "solve": (solve, Solve),
    "jit": (jax.jit(jnp.sin), Call),
    "remat": (jax.checkpoint(lambda x: jnp.sin(x) * x), Call),
    "custom_jvp": (jax.nn.relu, Call),
    "custom_vjp": (ruled, Call),
}
X = np.array([1.0, 2.0, 3.0], np.float32)
