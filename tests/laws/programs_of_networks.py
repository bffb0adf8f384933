"""Neural networks and losses: layers, sequences, attention, graphs, generative models, contrastive losses."""

import jax
import jax.numpy as jnp
from jax import lax
from practice import classes, keys, normal, objective, program, regression


def mlp(p, x):
    return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]


def network(clients):
    p = {"a": 0.5 * normal(0, 3, 2), "b": 0.1 * normal(1, 2), "c": normal(2, 2)}
    return p, *regression(clients)[1:]


def sequences(clients):
    p = {"w": 0.4 * normal(0, 2, 3), "u": 0.4 * normal(1, 2, 2), "o": normal(2, 2)}
    return p, normal(3, clients, 4, 3)


def images(clients):
    return 0.4 * normal(0, 2, 1, 2, 2), normal(1, clients, 2, 1, 4, 4)


@objective(network)
def perceptron(p, x, y):
    return jnp.mean((mlp(p, x) - y) ** 2)


@objective(network)
def perceptron_with_checkpoint(p, x, y):
    return jnp.mean((jax.checkpoint(mlp)(p, x) - y) ** 2)


@objective(network)
def residual_network(p, x, y):
    h = x @ p["a"]
    for _ in range(2):
        h = h + jax.nn.gelu(h * p["b"])
    return jnp.mean((h @ p["c"] - y) ** 2)


@objective(network)
def residual_network_as_a_scan(p, x, y):
    h = lax.scan(lambda h, _: (h + jax.nn.silu(h * p["b"]), None), x @ p["a"], None, length=3)[0]
    return jnp.mean((h @ p["c"] - y) ** 2)


@objective(network)
def residual_network_with_remat_of_a_scan(p, x, y):
    step = jax.checkpoint(lambda h, _: (h + jax.nn.silu(h * p["b"]), None))
    return jnp.mean((lax.scan(step, x @ p["a"], None, length=3)[0] @ p["c"] - y) ** 2)


@objective(network)
def layer_normalised_network(p, x, y):
    h = x @ p["a"]
    h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-3)
    return jnp.mean((h @ p["c"] - y) ** 2)


@objective(network)
def batch_normalised_network(p, x, y):
    h = x @ p["a"]
    h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-3)
    return jnp.mean((jax.nn.softplus(h) @ p["c"] - y) ** 2)


@objective(network)
def mixture_of_experts(p, x, y):
    gate = jax.nn.softmax(x @ p["a"], axis=-1)
    return jnp.mean((jnp.sum(gate * (jnp.sin(x @ p["a"]) * p["c"]), -1) - y) ** 2)


@objective(network)
def hard_mixture_of_experts(p, x, y):
    score = x @ p["a"]
    best = jnp.argmax(score, axis=-1)
    return jnp.mean((jnp.take_along_axis(score, best[:, None], 1)[:, 0] * p["c"][best] - y) ** 2)


@objective(network)
def gated_linear_units(p, x, y):
    return jnp.mean(((x @ p["a"]) * jax.nn.sigmoid(x @ p["a"] + p["b"]) @ p["c"] - y) ** 2)


@objective(lambda n: (normal(0, 4, 3), normal(1, n, 5, 3)))
def low_rank_adapter(p, x):
    frozen = jnp.arange(9.0).reshape(3, 3) / 9
    return jnp.mean((x @ (frozen + p[:2].T @ p[2:]) - x) ** 2)


@objective(images)
def convolution(k, x):
    return jnp.mean(jnp.tanh(lax.conv(x, k, (1, 1), "SAME")) ** 2)


