"""For every rule of the checker the smallest program that raises it, and what to write instead.

`EXAMPLES` maps a rule to its `Example`. The remedy of a rule, applied to `bad`, gives `good`. Rules that
are raised by a run, where a certificate is compared with what is about to run, are in `AT_RUN_TIME`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import audits
import secfad as fad
from secfad._jax import Primitive, ShapedArray

N = 6


@dataclasses.dataclass(frozen=True)
class Example:
    """A pair of programs.

    Attributes:
      bad: Raises the rule.
      good: Does not, and is accepted.
      args: Their arguments.
      good_args: Those of `good`, where the remedy changes them.
      settings: Style, mode and the like.
      good_settings: Those of `good`, where the remedy changes them.
    """

    bad: Callable
    good: Callable
    args: tuple
    good_args: tuple
    settings: dict
    good_settings: dict


EXAMPLES: dict[str, Example] = {}
AT_RUN_TIME = {
    "FAD006": "tests/audits/checking/test_certificates.py",
    "FAD010": "tests/audits/checking/test_certificates.py",
}


def example(rule, bad, good, *args, good_args=None, good_settings=None, **settings):
    settings = {"style": "native"} | settings
    other = settings | (good_settings or {})
    EXAMPLES[rule] = Example(bad, good, args, good_args or args, settings, other)


W = audits.Arg("w", (3,), "float32", "server")
R = audits.Arg("r", (), "float32", "server")
V = audits.Arg("v", (3,), "float32", "clients")
I = audits.Arg("i", (), "int32", "clients")  # noqa: E741
X = audits.Arg("x", (N, 3), "float32", "clients")
KEY = audits.Arg("key", (), "key<fry>", "server_key")
KEYS = audits.Arg("keys", (N,), "key<fry>", "client_key")
DP = {"profile": "secagg+dp"}
STACKED = {"style": "stacked"}
NOISY = STACKED | DP
total = lambda x: jnp.sum(jax.vmap(fad.clip)(x), axis=0)
normal = lambda key: jax.random.normal(key, (3,))


def _primitive(name):
    made = Primitive(name)
    made.def_abstract_eval(lambda x: ShapedArray(x.shape, x.dtype))
    return made.bind


DATA = np.arange(3.0, dtype="float32")

# 0xx

example("FAD001", lambda v: fad.sum(_primitive("exotic")(v)), lambda v: fad.sum(jnp.sin(v)), V)
example("FAD002", lambda v: fad.sum(jax.ffi.ffi_call("k", jax.ShapeDtypeStruct((3,), "float32"))(v)),
        lambda v: fad.sum(jnp.sin(v)), V)  # fmt: skip


def printed(v):
    jax.debug.print("{}", v)
    return fad.sum(v)


def written(v):
    cell = jax.new_ref(jnp.zeros_like(v))
    cell[...] = v
    return fad.sum(cell[...])


example("FAD003", printed, lambda v: (fad.sum(v), fad.sum(v**2)), V)
example("FAD004", written, lambda v: fad.sum(v), V)
example("FAD005", lambda w: fad.sum(fad.broadcast(w) * DATA), lambda w, v: fad.sum(fad.broadcast(w) * v),
        W, good_args=(W, V))  # fmt: skip
example("FAD007", lambda v: fad.sum(v if v[0] > 0 else -v),
        lambda v: fad.sum(jnp.where(v[0] > 0, v, -v)), V)  # fmt: skip
example("FAD008", lambda v: fad.sum(v[v > 0]), lambda v: fad.sum(jnp.where(v > 0, v, 0.0)), V)
example("FAD009", lambda v: _primitive("federated_sum")(v), lambda v: fad.sum(v), V)

# 1xx

example("FAD101", lambda v: 2 * v, lambda v: fad.sum(2 * v), V)
example("FAD102", lambda w, v: fad.sum(w * v), lambda w, v: fad.sum(fad.broadcast(w) * v), W, V)


def _drjax():
    import drjax

    program = drjax.program(placements={"clients": N})
    example("FAD103", program(lambda x: jnp.sum(x, axis=0)), program(lambda x: drjax.reduce_sum(x)), X,
            style="drjax")  # fmt: skip


_drjax()
example("FAD104", lambda v: fad.sum(fad.broadcast(v)), lambda v: fad.sum(fad.broadcast(fad.mean(v)) * v),
        V)  # fmt: skip
example("FAD105", lambda x: jnp.max(x, axis=0), lambda x: jnp.sum(x > 0.5, axis=0), X, **STACKED)
example("FAD106", lambda x: jnp.sort(x, axis=0)[3], lambda x: jnp.sum(x < 0.5, axis=0), X,
        **STACKED)  # fmt: skip
example("FAD107", lambda x: jnp.sum(x[1:], axis=0), lambda x: jnp.sum(x, axis=0), X, **STACKED)
example("FAD108", lambda x: jnp.sum(x.reshape(2, -1), axis=1), lambda x: jnp.sum(x, axis=0), X,
        **STACKED)  # fmt: skip
example("FAD109", lambda x: x[:, None] - x[None], lambda x: (jnp.sum(x, axis=0), jnp.sum(x**2, axis=0)),
        X, **STACKED)  # fmt: skip
GROUPS = [[0, 1, 2, 3], [4, 5, 6, 7]]
example("FAD110", lambda v: lax.psum(v, "clients", axis_index_groups=GROUPS),
        lambda v: lax.psum(v, "clients"), V, style="spmd")  # fmt: skip
example("FAD111", lambda x: jnp.sum(x * jnp.arange(1.0, N + 1)[:, None], axis=0),
        lambda x: jnp.sum(x * x[:, :1], axis=0), X, **STACKED)  # fmt: skip
example("FAD112", lambda x: jnp.einsum("ca,cb->ab", x, x),
        lambda x: jnp.sum(x[:, :, None] * x[:, None, :], axis=0), X, **STACKED)  # fmt: skip
example("FAD113", lambda v: lax.all_gather(v, "clients"), lambda v: lax.psum(v, "clients"), V,
        style="spmd")  # fmt: skip
example("FAD117", lambda w: fad.sum(w), lambda w, v: w * fad.sum(jnp.ones(())), W, good_args=(W, V))

# 2xx

example("FAD201", lambda w, v: lax.cond(v[0] > 0, jnp.sin, jnp.cos, w),
        lambda w, v: lax.cond(fad.sum(v[0]) > 0, jnp.sin, jnp.cos, w), W, V)  # fmt: skip
example("FAD202", lambda v: lax.cond(v[0] > 0, fad.sum, jnp.zeros_like, v),
        lambda v: fad.sum(jnp.where(v[0] > 0, v, 0.0)), V)  # fmt: skip


def step(w, v):
    return w - 0.1 * fad.mean(fad.broadcast(w) - v)


example("FAD203", lambda w, v: lax.while_loop(lambda w: jnp.sum(w) > 0.1, lambda w: step(w, v), w),
        lambda w, v: lax.scan(lambda w, _: (step(w, v), None), w, None, length=5)[0], W, V)  # fmt: skip
example("FAD204", lambda w, v: lax.while_loop(
            lambda c: (c[1] < 5) & (jnp.sum(c[0]) > 0.1), lambda c: (step(c[0], v), c[1] + 1), (w, 0))[0],
        lambda w, v: lax.scan(lambda w, _: (step(w, v), None), w, None, length=5)[0], W, V)  # fmt: skip
example("FAD205", lambda w, v: lax.cond(w[0] > 0, lambda: fad.sum(v), lambda: w),
        lambda w, v: lax.cond(w[0] > 0, lambda s: s, lambda s: w, fad.sum(v)), W, V)  # fmt: skip

# 3xx

example("FAD301", lambda w, x: jnp.sum(jnp.sin(x @ w), axis=0),
        lambda w, x: jnp.sum(jnp.sin(jnp.sum(x * jnp.broadcast_to(w, x.shape), axis=1)), axis=0), W, X,
        mode="vjp", wrt=(0,), **STACKED)  # fmt: skip
example("FAD302", lambda v: fad.sum(jax.nn.relu(v)), lambda v: fad.sum(jnp.maximum(v, 0)), V)


def sender(backward):
    send = jax.custom_vjp(fad.broadcast)
    send.defvjp(lambda w: (fad.broadcast(w), None), lambda _, g: (backward(g),))
    return lambda w, v: fad.sum(send(w) * v)


example("FAD303", sender(lambda g: g), sender(fad.sum), W, V, mode="vjp", wrt=(0,))


def halved(w, v):
    return fad.sum(
        lax.while_loop(lambda a: jnp.sum(a) > 1, lambda a: a * 0.5, fad.broadcast(w) * v)
    )


def twice(w, v):
    g = fad.mean(jnp.sin(fad.broadcast(w) * v))
    return jnp.sum(jnp.tanh(fad.mean(jnp.cos(fad.broadcast(w * g) * v))))


def clipped(w, v):
    return fad.sum(fad.clip(fad.broadcast(w) * v, 1.0))


reverse = {"mode": "vjp", "wrt": (0,)}
example("FAD304", halved, halved, W, V, good_settings={"mode": "jvp"}, **reverse)
example("FAD305", twice, twice, W, V, good_settings={"mode": "mixed"}, **reverse)
example("FAD306", twice, twice, W, V, good_settings={"mode": "mixed"}, **reverse)
example("FAD307", clipped, lambda w, v: fad.sum(fad.clip(jax.grad(
            lambda a: jnp.sum(fad.clip(a * v, 1.0)))(fad.broadcast(w)), 1.0)), W, V,
        good_settings={"mode": "primal", "wrt": ()}, **reverse, **DP)  # fmt: skip
example("FAD308", lambda w, v: lax.psum(jnp.sum(w * v), "clients"),
        lambda w, v: fad.sum(jnp.sum(fad.broadcast(w) * v)), W, V, style="spmd",
        good_settings={"style": "native"}, **reverse)  # fmt: skip

# 4xx


def norm(v):
    return jnp.sqrt(jnp.sum(v**2))


def by_hand(v, guard):
    factor = jnp.minimum(1.0, 1.0 / jnp.maximum(norm(v), 1e-9))
    return jnp.where(jnp.isfinite(norm(v)), v * factor, 0.0) if guard else v * factor


def moving(clip):
    return lambda v: fad.sum(fad.clip(jax.jvp(clip, (v,), (v,))[1], 1.0))


def tail(key, x):
    return (total(x) + normal(key)) / N


example("FAD401", lambda v: fad.sum(v), lambda v: fad.sum(fad.clip(v, 1.0)), V, **DP)
example("FAD402", lambda x: by_hand(jnp.sum(x, axis=0), True), total, X, **NOISY)


def split(key, x):
    a, b = jax.random.split(key)
    two = jnp.sum(jax.vmap(lambda v: by_hand(v, True))(x), axis=0)
    three = jnp.sum(jax.vmap(lambda v: by_hand(v**2, True))(x), axis=0)
    return (two + 1.1 * normal(a)) / N, (three + 1.1 * normal(b)) / N


def together(key, x):
    a, b = jax.random.split(key)
    two, three = (jnp.sum(u, axis=0) for u in jax.vmap(lambda v: fad.clip((v, v**2), 1.0))(x))
    return (two + 1.1 * normal(a)) / N, (three + 1.1 * normal(b)) / N


example("FAD403", split, together, KEY, X, **NOISY)
example("FAD404", lambda v, i: fad.sum(by_hand(v, True) * jnp.abs(v[0])),
        lambda v, i: fad.sum(by_hand(v, True) * jnp.clip(jnp.where(jnp.isfinite(v[0]), v[0], 0), 0, 5)),
        V, I, **DP)  # fmt: skip
FLAG = audits.Arg("flag", (N,), "bool", "clients")
example("FAD405", lambda key, x, flag: (total(x) + normal(key)) / jnp.sum(flag.astype(jnp.float32)),
        lambda key, x, flag: tail(key, x), KEY, X, FLAG, **NOISY)  # fmt: skip
example("FAD406", lambda key, x: (total(x) + normal(key) / N) / N, tail, KEY, X, **NOISY)
example("FAD407", lambda v: fad.sum(jnp.where(norm(v) > 1, v / norm(v), v)),
        lambda v: fad.sum(fad.clip(v, 1.0)), V, **DP)  # fmt: skip
example("FAD408", lambda v: fad.sum(fad.clip(v.astype(jnp.bfloat16), 1.0)),
        lambda v: fad.sum(fad.clip(v, 1.0)), V, **DP)  # fmt: skip
example("FAD409", moving(lambda v: v * jnp.minimum(1.0, 1.0 / norm(v))),
        moving(lambda v: fad.clip(v, 1.0)), V, **DP)  # fmt: skip


def adaptive(noise):
    def program(key, x):
        c = jnp.sum(jnp.tanh(jax.vmap(lambda v: jnp.sum(fad.clip(v)))(x)))
        here, there = jax.random.split(key)
        c = (c + jax.random.normal(here, ())) / N if noise else c
        c = jnp.abs(c)
        bound = lambda v: v * jnp.minimum(1.0, c / jnp.maximum(norm(v), 1e-9))
        guarded = lambda v: jnp.where(jnp.isfinite(norm(v)), bound(v), 0.0)
        return (jnp.sum(jax.vmap(guarded)(x), axis=0) + c * normal(there)) / N

    return program


example("FAD410", adaptive(False), adaptive(True), KEY, X, **NOISY)


example("FAD411", lambda key, x: _self_scaled(key, jnp.sum(jnp.tanh(jax.vmap(fad.clip)(x)[:, 0]))),
        tail, KEY, X, **NOISY)  # fmt: skip


def _self_scaled(key, s):
    return (s * jnp.abs(s) + jnp.abs(s) * jax.random.normal(key, ())) / N


example("FAD412", lambda key, x: total(x) + normal(key), lambda key, x: total(x) + 2 * normal(key), KEY,
        X, good_settings={"neighbouring": "replace_one"}, **NOISY)  # fmt: skip
example("FAD413", lambda v: fad.sum(jnp.round(2.0**33 * fad.clip(v, 1.0)).astype(jnp.int32)),
        lambda v: fad.sum(jnp.round(2.0**9 * fad.clip(v, 1.0)).astype(jnp.int32)), V, **DP)  # fmt: skip
example("FAD414", lambda v: (fad.sum(v), fad.sum(v**2)), lambda v: fad.sum(v), V)
example("FAD415", lambda key, x: (tail(key, x), jnp.sum(jnp.tanh(total(x)))), tail, KEY, X, **NOISY)

# 5xx


def two_sums(split):
    def program(key, x):
        a, b = jax.random.split(key) if split else (key, key)
        return (total(x) + normal(a)) / N, (total(0.5 * x) + normal(b)) / N

    return program


def shuffled(split):
    def program(key, x):
        a, b = jax.random.split(key) if split else (key, key)
        return (total(x) + normal(a)) / N, jax.random.uniform(b, (3,))

    return program


def sent(split):
    def program(key, x):
        a, b = jax.random.split(key) if split else (key, key)
        mask = jax.vmap(lambda k: jax.random.bernoulli(k, 0.5, (3,)))(jnp.broadcast_to(b, (N,)))
        return (total(jnp.where(mask, x, 0.0)) + normal(a)) / N

    return program


def own_noise(keys, x):
    return jnp.sum(jax.vmap(lambda k, v: by_hand(v, True) + normal(k))(keys, x), axis=0) / N


example("FAD501", two_sums(False), two_sums(True), KEY, X, **NOISY)
example("FAD502", sent(False), sent(True), KEY, X, **NOISY)
example("FAD503", lambda key, x: own_noise(jnp.broadcast_to(key, (N,)), x), own_noise, KEY, X,
        good_args=(KEYS, X), **NOISY)  # fmt: skip
example("FAD504", shuffled(False), shuffled(True), KEY, X, **NOISY)
example("FAD505", lambda x: tail(jax.random.key(0), x), tail, X, good_args=(KEY, X), **NOISY)
example("FAD506", tail, total, KEY, X, good_args=(X,), **NOISY)

# 6xx and 7xx

ONE = audits.Arg("x", (1, 3), "float32", "clients")
SMALL = audits.Arg("x", (N, 1), "float32", "clients")
STATE = audits.Arg("s", (3,), "float32", "client_state")
powers = lambda x: [jnp.sum(x**k, axis=0) for k in range(1, N + 1)]
example("FAD601", lambda x: jnp.sum(x, axis=0), lambda x: jnp.sum(x, axis=0), ONE, good_args=(X,),
        **STACKED)  # fmt: skip
example("FAD602", lambda i: fad.sum(jnp.zeros(10).at[i].add(1.0)),
        lambda i: fad.sum(i % 2), I)  # fmt: skip
example("FAD604", powers, lambda x: powers(x)[:2], SMALL, **STACKED)
example("FAD605", lambda x: jnp.sum(x, axis=0) if x.shape[0] > 5 else x, lambda x: jnp.sum(x, axis=0), X,
        **STACKED)  # fmt: skip
example("FAD701", lambda v, s: (fad.sum(v + s), v + s), lambda v, s: fad.sum(v), V, STATE,
        good_args=(V, W))  # fmt: skip
example("FAD705", lambda v: fad.sum(fad.broadcast(fad.mean(v)) * v),
        lambda w, v: fad.sum(fad.broadcast(w) * v), V, good_args=(W, V))  # fmt: skip
