"""The table of federated programs that the law suites iterate over.

Each entry gives a computation over per-client values, the same mathematics written centrally over
stacked arrays (no secfad, no communication), arguments, and the argument to differentiate. Arrays
are made on demand, so that they have the precision of whoever asks.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

import secfad as fad

S, C = fad.SERVER, fad.CLIENTS
CLIENTS = 5


@dataclasses.dataclass(frozen=True)
class Case:
    """One federated program and its oracle.

    Attributes:
      computation: Over per-client values.
      oracle: The same over stacked values.
      make: Arguments for a number of clients.
      wrt: Position of the differentiated argument.
      refused: Modes that must raise, with a part of the message.
      other: Modes that are defined but are no derivative here: a custom rule that is not linear in
        the cotangent gives another number for another cotangent.
      contacts: Of the value, where the figure is part of the claim.
    """

    name: str
    computation: fad.Computation
    oracle: Callable
    make: Callable[[int], tuple]
    wrt: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    other: tuple[str, ...] = ()
    contacts: float | None = None

    def args(self, clients: int = CLIENTS) -> tuple:
        """Arguments of a cohort of this size."""
        return self.make(clients)

    def specs(self) -> tuple:
        """What the server or one client holds."""
        one = zip(self.args(2), self.computation.placements.values())
        return tuple(jax.tree.map(lambda x, p=p: x[0] if p is C else x, a) for a, p in one)

    def modes(self) -> list[str]:
        """Modes that exist."""
        gone = {*self.other, *(mode for mode, _ in self.refused)}
        return [m for m in ("forward", "reverse", "mixed", "auto") if m not in gone]

    def derivative(self, mode: str) -> fad.Computation:
        """Gradient of a scalar result, Jacobian of any other."""
        take = fad.grad if self.is_scalar() else fad.jacobian
        return take(self.computation, argnums=self.wrt, mode=mode)

    def is_scalar(self) -> bool:
        """True if the result is one number."""
        out = jax.eval_shape(self.oracle, *self.args(2))
        return isinstance(out, jax.ShapeDtypeStruct) and out.shape == ()

    def expected_derivative(self, *args: Any) -> Any:
        """The centralised derivative, by forward mode: defined for every entry."""
        return jax.jacfwd(self.oracle, argnums=self.wrt)(*args)


CASES: dict[str, Case] = {}


def entry(placements: str, make: Callable[[int], tuple], oracle: Callable, **options: Any):
    """Adds the decorated function to the table; placements are one letter per argument."""

    def add(fun: Callable) -> Callable:
        names = fun.__code__.co_varnames[: fun.__code__.co_argcount]
        places = {n: S if p == "s" else C for n, p in zip(names, placements)}
        made = fad.computation(**places)(fun)
        CASES[fun.__name__] = Case(fun.__name__, made, oracle, make, **options)
        return fun

    return add


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def loss(w, x, y):
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


def local_delta(w, x, y, rate=0.3):
    def step(v, _):
        return v - rate * jax.grad(loss)(v, x, y), None

    return w - jax.lax.scan(step, w, None, length=3)[0]


def over(fun: Callable, *axes) -> Callable:
    """`fun` at every client."""
    return jax.vmap(fun, in_axes=axes)


def regression(clients: int) -> tuple:
    """(w, x, y): a model, and four examples per client."""
    return normal(0, 3), normal(1, clients, 4, 3), normal(2, clients, 4)


def hyper_regression(clients: int) -> tuple:
    return (jnp.array([0.7, 0.4]), *regression(clients))


# --- one round ---------------------------------------------------------------------------------


@entry(
    "sc",
    lambda n: (normal(0, 4), normal(1, n, 4)),
    lambda c, z: jnp.tanh(z * c).sum(0) / (1 + ((z - c) ** 2).sum(0)),
    contacts=1,
)
def vector_result(c, z):
    u = fad.broadcast(c, name="centre")
    first, second = fad.sum((jnp.tanh(z * u), (z - u) ** 2), name="moments")
    return first / (1.0 + second)


@entry(
    "sccc",
    lambda n: (*regression(n), jnp.arange(1.0, n + 1)),
    lambda w, x, y, n: n @ over(loss, None, 0, 0)(w, x, y) / n.sum(),
)
def weighted_mean(w, x, y, n):
    return fad.mean(loss(fad.broadcast(w), x, y), weights=n, name="loss")


def _network(params, x):
    return jnp.tanh(x @ params["hidden"] + params["bias"]) @ params["out"]


@entry(
    "scc",
    lambda n: (
        {"hidden": normal(0, 3, 2), "bias": normal(3, 2), "out": normal(4, 2)},
        *regression(n)[1:],
    ),
    lambda p, x, y: jnp.mean(over(lambda x, y: jnp.mean((_network(p, x) - y) ** 2), 0, 0)(x, y)),
)
def pytree_model(params, x, y):
    params = fad.broadcast(params, name="params")
    return fad.mean(jnp.mean((_network(params, x) - y) ** 2), name="loss")


@jax.custom_vjp
def clipped_gradient(x):
    return x


clipped_gradient.defvjp(
    lambda x: (x, None), lambda _, g: (g / jnp.maximum(1.0, jnp.abs(g) / 0.05),)
)


def _clipped_oracle(w, x, y):
    # The cotangent of the mean is 1/n at every client and the clip is per client.
    n = x.shape[0]
    value = jnp.mean(over(loss, None, 0, 0)(w, x, y))
    rows = over(jax.grad(loss), None, 0, 0)(jax.lax.stop_gradient(w), x, y) / n
    rows = rows / jnp.maximum(1.0, jnp.abs(rows) / 0.05)
    return jax.lax.stop_gradient(value) + rows.sum(0) @ (w - jax.lax.stop_gradient(w))


@entry("scc", regression, _clipped_oracle, refused=(("forward", "custom_vjp"),), other=("mixed",))
def custom_vjp_in_client_code(w, x, y):
    return fad.mean(loss(clipped_gradient(fad.broadcast(w)), x, y), name="loss")


@jax.custom_vjp
def scaled(x):
    return jnp.sin(x)


scaled.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


@entry(
    "scc",
    regression,
    lambda w, x, y: jnp.mean(over(lambda x, y: loss(jnp.sin(w), x, y), 0, 0)(x, y)),
    refused=(("forward", "custom_vjp"),),
)
def linear_custom_vjp_in_client_code(w, x, y):
    return fad.mean(loss(scaled(fad.broadcast(w)), x, y), name="loss")


@jax.custom_jvp
def softplus(x):
    return jnp.log1p(jnp.exp(x))


softplus.defjvp(lambda p, t: (softplus(*p), t[0] * jax.nn.sigmoid(p[0])))


@entry("scc", regression, lambda w, x, y: jnp.mean(jnp.logaddexp(x @ w, 0.0) * y))
def custom_jvp_in_client_code(w, x, y):
    return fad.mean(jnp.mean(softplus(x @ fad.broadcast(w)) * y), name="loss")


def _root(a):
    def step(state):
        x, _ = state
        new = 0.5 * (x + a / x)
        return new, jnp.abs(new - x)

    return jax.lax.while_loop(lambda s: s[1] > 1e-14, step, (a, jnp.ones_like(a)))[0]


@entry(
    "sc",
    lambda n: (normal(0, 3), normal(1, n, 3)),
    lambda c, z: jnp.mean(jnp.sqrt(1.0 + jnp.sum((z - c) ** 2, 1))),
    refused=(("reverse", "while"),),
)
def client_while(c, z):
    distance = 1.0 + jnp.sum((z - fad.broadcast(c)) ** 2)
    return fad.mean(_root(distance), name="distance")


@entry(
    "scc",
    lambda n: (normal(0, 3), normal(1, n, 3), jnp.arange(n) % 3),
    lambda w, x, k: jnp.mean(
        over(lambda x, k: jnp.array([jnp.sum(x * w), jnp.sum(jnp.sin(x + w)), 2.0])[k], 0, 0)(x, k)
    ),
)
def client_branch(w, x, kind):
    w = fad.broadcast(w)
    branches = [
        lambda: jnp.sum(x * w),
        lambda: jnp.sum(jnp.sin(x + w)),
        lambda: jnp.sum(0 * w) + 2.0,
    ]
    return fad.mean(jax.lax.switch(kind, branches), name="chosen")


def _keys(n):
    return jax.random.split(jax.random.key(3), n)


def _labels_oracle(w, x, labels, keys):
    def one(x, label, key):
        logits = (x + 0.1 * jax.random.normal(key, x.shape)) @ w
        return -jax.nn.log_softmax(logits)[label]

    return jnp.mean(over(one, 0, 0, 0)(x, labels, keys))


@entry(
    "sccc",
    lambda n: (normal(0, 3, 4), normal(1, n, 3), jnp.arange(n) % 4, _keys(n)),
    _labels_oracle,
)
def integers_and_keys(w, x, label, key):
    noisy = x + 0.1 * jax.random.normal(key, x.shape)
    logits = noisy @ fad.broadcast(w, name="model")
    return fad.mean(-jax.nn.log_softmax(logits)[label], name="loss")


@entry(
    "sc",
    lambda n: (normal(0, 3), normal(1, n, 4, 3)),
    lambda w, x: jnp.sum(over(lambda x: jnp.max(jax.nn.relu(x @ w)), 0)(x)) ** 2,
)
def sorted_clients(w, x):
    scores = jnp.sort(jax.nn.relu(x @ fad.broadcast(w)))
    return fad.sum(scores[-1], name="largest") ** 2


@entry(
    "ssc",
    lambda n: (jnp.array(0.6), normal(0, 3), normal(1, n, 3)),
    lambda q, w, x: (lambda norms: jnp.sum(norms ** (1 + q)) / jnp.sum(norms**q))(
        jnp.sum((x - w) ** 2, 1)
    ),
)
def learned_weighting(q, w, x):
    norm = jnp.sum((x - fad.broadcast(w)) ** 2)
    return fad.mean(norm, weights=norm ** fad.broadcast(q), name="loss")


@entry(
    "sc",
    lambda n: (normal(0, 3), normal(1, n, 3)),
    lambda w, x: jnp.sum(w * len(x) * jnp.cos(jnp.arange(3.0)) + (x * jnp.sin(w)).sum(0)),
)
def sums_of_constants(w, x):
    constant = jnp.cos(jnp.arange(3.0))
    total, rest = fad.sum((constant, x * jnp.sin(fad.broadcast(w))), name="both")
    return jnp.sum(w * total + rest)


# --- several rounds ----------------------------------------------------------------------------


def _fig4_oracle(hyper, w, m, x, y, n):
    deltas = over(local_delta, None, 0, 0)(w, x, y)
    new = w - hyper[0] * (hyper[1] * m + n @ deltas / n.sum())
    return n @ over(loss, None, 0, 0)(new, x, y) / n.sum()


@entry(
    "sssccc",
    lambda n: (
        jnp.array([0.7, 0.4]),
        normal(0, 3),
        normal(5, 3),
        *regression(n)[1:],
        jnp.arange(1.0, n + 1),
    ),
    _fig4_oracle,
    contacts=2,
)
def fedavgm_fig4(hyper, w, m, x, y, n):
    delta = fad.mean(local_delta(fad.broadcast(w, name="model"), x, y), weights=n, name="delta")
    new = w - hyper[0] * (hyper[1] * m + delta)
    return fad.mean(loss(fad.broadcast(new, name="new_model"), x, y), weights=n, name="loss")


def _client_rate_oracle(rate, w, x, y):
    deltas = over(lambda x, y: local_delta(w, x, y, rate), 0, 0)(x, y)
    return jnp.mean(over(loss, None, 0, 0)(w - deltas.mean(0), x, y))


@entry("sscc", lambda n: (jnp.array(0.2), *regression(n)), _client_rate_oracle)
def client_learning_rate(rate, w, x, y):
    delta = local_delta(fad.broadcast(w), x, y, fad.broadcast(rate))
    new = w - fad.mean(delta, name="delta")
    return fad.mean(loss(fad.broadcast(new), x, y), name="loss")


def _two_rounds_oracle(w, x, y):
    for _ in range(2):
        w = w - 0.5 * jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
    return jnp.mean(over(loss, None, 0, 0)(w, x, y))


@entry("scc", regression, _two_rounds_oracle, contacts=3)
def two_rounds(w, x, y):
    for i in range(2):
        w = w - 0.5 * fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name=f"gradient{i}")
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


def _scan_oracle(hyper, w, x, y):
    m = jnp.zeros(3)
    for _ in range(4):
        m = hyper[1] * m + jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
        w = w - hyper[0] * m
    return jnp.mean(over(loss, None, 0, 0)(w, x, y))


@entry("sscc", hyper_regression, _scan_oracle, contacts=5)
def scan_of_rounds(hyper, w, x, y):
    def step(state, _):
        w, m = state
        g = fad.mean(jax.grad(loss)(fad.broadcast(w, name="model"), x, y), name="gradient")
        m = hyper[1] * m + g
        return (w - hyper[0] * m, m), None

    (w, _), _ = jax.lax.scan(step, (w, jnp.zeros(3)), None, length=4)
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


def _collected_oracle(w, x, y, rates):
    losses = []
    for rate in rates:
        losses.append(jnp.mean(over(loss, None, 0, 0)(w, x, y)))
        w = w - rate * jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
    return jnp.stack(losses)


@entry("sccs", lambda n: (*regression(n), jnp.array([0.1, 0.3, 0.2])), _collected_oracle, wrt=3)
def scan_over_schedule(w, x, y, rates):
    def step(w, rate):
        value, g = fad.mean(jax.value_and_grad(loss)(fad.broadcast(w), x, y), name="step")
        return w - rate * g, value

    return jax.lax.scan(step, w, rates)[1]


def _nested_oracle(w, x, y):
    for _ in range(2):
        for _ in range(2):
            w = w - 0.2 * jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
        w = 0.9 * w
    return jnp.mean(over(loss, None, 0, 0)(w, x, y))


@entry("scc", regression, _nested_oracle)
def nested_scans(w, x, y):
    def inner(w, _):
        return w - 0.2 * fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="gradient"), None

    def outer(w, _):
        return 0.9 * jax.lax.scan(inner, w, None, length=2)[0], None

    w = jax.lax.scan(outer, w, None, length=2)[0]
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


@entry("scc", regression, _two_rounds_oracle)
def fori_of_rounds(w, x, y):
    def step(i, w):
        return w - 0.5 * fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="gradient")

    w = jax.lax.fori_loop(0, 2, step, w)
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


def _server_while_oracle(w, x):
    def step(state):
        w, i = state
        return w - 0.1 * jnp.mean(over(lambda x: jnp.cos(w * x) * x, 0)(x), 0), i + 1

    return jnp.sum(jax.lax.while_loop(lambda s: (s[1] < 3) & (s[0][0] > -9), step, (w, 0))[0] ** 2)


@entry(
    "sc",
    lambda n: (normal(0, 3), normal(1, n, 3)),
    _server_while_oracle,
    refused=(("reverse", "while"), ("mixed", "data-dependent loop")),
)
def server_while(w, x):
    def step(state):
        w, i = state
        g = fad.mean(jnp.cos(fad.broadcast(w) * x) * x, name="gradient")
        return w - 0.1 * g, i + 1

    w, _ = jax.lax.while_loop(lambda s: (s[1] < 3) & (s[0][0] > -9), step, (w, 0))
    return jnp.sum(w**2)


def _branch_oracle(flag):
    def oracle(w, x, y):
        value = jnp.mean(over(loss, None, 0, 0)(w, x, y))
        other = jnp.mean(over(lambda x: jnp.sum(jnp.sin(x @ w)), 0)(x))
        return jnp.where(flag(w), value, other) * 2.0

    return oracle


@entry("scc", regression, _branch_oracle(lambda w: w[0] > 0))
def server_cond(w, x, y):
    def first(w):
        return fad.mean(loss(fad.broadcast(w), x, y), name="loss")

    def second(w):
        return fad.mean(jnp.sum(jnp.sin(x @ fad.broadcast(w))), name="sine")

    return jax.lax.cond(w[0] > 0, first, second, w) * 2.0


@entry("scc", regression, _branch_oracle(lambda w: w[0] < 0))
def cond_on_received_value(w, x, y):
    received = fad.broadcast(w, name="model")

    def first():
        return fad.mean(loss(received, x, y), name="loss")

    def second():
        return fad.mean(jnp.sum(jnp.sin(x @ received)), name="sine")

    return jax.lax.cond(w[0] < 0, first, second) * 2.0


def _switch_oracle(w, index, x):
    values = [
        jnp.mean(jnp.sum(x * w, 1)),
        jnp.sum(w**2),
        jnp.mean(jnp.sum(jnp.exp(-x * w), 1)) ** 2,
    ]
    return jnp.stack(values)[index]


@entry("ssc", lambda n: (normal(0, 3), jnp.array(2), normal(1, n, 3)), _switch_oracle)
def server_switch(w, index, x):
    branches = [
        lambda w: fad.mean(jnp.sum(x * fad.broadcast(w)), name="linear"),
        lambda w: jnp.sum(w**2),
        lambda w: fad.mean(jnp.sum(jnp.exp(-x * fad.broadcast(w))), name="exponential") ** 2,
    ]
    return jax.lax.switch(index, branches, w)


def _cond_in_scan_oracle(w, x, y):
    for i in range(4):
        g = jnp.mean(over(jax.grad(loss), None, 0, 0)(w, x, y), 0)
        w = w - 0.3 * g if i % 2 == 0 else 0.5 * w
    return jnp.sum(w**2)


@entry("scc", regression, _cond_in_scan_oracle)
def cond_in_scan(w, x, y):
    def descend(w):
        return w - 0.3 * fad.mean(jax.grad(loss)(fad.broadcast(w), x, y), name="gradient")

    def step(w, i):
        return jax.lax.cond(i % 2 == 0, descend, lambda w: 0.5 * w, w), None

    return jnp.sum(jax.lax.scan(step, w, jnp.arange(4))[0] ** 2)


def _received_scan_oracle(w, x, y):
    total = 0.0
    for i in range(3):
        total = jnp.tanh(total) + jnp.mean(over(loss, None, 0, 0)(w * (i + 1.0), x, y))
    return total


@entry("scc", regression, _received_scan_oracle)
def scan_on_received_value(w, x, y):
    received = fad.broadcast(w, name="model")

    def step(total, i):
        return jnp.tanh(total) + fad.mean(loss(received * (fad.broadcast(i) + 1.0), x, y)), None

    return jax.lax.scan(step, 0.0, jnp.arange(3.0))[0]


# --- client state ------------------------------------------------------------------------------


def _scaffold_oracle(w, x, y, state):
    server = jnp.zeros(3)
    for _ in range(3):
        delta = over(jax.grad(loss), None, 0, 0)(w, x, y) - state + server
        state = state + 0.5 * delta
        server = server + 0.1 * jnp.mean(delta, 0)
        w = w - 0.4 * jnp.mean(delta, 0)
    return jnp.mean(over(loss, None, 0, 0)(w, x, y))


@entry("sccc", lambda n: (*regression(n), 0.1 * normal(7, n, 3)), _scaffold_oracle)
def scaffold_state(w, x, y, state):
    def step(carry, _):
        w, server, state = carry
        received, control = fad.broadcast((w, server), name="model")
        delta = jax.grad(loss)(received, x, y) - state + control
        mean = fad.mean(delta, name="delta")
        return (w - 0.4 * mean, server + 0.1 * mean, state + 0.5 * delta), None

    (w, _, _), _ = jax.lax.scan(step, (w, jnp.zeros(3), state), None, length=3)
    return fad.mean(loss(fad.broadcast(w), x, y), name="loss")


def _memory_oracle(w, x):
    held = jnp.tanh(x * w)
    total = jnp.mean(held, 0)
    return jnp.mean(jnp.sum(held * jnp.sin(total), 1))


@entry("sc", lambda n: (normal(0, 3), normal(1, n, 3)), _memory_oracle)
def kept_between_rounds(w, x):
    held = jnp.tanh(x * fad.broadcast(w, name="model"))
    total = fad.mean(held, name="first")
    return fad.mean(jnp.sum(held * jnp.sin(fad.broadcast(total, name="total"))), name="second")


# --- transformations inside ---------------------------------------------------------------------


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


@entry("scc", regression, _two_rounds_oracle)
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
    lambda rates, w, x, y: over(lambda r: _client_rate_oracle(r, w, x, y), 0)(rates),
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