@objective(images)
def convolution_and_pooling(k, x):
    h = lax.conv(x, k, (1, 1), "SAME")
    pooled = lax.reduce_window(h, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return jnp.mean(pooled**2)


@objective(images)
def strided_and_dilated_convolution(k, x):
    h = lax.conv_general_dilated(x, k, (2, 2), "VALID", rhs_dilation=(2, 2))
    return jnp.mean(jax.nn.relu(h) + h**2)


@objective(images)
def transposed_convolution(k, x):
    h = lax.conv_transpose(
        x, k.transpose(2, 3, 1, 0), (2, 2), "SAME", dimension_numbers=("NCHW", "HWIO", "NCHW")
    )
    return jnp.mean(jnp.sin(h))


@objective(lambda n: (normal(0, 4), normal(1, n, 8)))
def convolution_by_fft(k, x):
    spectrum = jnp.fft.rfft(x) * jnp.fft.rfft(jnp.pad(k, (0, 4)))
    return jnp.mean(jnp.fft.irfft(spectrum) ** 2)


@objective(lambda n: (normal(0, 5), normal(1, n, 8)))
def filter_in_the_frequency_domain(k, x):
    return jnp.sum(jnp.abs(jnp.fft.rfft(x) * k) ** 2)


@objective(sequences)
def recurrent_network(p, x):
    h = lax.scan(lambda h, v: (jnp.tanh(p["u"] @ h + p["w"] @ v),) * 2, jnp.zeros(2), x)[1]
    return jnp.mean((h @ p["o"]) ** 2)


@objective(sequences)
def long_short_term_memory(p, x):
    def step(state, v):
        h, c = state
        z = p["u"] @ h + p["w"] @ v
        c = jax.nn.sigmoid(z + 1) * c + jax.nn.sigmoid(z) * jnp.tanh(z[::-1])
        h = jax.nn.sigmoid(2 * z) * jnp.tanh(c)
        return (h, c), h

    return jnp.mean((lax.scan(step, (jnp.zeros(2), jnp.zeros(2)), x)[1] @ p["o"] - 1) ** 2)


@objective(sequences)
def gated_recurrent_unit(p, x):
    def step(h, v):
        z = jax.nn.sigmoid(p["w"] @ v + p["u"] @ h)
        return (1 - z) * h + z * jnp.tanh(p["w"] @ v + p["u"] @ (z * h)), None

    return jnp.sum(lax.scan(step, jnp.ones(2), x)[0] * p["o"])


@objective(sequences)
def reversed_recurrence(p, x):
    h = lax.scan(
        lambda h, v: (jnp.tanh(p["u"] @ h + p["w"] @ v),) * 2, jnp.zeros(2), x, reverse=True
    )[1]
    return jnp.mean((h @ p["o"]) ** 2)


@objective(sequences)
def linear_recurrence_by_an_associative_scan(p, x):
    gate = jax.nn.sigmoid(x @ p["w"].T)
    combine = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])
    h = lax.associative_scan(combine, (gate, (1 - gate) * (x @ p["w"].T)))[1]
    return jnp.mean((h @ p["o"]) ** 2)


@objective(sequences)
def masked_sequence(p, x):
    keep = jnp.arange(4) < 1 + (jnp.sum(x) > 0) * 2
    step = lambda h, vm: (jnp.where(vm[1], jnp.tanh(p["u"] @ h + p["w"] @ vm[0]), h), None)
    return jnp.sum(lax.scan(step, jnp.zeros(2), (x, keep))[0] * p["o"])


@objective(sequences)
def attention(p, x):
    q, k = x @ p["w"].T, x @ p["w"].T @ p["u"]
    return jnp.mean((jax.nn.softmax(q @ k.T / 2, axis=-1) @ x) ** 2)


@objective(sequences)
def causal_attention(p, x):
    q, k = x @ p["w"].T, x @ p["w"].T @ p["u"]
    score = jnp.where(jnp.tril(jnp.ones((4, 4), bool)), q @ k.T, -jnp.inf)
    return jnp.mean((jax.nn.softmax(score, axis=-1) @ x @ p["w"].T @ p["o"]) ** 2)


@objective(sequences, tolerance=1e-6)  # its softmax is in single precision
def library_attention(p, x):
    q = (x @ p["w"].T)[:, None]
    return jnp.mean(jax.nn.dot_product_attention(q, q * 0.5, q + 1) ** 2)


@objective(lambda n: (normal(0, 6, 2), jnp.arange(n * 4).reshape(n, 4) % 6))
def embedding_and_bag_of_words(table, words):
    return jnp.sum(jnp.tanh(jnp.mean(table[words], 0))) + jnp.mean(table[words[0]] ** 2)


