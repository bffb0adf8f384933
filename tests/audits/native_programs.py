"""Random native programs: server and client values, messages, control flow and derivatives.

A program is a function of a seed: every trace makes the same choices. Some steps break the rules on
purpose; a program without one is *well-formed*, and most of these must be accepted.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import audits
import secfad as fad

ARGS = (
    audits.Arg("w", (3,), "float32", "server"),
    audits.Arg("r", (), "float32", "server"),
    audits.Arg("x", (2, 3), "float32", "clients"),
    audits.Arg("y", (3,), "float32", "clients"),
    audits.Arg("i", (2,), "int32", "clients"),
)
ILL_STEPS = 0.05  # probability that a step breaks a rule


@dataclasses.dataclass
class RandomProgram:
    """One random program.

    Attributes:
      seed: Determines it.
      bounded: Every sum is meant to be bounded, and is checked to be.
      mode: Which derivative is checked.
      ill: Whether the last trace broke a rule on purpose.
    """

    seed: int
    bounded: bool
    mode: str
    ill: bool = False

    @property
    def profile(self):
        """The profile under which it is checked."""
        return "secagg+dp" if self.bounded else "secagg"

    @property
    def wrt(self):
        """The arguments of the derivative."""
        return () if self.mode == "primal" else (0,)

    def __call__(self, w, r, x, y, i):
        """Runs the random steps."""
        rng = np.random.default_rng(self.seed)
        self.ill = False
        state = State(rng, self, [w, r], [x, y], i)
        for _ in range(int(rng.integers(3, 9))):
            state.step()
        result = state.server[-1]
        return (result, state.pick(state.server)) if rng.random() < 0.3 else result


def random_program(seed):
    """The program of a seed: a third is checked for bounds, a quarter in a derivative mode."""
    plan = np.random.default_rng([seed, 1])
    bounded = plan.random() < 1 / 3
    mode = "primal" if bounded or plan.random() < 2 / 3 else ("jvp", "vjp")[int(plan.integers(2))]
    return RandomProgram(seed, bounded, mode)


UNARY = [jnp.sin, jnp.tanh, jnp.exp, jnp.abs, jax.nn.relu, jax.nn.softplus, lambda v: v * v,
         lambda v: 0.5 * v + 1.0, lambda v: lax.stop_gradient(v) * v, jax.nn.sigmoid]  # fmt: skip
BINARY = [jnp.add, jnp.multiply, jnp.subtract, jnp.maximum,
          lambda a, b: jnp.where(a > b, a, b), lambda a, b: a / (1.0 + b * b)]  # fmt: skip
SHAPED = [jnp.sum, jnp.ravel, jnp.sort, jnp.cumsum, lambda v: v[..., ::-1], lambda v: v[..., :2],
          lambda v: jnp.max(v, axis=-1), lambda v: jnp.concatenate([v.ravel(), v.ravel()]),
          lambda v: jnp.pad(v.ravel(), (1, 0)), lambda v: jnp.outer(v.ravel(), v.ravel())[:3],
          lambda v: v.T, lambda v: jax.nn.softmax(v.ravel()), lambda v: jnp.stack([v, v]),
          lambda v: jnp.linalg.norm(v.ravel() + 1.0), lambda v: jnp.fft.fft(v.ravel()).real,
          lambda v: lax.reduce_window(v.ravel(), 0.0, lax.add, (2,), (1,), "SAME")]  # fmt: skip


def _alike(a, b):
    """Two values of one shape."""
    if a.shape == b.shape:
        return a, b
    return jnp.sum(a), b


def looped(f):
    """A function repeated by a scan."""
    return lambda v: lax.scan(lambda c, _: (f(c), jnp.sum(c)), v, None, length=2)[0]


def halved(f):
    """A function repeated while the value is large."""
    return lambda v: lax.while_loop(
        lambda c: (c[1] < 4) & (jnp.sum(c[0]) > 1), lambda c: (0.5 * c[0], c[1] + 1), (f(v), 0)
    )[0]


def derived(f):
    """The gradient of a function."""
    return jax.grad(lambda v: jnp.sum(f(v) * v))


@jax.custom_jvp
def custom(v):
    """A function with its own derivative."""
    return jnp.sin(v)


custom.defjvp(lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * t[0]))
WRAPPERS = [jax.jit, jax.checkpoint, looped, derived, lambda f: lambda v: custom(f(v)),
            lambda f: lambda v: jax.vmap(f)(jnp.stack([v, 2 * v]))[0], halved]  # fmt: skip


class State:
    """The values that a program has so far, and the steps that make more."""

    def __init__(self, rng, program, server, clients, index):
        self.rng, self.program = rng, program
        self.server, self.clients, self.index = list(server), list(clients), index

    def pick(self, values):
        """One of several, the latest ones more often."""
        weights = np.arange(1.0, len(values) + 1)
        return values[int(self.rng.choice(len(values), p=weights / weights.sum()))]

    def step(self):
        """One random step."""
        if self.rng.random() < ILL_STEPS:
            self.program.ill = True
            return self.break_a_rule()
        steps = [self.compute_locally, self.compute_locally, self.look_up, self.branch,
                 self.send, self.add_up, self.add_up, self.round]  # fmt: skip
        return steps[int(self.rng.integers(len(steps)))]()

    def compute_locally(self):
        """A computation at one place."""
        values = (self.server, self.clients)[int(self.rng.integers(2))]
        values.append(self.computed(values))

    def computed(self, values):
        """The result of a random local computation."""
        kind, v = self.rng.random(), self.pick(values)
        if kind < 0.3:
            made = BINARY[int(self.rng.integers(len(BINARY)))](*_alike(v, self.pick(values)))
        elif kind < 0.6:
            f = UNARY[int(self.rng.integers(len(UNARY)))]
            wrappers = WRAPPERS if self.program.mode != "vjp" else WRAPPERS[:-1]
            made = wrappers[int(self.rng.integers(len(wrappers)))](f)(v)
        elif kind < 0.8 or v.ndim == 0:
            made = UNARY[int(self.rng.integers(len(UNARY)))](v)
        else:
            made = SHAPED[int(self.rng.integers(len(SHAPED)))](v)
        return made if made.size <= 12 else jnp.sum(made)

    def look_up(self):
        """A client reads or writes at its own index."""
        v = self.pick(self.clients).ravel()
        at = self.index % v.size
        self.clients.append(v[at] if self.rng.random() < 0.5 else jnp.zeros(3).at[at % 3].add(1.0))

    def branch(self):
        """A place chooses by its own data."""
        values = (self.server, self.clients)[int(self.rng.integers(2))]
        v = self.pick(values)
        values.append(lax.cond(jnp.sum(self.pick(values)) > 0, jnp.sin, lambda a: 2 * a, v))

    def send(self):
        """A broadcast."""
        self.clients.append(fad.broadcast(self.pick(self.server)))

    def add_up(self):
        """A sum or mean."""
        v = self.pick(self.clients)
        if self.program.bounded:
            v = self.bound(v)
        self.server.append((fad.sum, fad.mean)[int(self.rng.integers(2))](v))

    def bound(self, v):
        """One of the ways to bound a contribution."""
        finite = jnp.where(jnp.isfinite(v), v, 0.0)
        norm = jnp.sqrt(jnp.sum(v**2))
        by_hand = jnp.where(
            jnp.isfinite(norm), v * jnp.minimum(1.0, 2.0 / jnp.maximum(norm, 1e-6)), 0.0
        )
        ways = [lambda: fad.clip(v, 1.5), lambda: jnp.tanh(finite), lambda: by_hand,
                lambda: jnp.clip(finite, -1.0, 2.0), lambda: 3.0 * fad.clip(v, 0.5),
                lambda: (v > 0).astype(jnp.float32), lambda: jnp.round(4 * fad.clip(v, 1.0))]  # fmt: skip
        return ways[int(self.rng.integers(len(ways)))]()

    def round(self):
        """Several rounds in a scan, or one that the server decides on."""
        v = self.pick(self.clients)
        bound = self.bound if self.program.bounded else (lambda a: a)
        start = jnp.sum(self.pick(self.server))

        def one(c, _):
            return c - 0.1 * fad.mean(bound(jnp.sum(jnp.sin(fad.broadcast(c) * v)))), None

        if self.rng.random() < 0.5:
            self.server.append(lax.scan(one, start, None, length=2)[0])
        else:
            self.server.append(lax.cond(start > 0, lambda c: one(c, 0)[0], lambda c: -c, start))

    def break_a_rule(self):
        """What must be rejected, unless nothing depends on it."""
        v, s = self.pick(self.clients), self.pick(self.server)
        ways = [
            lambda: self.clients.append(jnp.sum(s) * v),
            lambda: self.server.append(jnp.sum(v) * s),
            lambda: self.server.append(jnp.sum(v)),
            lambda: self.server.append(fad.sum(s)),
            lambda: self.clients.append(fad.broadcast(v)),
            lambda: self.server.append(lax.cond(jnp.sum(v) > 0, jnp.sin, jnp.cos, s)),
            lambda: self.server.append(lax.cond(jnp.sum(v) > 0, fad.sum, lambda a: a * 0, v)),
            lambda: self.server.append(s * lax.while_loop(
                lambda c: (c < jnp.sum(v)) & (c < 5), lambda c: c + 1, 0.0)),
            lambda: self.server.append(jnp.arange(4.0)[self.index[0] % 4] + s),
            lambda: self.server.append(fad.sum(v) / jnp.float32(v.size) + jnp.max(v)),
            lambda: self.server.append(fad.sum(1e3 * v)),
            lambda: self.server.append(lax.scan(lambda c, _: (c + jnp.sum(v), None), jnp.sum(s),
                                                None, length=2)[0]),
            lambda: self.server.append(fad.sum(jax.jit(lambda a: a * jnp.sum(s))(v))),
        ]  # fmt: skip
        ways[int(self.rng.integers(len(ways)))]()
