"""Federated programs of one round; they add themselves to the table."""

import jax
import jax.numpy as jnp
from federated_programs import entry, loss, normal, over, regression

import secfad as fad


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