@objective(lambda n: (normal(0, 6, 2), jnp.arange(n * 4).reshape(n, 4) % 6))
def skip_gram(table, words):
    near = jnp.sum(table[words[:-1]] * table[words[1:]], -1)
    return jnp.mean(jax.nn.softplus(-near)) + jnp.mean(
        jax.nn.logsumexp(table[words] @ table.T, axis=-1)
    )


def graphs(clients):
    edges = jnp.asarray([[0, 1, 2, 3, 1], [1, 2, 3, 0, 3]])
    return 0.5 * normal(0, 3, 3), normal(1, clients, 4, 3), jnp.tile(edges, (clients, 1, 1))


@objective(graphs)
def graph_convolution(w, x, edges):
    sent = jax.ops.segment_sum((x @ w)[edges[0]], edges[1], 4)
    return jnp.mean(jnp.tanh(sent + x) ** 2)


@objective(graphs)
def graph_attention(w, x, edges):
    h = x @ w
    score = jnp.sum(h[edges[0]] * h[edges[1]], -1)
    top = jax.ops.segment_max(score, edges[1], 4)
    weight = jnp.exp(score - top[edges[1]])
    return jnp.mean(jax.ops.segment_sum(weight[:, None] * h[edges[0]], edges[1], 4) ** 2)


@objective(graphs)
def graph_network_of_two_layers(w, x, edges):
    for _ in range(2):
        x = x.at[edges[1]].add(jnp.tanh(x[edges[0]] @ w))
    return jnp.mean(x**2)


@objective(lambda n: (0.5 * normal(0, 4, 2), normal(1, n, 5, 2)))
def normalising_flow(p, x):
    left, right = x[:, :1], x[:, 1:]
    right = right * jnp.exp(left * p[0, 0]) + left * p[0, 1]
    left = left * jnp.exp(right * p[1, 0]) + right * p[1, 1]
    volume = x[:, 0] * p[0, 0] + right[:, 0] * p[1, 0]
    return jnp.mean((left**2 + right**2)[:, 0] / 2 - volume)


@objective(lambda n: (0.5 * normal(0, 2, 2), normal(1, n, 5, 2)))
def flow_by_the_determinant_of_a_jacobian(p, x):
    f = lambda v: v + jnp.tanh(p @ v) / 2
    slope = jax.vmap(jax.jacfwd(f))(x)
    return jnp.mean(jax.vmap(f)(x) ** 2) - jnp.mean(jnp.linalg.slogdet(slope)[1])


@program(
    "scc",
    lambda n: ({"e": 0.5 * normal(0, 3, 2), "d": normal(1, 2, 3)}, normal(2, n, 5, 3), keys(n)),
)
def variational_autoencoder(over, p, x, key):
    def client(p, x, key):
        mean, log_scale = x @ p["e"], jnp.tanh(x @ p["e"])
        z = mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
        fit = jnp.mean((z @ p["d"] - x) ** 2)
        return fit + jnp.mean(jnp.exp(2 * log_scale) + mean**2 - 2 * log_scale) / 2

    return over.mean(client, p, x, key)


@program("scc", lambda n: (0.5 * normal(0, 3, 3), normal(2, n, 5, 3), keys(n)))
def denoising_diffusion(over, w, x, key):
    def client(w, x, key):
        at, noise = jax.random.split(key)
        level = jax.random.uniform(at, (5, 1))
        eps = jax.random.normal(noise, x.shape)
        return jnp.mean(
            (jnp.tanh((jnp.sqrt(1 - level) * x + jnp.sqrt(level) * eps) @ w) - eps) ** 2
        )

    return over.mean(client, w, x, key)


@program("scc", lambda n: (0.5 * normal(0, 3, 3), normal(2, n, 5, 3), keys(n)))
def dropout(over, w, x, key):
    keep = lambda k, h: jnp.where(jax.random.bernoulli(k, 0.5, h.shape), 2 * h, 0.0)
    return over.mean(lambda w, x, k: jnp.mean(keep(k, jnp.tanh(x @ w)) ** 2), w, x, key)


