"""Kinds of data and of randomness: low precision, complex and integer data, sparse matrices, generators."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import sparse
from practice import keys, normal, objective, program, regression, uniform


def as_type(dtype):
    def make(clients):
        w, x, y = regression(clients)
        return w, x.astype(dtype), y.astype(dtype)

    return make


@objective(as_type(jnp.float32))
def single_precision_data(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


@objective(as_type(jnp.bfloat16))
def bfloat16_data(w, x, y):
    return jnp.mean((x.astype(float) @ w - y) ** 2)


@objective(as_type(jnp.float16))
def half_precision_data(w, x, y):
    return jnp.mean((x.astype(float) @ w - y.astype(float)) ** 2)


@objective(as_type(jnp.int8))
def quantised_data(w, x, y):
    return jnp.mean((x @ w / 4 - y) ** 2)


@objective(as_type(jnp.uint8))
def pixels(w, x, y):
    return jnp.mean((x / 255 @ w - y / 255) ** 2)


@objective(as_type(jnp.bool_))
def binary_data(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


@objective(as_type(jnp.complex128))
def complex_data(w, x, y):
    return jnp.mean(jnp.abs((x + 0.5j) @ w - y * 1j) ** 2)


@objective(lambda n: (normal(0, 3, 2), *regression(n)[1:]))
def phases_of_a_complex_model(w, x, y):
    z = lax.complex(w[:, 0], w[:, 1])
    return jnp.mean(jnp.real(jnp.exp(1j * (x @ z.real)) * (x @ z)) - y) ** 2


@objective(lambda n: (normal(0, 4), normal(1, n, 4)))
def phase_retrieval(w, x):
    return jnp.mean((jnp.abs(jnp.fft.fft(w * x)) ** 2 - 1) ** 2)


@objective(regression)
def integer_counts_and_rounding(w, x, y):
    return jnp.mean((x @ w - jnp.round(y)) ** 2) + jnp.mean(jnp.floor(x).astype(int) @ w)


@objective(regression)
def straight_through_quantisation(w, x, y):
    q = w + lax.stop_gradient(jnp.round(w * 4) / 4 - w)
    return jnp.mean((x @ q - y) ** 2)


@objective(regression)
def bits_as_features(w, x, y):
    bits = lax.bitcast_convert_type(x, jnp.uint64) >> 52
    return jnp.mean((bits.astype(float) / 1024 @ w - y) ** 2)


@objective(regression)
def missing_values(w, x, y):
    seen = x > -1
    return jnp.sum(jnp.where(seen, x * w, 0.0)) + jnp.mean((jnp.where(seen, x, 0.3) @ w - y) ** 2)


@objective(regression)
def one_hot_of_bins(w, x, y):
    bins = jnp.digitize(x[:, 0], jnp.array([-0.5, 0.5]))
    return jnp.mean((jax.nn.one_hot(bins, 3) @ w - y) ** 2)


@objective(regression)
def interpolation(w, x, y):
    grid = jnp.array([-1.0, 0.0, 1.0])
    return jnp.mean((jnp.interp(x[:, 0], grid, w) - y) ** 2)


@objective(regression)
def polynomial_features(w, x, y):
    return jnp.mean((jnp.polyval(w, x[:, 0]) - y) ** 2)


@objective(regression)
def cumulative_features(w, x, y):
    return jnp.mean((jnp.cumsum(x, 0) @ w + jnp.cumprod(jnp.tanh(x), 0) @ w - y) ** 2)


@objective(regression)
def sorted_features(w, x, y):
    order = jnp.argsort(x[:, 0])
    return jnp.mean((x[order] @ w - y[order[::-1]]) ** 2)


@objective(regression)
def pairwise_distances(w, x, y):
    d = jnp.sum(((x[:, None] - x) * w) ** 2, -1)
    return jnp.mean(jnp.sqrt(d + 1e-3) * jnp.abs(y - y[:, None]))


def sparse_rows(clients):
    rng = np.random.default_rng(1)
    places = jnp.asarray(
        np.stack(
            [np.stack([rng.permutation(5)[:4], rng.integers(0, 3, 4)], 1) for _ in range(clients)]
        )
    )
    return 0.5 * normal(0, 3), normal(1, clients, 4), places, normal(2, clients, 5)


@objective(sparse_rows)
def sparse_matrix_product(w, values, places, y):
    x = sparse.BCOO((values, places), shape=(5, 3))
    return jnp.mean((x @ w - y) ** 2)


@objective(sparse_rows)
def sparse_matrix_product_of_a_matrix(w, values, places, y):
    x = sparse.BCOO((values, places), shape=(5, 3))
    return jnp.mean((x @ jnp.outer(w, w)) ** 2) + jnp.mean(x.T @ y * w)


@objective(sparse_rows)
def sparse_weights(w, values, places, y):
    x = sparse.BCOO((values * w[places[:, 1]], places), shape=(5, 3))
    return jnp.mean((x.todense().sum(1) - y) ** 2)


@objective(sparse_rows)
def sparsified_function(w, values, places, y):
    x = sparse.BCOO((values, places), shape=(5, 3))
    return jnp.sum(sparse.sparsify(lambda m, v: (m * 2.0) @ v)(x, w) * y)


@objective(sparse_rows)
def segments(w, values, places, y):
    return jnp.mean((jax.ops.segment_sum(values * w[places[:, 1]], places[:, 0], 5) - y) ** 2)


@objective(sparse_rows)
def segment_extremes(w, values, places, y):
    top = jax.ops.segment_max(values * w[places[:, 1]], places[:, 0], 5)
    return jnp.sum(jnp.where(jnp.isfinite(top), top, 0.0) * y)


@program("sc", lambda n: (uniform(0, 4, 8), jnp.arange(n * 6).reshape(n, 6) * 7 % 31))
def count_sketch(over, signs, items):
    def client(s, items):
        rows = jnp.arange(4)
        at = (items[None] * (2 * rows[:, None] + 3)) % 8
        sign = jnp.where((items[None] + rows[:, None]) % 2 == 0, 1.0, -1.0)
        return jnp.zeros((4, 8)).at[rows[:, None], at].add(sign * jnp.take_along_axis(s, at, 1))

    return jnp.median(over.sum(client, signs, items), axis=0)


@program("scc", lambda n: (0.5 * normal(0, 3), normal(1, n, 5, 3), jnp.ones(n) * 3.0))
def products_of_sums(over, w, x, n):
    total, count = over.sum(lambda w, x, n: (jnp.sum(x * w, 0), n), w, x, n)
    return jnp.prod(jnp.sin(total / count))


@program("scc", regression)
def results_of_many_shapes(over, w, x, y):
    sums = over.sum(
        lambda w, x, y: {"a": x.T @ y * w, "b": (jnp.sum(w * x), jnp.outer(w, w) * y[0])}, w, x, y
    )
    return {"t": sums["a"], "u": jnp.sin(sums["b"][1]), "v": sums["b"][0]}


# Random clients.


def with_keys(impl):
    return lambda n: (*regression(n)[:2], keys(n, impl=impl))


def noisy(w, x, key):
    noise, mask, order = jax.random.split(key, 3)
    x = x + 0.1 * jax.random.normal(noise, x.shape)
    x = jnp.where(jax.random.bernoulli(mask, 0.8, x.shape), x, 0.0)
    return jnp.mean(jnp.sin(jax.random.permutation(order, x)[:3] @ w))


for _impl in ("threefry2x32", "rbg", "unsafe_rbg"):

    def _averaged(over, w, x, key):
        return over.mean(noisy, w, x, key)

    _averaged.__name__ = f"random_clients_{_impl}"
    program("scc", with_keys(_impl))(_averaged)


@objective(with_keys(None))
def random_features(w, x, key):
    directions = jax.random.normal(key, (3, 3))
    return jnp.mean((jnp.cos(x @ directions) @ w) ** 2)


@objective(with_keys(None))
def reparametrised_gamma(w, x, key):
    return jnp.mean(jax.random.gamma(key, 1.0 + jax.nn.softplus(x @ w)) ** 2)


@objective(with_keys(None))
def gumbel_softmax(w, x, key):
    return jnp.mean(jax.nn.softmax((x * w + jax.random.gumbel(key, x.shape)) / 0.5) ** 2)


@objective(with_keys(None))
def score_function_estimator(w, x, key):
    p = jax.nn.sigmoid(x @ w)
    hit = lax.stop_gradient(jax.random.bernoulli(key, p))
    return jnp.mean(jnp.where(hit, jnp.log(p) * 2, jnp.log1p(-p)))


@objective(with_keys(None))
def langevin_steps(w, x, key):
    def step(v, k):
        g = jax.grad(lambda u: jnp.mean(jnp.sin(x @ u)))(v)
        return v - 0.1 * g + 0.05 * jax.random.normal(k, (3,)), None

    return jnp.sum(lax.scan(step, w, jax.random.split(key, 3))[0])


@objective(with_keys(None))
def key_in_a_loop(w, x, key):
    def step(i, state):
        k, v = state
        return jax.random.fold_in(k, i), v + 0.1 * jax.random.uniform(k) * jnp.tanh(v)

    return jnp.sum(lax.fori_loop(0, 3, step, (key, w))[1]) * jnp.mean(x)


@objective(with_keys(None))
def categorical_choice(w, x, key):
    chosen = jax.random.categorical(key, lax.stop_gradient(x @ w))
    return jnp.tanh(x[chosen] @ w)


@program("sscc", lambda n: (0.5 * normal(0, 3), jax.random.key(9), *regression(n)[1:]))
def random_projection_of_the_server(over, w, key, x, y):
    sketch = jax.random.normal(key, (2, 3))
    return over.mean(
        lambda s, x, y: jnp.mean((x @ s.T @ s @ s.T @ jnp.ones(2) - y) ** 2), sketch * w, x, y
    )


@program("sscc", lambda n: (0.5 * normal(0, 3), jax.random.key(9), *regression(n)[1:]))
def evolution_strategy(over, w, key, x, y):
    directions = jax.random.normal(key, (3, 3))
    f = lambda s, x, y: jax.vmap(lambda d: jnp.mean(jnp.tanh(x @ (s[0] + 0.1 * d) - y) ** 2))(s[1])
    return over.mean(f, (w, directions), x, y) @ directions