@program(
    "scc", lambda n: ({"g": 0.5 * normal(0, 2, 2), "d": normal(1, 2)}, normal(2, n, 5, 2), keys(n))
)
def adversarial_losses(over, p, x, key):
    def client(p, x, key):
        fake = jax.random.normal(key, x.shape) @ p["g"]
        return jnp.mean(jax.nn.softplus(-x @ p["d"]) + jax.nn.softplus(fake @ p["d"]))

    return over.mean(client, p, x, key)


@objective(lambda n: (0.5 * normal(0, 3, 2), normal(1, n, 4, 3)))
def contrastive_loss(w, x):
    z, other = x @ w, (x + 0.1 * jnp.sin(x)) @ w
    z, other = (a / jnp.linalg.norm(a, axis=1, keepdims=True) for a in (z, other))
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(z @ other.T / 0.5, axis=1)))


@objective(lambda n: (0.5 * normal(0, 3, 2), normal(1, n, 6, 3)))
def triplet_loss(w, x):
    z = x @ w
    far, near = jnp.sum((z[:2] - z[2:4]) ** 2, 1), jnp.sum((z[:2] - z[4:]) ** 2, 1)
    return jnp.mean(jax.nn.relu(near - far + 1))


@objective(classes)
def focal_loss(w, x, y):
    chosen = jax.nn.log_softmax(x @ w)[jnp.arange(5), y]
    return -jnp.mean((1 - jnp.exp(chosen)) ** 2 * chosen)


@objective(classes)
def label_smoothing(w, x, y):
    goal = 0.9 * jax.nn.one_hot(y, 3) + 0.1 / 3
    return -jnp.mean(jnp.sum(goal * jax.nn.log_softmax(x @ w), -1))


@objective(classes)
def distillation(w, x, y):
    teacher = jax.nn.softmax(x[:, ::-1])
    return jnp.mean(jnp.sum(teacher * (jnp.log(teacher) - jax.nn.log_softmax(x @ w)), -1))


@objective(classes)
def top_k_loss(w, x, y):
    best, where = lax.top_k(x @ w, 2)
    return jnp.mean(best[:, 0] - best[:, 1]) + jnp.mean((where[:, 0] == y) * best[:, 0])


@objective(regression)
def sorted_losses_trimmed(w, x, y):
    return jnp.sum(jnp.sort((x @ w - y) ** 2)[:3])


@objective(regression)
def ranking_loss(w, x, y):
    s = x @ w
    return jnp.mean(jnp.where(y[:, None] > y, jax.nn.softplus(s - s[:, None]), 0.0))


@objective(regression)
def median_of_losses(w, x, y):
    return jnp.median((x @ w - y) ** 2)


@objective(regression)
def logsumexp_of_losses(w, x, y):
    return jax.nn.logsumexp((x @ w - y) ** 2)


@objective(regression)
def gradient_penalty(w, x, y):
    f = lambda v: jnp.tanh(v @ w) ** 2
    return jnp.mean((jnp.linalg.norm(jax.vmap(jax.grad(f))(x), axis=1) - 1) ** 2)


@objective(regression)
def physics_informed_loss(w, x, y):
    u = lambda t: jnp.tanh(w[0] * t + w[1]) * w[2]
    residual = jax.vmap(lambda t: jax.grad(jax.grad(u))(t) + u(t))
    return jnp.mean(residual(x[:, 0]) ** 2)


@objective(network)
def hessian_trace_penalty(p, x, y):
    f = lambda v: jnp.mean((jnp.tanh(x @ v) - y) ** 2)
    return jnp.trace(jax.hessian(f)(p["a"][:, 0])) + f(p["a"][:, 1])


@objective(network)
def sharpness_aware_loss(p, x, y):
    f = lambda q: jnp.mean((mlp(q, x) - y) ** 2)
    g = jax.grad(f)(p)
    norm = jnp.sqrt(sum(jnp.sum(a**2) for a in jax.tree.leaves(g)) + 1e-6)
    return f(jax.tree.map(lambda a, b: a + 0.05 * b / norm, p, g))
