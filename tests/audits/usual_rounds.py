"""Thirty-four rounds that people write: what a useful checker has to accept.

`ROUNDS` maps a name to a computation and its specs. They are of the kinds that practice has: averaging
and its relatives, statistics, models of several layers, randomness at the clients, and loops.
"""

import jax
import jax.numpy as jnp
import optax

import secfad as fad

D, EXAMPLES, CLASSES = 4, 6, 3
ROUNDS: dict[str, tuple] = {}


def array(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


KEY = jax.eval_shape(lambda: jax.random.key(0))
MODEL, BATCH, LABELS = array(D), array(EXAMPLES, D), array(EXAMPLES)
CLASS = array(EXAMPLES, dtype="int32")


def usual(*specs, **placements):
    """Registers a round; letters say where its arguments live."""
    places = {"S": fad.SERVER, "C": fad.CLIENTS}

    def add(fn):
        made = fad.computation(**{n: places[p] for n, p in placements.items()})(fn)
        ROUNDS[fn.__name__] = (made, specs)
        return made

    return add


def squared(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


def descend(loss, w, steps=3, rate=0.1):
    step = lambda w, _: (jax.tree.map(lambda a, g: a - rate * g, w, jax.grad(loss)(w)), None)
    return jax.lax.scan(step, w, length=steps)[0]


def difference(a, b):
    return jax.tree.map(jnp.subtract, a, b)


def shifted(a, b):
    return jax.tree.map(jnp.add, a, b)


# Averaging.


@usual(MODEL, BATCH, LABELS, w="S", x="C", y="C")
def average(w, x, y):
    start = fad.broadcast(w)
    return w + fad.mean(descend(lambda v: squared(v, x, y), start) - start)


@usual(MODEL, BATCH, LABELS, w="S", x="C", y="C")
def average_of_adam(w, x, y):
    start, optimizer = fad.broadcast(w), optax.adam(0.1)
    local, state = start, optimizer.init(start)
    for _ in range(3):
        update, state = optimizer.update(jax.grad(squared)(local, x, y), state)
        local = optax.apply_updates(local, update)
    return w + fad.mean(local - start)


@usual(array(), MODEL, BATCH, LABELS, mu="S", w="S", x="C", y="C")
def proximal(mu, w, x, y):
    start, pull = fad.broadcast((w, mu))
    loss = lambda v: squared(v, x, y) + pull / 2 * jnp.sum((v - start) ** 2)
    return w + fad.mean(descend(loss, start) - start)


@usual(MODEL, MODEL, MODEL, BATCH, LABELS, w="S", c="S", own="C", x="C", y="C")
def control_variates(w, c, own, x, y):
    start, shared = fad.broadcast((w, c))
    local = start
    for _ in range(2):
        local = local - 0.1 * (jax.grad(squared)(local, x, y) - own + shared)
    new = own - shared + (start - local) / 0.2
    return w + fad.mean(local - start), c + fad.mean(new - own), new


@usual(MODEL, jax.eval_shape(optax.adam(0.1).init, MODEL), BATCH, LABELS,
       w="S", state="S", x="C", y="C")  # fmt: skip
def adaptive_server(w, state, x, y):
    start = fad.broadcast(w)
    change = fad.mean(start - descend(lambda v: squared(v, x, y), start))
    update, state = optax.adam(0.1).update(change, state)
    return optax.apply_updates(w, update), state


@usual(MODEL, BATCH, LABELS, array(dtype="int32"), w="S", x="C", y="C", count="C")
def weighted_average(w, x, y, count):
    start = fad.broadcast(w)
    change = descend(lambda v: squared(v, x, y), start) - start
    weight = count.astype(jnp.float32)
    return w + fad.sum(weight * change) / jnp.maximum(fad.sum(weight), 1.0)


# Statistics.


@usual(array(), LABELS, q="S", y="C")
def quantile_step(q, y):
    below = jnp.mean((y <= fad.broadcast(q)).astype(jnp.float32))
    return q - 0.1 * (fad.mean(below) - 0.5)


@usual(array(CLASSES, D), BATCH, centres="S", x="C")
def k_means_one_hot(centres, x):
    known = fad.broadcast(centres)
    nearest = jnp.argmin(jnp.sum((x[:, None] - known) ** 2, -1), -1)
    member = jax.nn.one_hot(nearest, CLASSES)
    sums, counts = fad.sum(member.T @ x), fad.sum(jnp.sum(member, 0))
    return sums / jnp.maximum(counts, 1)[:, None]


@usual(array(CLASSES, D), BATCH, centres="S", x="C")
def k_means_segments(centres, x):
    known = fad.broadcast(centres)
    nearest = jnp.argmin(jnp.sum((x[:, None] - known) ** 2, -1), -1)
    sums = fad.sum(jax.ops.segment_sum(x, nearest, CLASSES))
    counts = fad.sum(jax.ops.segment_sum(jnp.ones(EXAMPLES), nearest, CLASSES))
    return sums / jnp.maximum(counts, 1)[:, None]


@usual(array(D, 2), BATCH, basis="S", x="C")
def principal_components(basis, x):
    for _ in range(3):
        image = fad.sum(x.T @ (x @ fad.broadcast(basis)))
        basis, _ = jnp.linalg.qr(image)
    return basis


@usual(array(CLASSES, D), BATCH, means="S", x="C")
def expectation_maximisation(means, x):
    known = fad.broadcast(means)
    share = jax.nn.softmax(-jnp.sum((x[:, None] - known) ** 2, -1) / 2, -1)
    return fad.sum(share.T @ x) / (fad.sum(jnp.sum(share, 0))[:, None] + 1e-6)


def product(w, v, x, y):
    known, direction = fad.broadcast((w, v))
    gradient = lambda u: jax.grad(squared)(u, x, y)
    return fad.mean(jax.jvp(gradient, (known,), (direction,))[1]) + 0.1 * v


@usual(MODEL, BATCH, LABELS, w="S", x="C", y="C")
def newton_by_hand(w, x, y):
    residual = fad.mean(jax.grad(squared)(fad.broadcast(w), x, y))

    def step(carry, _):
        v, r, p = carry
        image = product(w, p, x, y)
        length = jnp.vdot(r, r) / jnp.maximum(jnp.vdot(p, image), 1e-12)
        new = r - length * image
        ahead = new + jnp.vdot(new, new) / jnp.maximum(jnp.vdot(r, r), 1e-12) * p
        return (v + length * p, new, ahead), None

    (v, _, _), _ = jax.lax.scan(step, (jnp.zeros(D), residual, residual), length=3)
    return w - v


@usual(MODEL, BATCH, LABELS, w="S", x="C", y="C")
def newton_by_library(w, x, y):
    gradient = fad.mean(jax.grad(squared)(fad.broadcast(w), x, y))
    step, _ = jax.scipy.sparse.linalg.cg(lambda v: product(w, v, x, y), gradient, maxiter=3)
    return w - step


@usual(array(D, CLASSES), BATCH, CLASS, w="S", x="C", y="C")
def evaluation(w, x, y):
    right = jnp.sum(jnp.argmax(x @ fad.broadcast(w), -1) == y)
    return fad.sum(right.astype(jnp.float32)) / fad.sum(float(EXAMPLES) * jnp.ones(()))


@usual(CLASS, y="C")
def histogram_of_labels(y):
    return fad.sum(jnp.sum(jax.nn.one_hot(y, CLASSES), 0))


@usual(LABELS, y="C")
def histogram_of_numbers(y):
    return fad.sum(jnp.histogram(y, bins=5, range=(0.0, 1.0))[0].astype(jnp.float32))


@usual(array(EXAMPLES, dtype="uint32"), words="C")
def count_min_sketch(words):
    factors = jnp.array([2654435761, 40503, 2246822519], jnp.uint32)
    cells = (words[:, None] * factors >> 28).astype(jnp.int32)
    table = jnp.zeros((3, 16)).at[jnp.arange(3), cells].add(1.0)
    return fad.sum(table)


# Models.


@usual({"a": array(D, 2), "b": array(2, D)}, array(D, D), BATCH, BATCH,
       lora="S", frozen="S", x="C", y="C")  # fmt: skip
def low_rank_adapters(lora, frozen, x, y):
    small, full = fad.broadcast((lora, frozen))
    loss = lambda p: jnp.mean((x @ (full + p["a"] @ p["b"]) - y) ** 2)
    return shifted(lora, fad.mean(difference(descend(loss, small), small)))


def attention(p, x):
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    mixed = jax.nn.softmax(q @ k.T / jnp.sqrt(D)) @ v
    hidden = (x + mixed - jnp.mean(x + mixed, -1, keepdims=True)) / (
        jnp.std(x, -1, keepdims=True) + 1
    )
    return hidden + jax.nn.gelu(hidden @ p["up"]) @ p["down"]


LAYER = {"q": array(D, D), "k": array(D, D), "v": array(D, D),
         "up": array(D, 8), "down": array(8, D)}  # fmt: skip


@usual({"table": array(10, D), "layer": LAYER}, array(EXAMPLES, dtype="int32"), p="S", tokens="C")
def transformer(p, tokens):
    start = fad.broadcast(p)

    def loss(p):
        logits = attention(p["layer"], p["table"][tokens]) @ p["table"].T
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits[:-1], tokens[1:]))

    return shifted(p, fad.mean(difference(descend(loss, start, 2), start)))


@usual({"filter": array(3, 3, 1, 2), "dense": array(2, CLASSES)}, array(EXAMPLES, 8, 8, 1), CLASS,
       p="S", x="C", y="C")  # fmt: skip
def convolutions(p, x, y):
    start = fad.broadcast(p)

    def loss(p):
        seen = jax.lax.conv_general_dilated(
            x, p["filter"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        pooled = jax.lax.reduce_window(
            jax.nn.relu(seen), -jnp.inf, jax.lax.max, (1, 8, 8, 1), (1, 8, 8, 1), "VALID"
        )
        logits = pooled[:, 0, 0] @ p["dense"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    return shifted(p, fad.mean(difference(descend(loss, start, 2), start)))


@usual({"in": array(D, D), "again": array(D, D)}, BATCH, p="S", x="C")
def recurrent(p, x):
    start = fad.broadcast(p)

    def loss(p):
        step = lambda h, row: (jnp.tanh(row @ p["in"] + h @ p["again"]), h)
        _, seen = jax.lax.scan(step, jnp.zeros(D), x)
        return jnp.mean((seen - x) ** 2)

    return shifted(p, fad.mean(difference(descend(loss, start, 2), start)))


@usual(MODEL, MODEL, MODEL, BATCH, LABELS, w="S", mean="S", var="S", x="C", y="C")
def batch_statistics(w, mean, var, x, y):
    start, centre, spread = fad.broadcast((w, mean, var))
    normal = (x - centre) / jnp.sqrt(spread + 1e-5)
    change = descend(lambda v: squared(v, normal, y), start) - start
    moments = fad.mean((jnp.mean(x, 0), jnp.mean(x**2, 0)))
    return w + fad.mean(change), moments[0], moments[1] - moments[0] ** 2


@usual(array(D, D), MODEL, BATCH, LABELS, body="S", head="C", x="C", y="C")
def personal_head(body, head, x, y):
    shared = fad.broadcast(body)
    loss = lambda p: squared(p[1], jnp.tanh(x @ p[0]), y)
    new_body, new_head = descend(loss, (shared, head))
    return body + fad.mean(new_body - shared), new_head


# Randomness at the clients.


@usual(MODEL, BATCH, LABELS, KEY, w="S", x="C", y="C", key="C")
def dropout_and_shuffling(w, x, y, key):
    start = fad.broadcast(w)
    one, two = jax.random.split(key)
    order = jax.random.permutation(one, EXAMPLES)
    keep = jax.random.bernoulli(two, 0.8, (EXAMPLES, D))
    change = descend(lambda v: squared(v, x[order] * keep / 0.8, y[order]), start) - start
    return w + fad.mean(change)


@usual(MODEL, BATCH, LABELS, KEY, w="S", x="C", y="C", key="C")
def augmentation(w, x, y, key):
    start = fad.broadcast(w)
    rough = x + 0.1 * jax.random.normal(key, x.shape)
    return w + fad.mean(descend(lambda v: squared(v, rough, y), start) - start)


@usual({"mean": array(D, 2), "deviation": array(D, 2), "out": array(2, D)}, BATCH, KEY,
       p="S", x="C", key="C")  # fmt: skip
def variational_autoencoder(p, x, key):
    start = fad.broadcast(p)

    def loss(p):
        mean, log_dev = x @ p["mean"], x @ p["deviation"]
        code = mean + jnp.exp(log_dev) * jax.random.normal(key, mean.shape)
        prior = jnp.mean(mean**2 + jnp.exp(2 * log_dev) - 2 * log_dev)
        return jnp.mean((code @ p["out"] - x) ** 2) + prior / 2

    return shifted(p, fad.mean(difference(descend(loss, start), start)))


@usual(array(D, D), BATCH, KEY, w="S", x="C", key="C")
def diffusion(w, x, key):
    start = fad.broadcast(w)
    time, noise = jax.random.split(key)
    level = jax.random.uniform(time, (EXAMPLES, 1))
    added = jax.random.normal(noise, x.shape)
    seen = jnp.sqrt(1 - level) * x + jnp.sqrt(level) * added
    return w + fad.mean(descend(lambda v: jnp.mean((seen @ v - added) ** 2), start) - start)


@usual(CLASS, KEY, y="C", key="C")
def randomised_response(y, key):
    truth, lie = jax.random.split(key)
    honest = jax.random.bernoulli(truth, 0.7, (EXAMPLES,))
    said = jnp.where(honest, y % 2, jax.random.bernoulli(lie, 0.5, (EXAMPLES,)))
    return (fad.mean(jnp.mean(said.astype(jnp.float32))) - 0.15) / 0.7


# Loops, compression, short floats.


@usual(LABELS, y="C")
def median_by_bisection(y):
    def halve(carry, _):
        low, high = carry
        middle = (low + high) / 2
        below = fad.mean(jnp.mean((y < fad.broadcast(middle)).astype(jnp.float32)))
        return (jnp.where(below < 0.5, middle, low), jnp.where(below < 0.5, high, middle)), None

    (low, high), _ = jax.lax.scan(halve, (jnp.float32(-8), jnp.float32(8)), length=5)
    return (low + high) / 2


@usual(MODEL, MODEL, BATCH, LABELS, w="S", error="C", x="C", y="C")
def top_k_with_feedback(w, error, x, y):
    start = fad.broadcast(w)
    change = descend(lambda v: squared(v, x, y), start) - start + error
    _, places = jax.lax.top_k(abs(change), 2)
    sent = jnp.zeros(D).at[places].set(change[places])
    return w + fad.mean(sent), change - sent


@usual(array(D, dtype="bfloat16"), array(EXAMPLES, D, dtype="bfloat16"),
       array(EXAMPLES, dtype="bfloat16"), w="S", x="C", y="C")  # fmt: skip
def short_floats(w, x, y):
    start = fad.broadcast(w)
    return w + fad.mean(descend(lambda v: squared(v, x, y), start) - start)


@usual(MODEL, BATCH, LABELS, w="S", x="C", y="C")
def line_search(w, x, y):
    known = fad.broadcast(w)
    slope = fad.mean(jax.grad(squared)(known, x, y))
    rates = jnp.array([1.0, 0.3, 0.1, 0.03])
    tried = fad.broadcast(w - rates[:, None] * slope)
    losses = fad.mean(jax.vmap(lambda v: squared(v, x, y))(tried))
    return w - rates[jnp.argmin(losses)] * slope


@usual(MODEL, BATCH, LABELS, w="S", x="C", y="C")
def local_convergence(w, x, y):
    start = fad.broadcast(w)
    slope = lambda v: jax.grad(squared)(v, x, y)
    going = lambda c: (jnp.sum(slope(c[0]) ** 2) > 1e-6) & (c[1] < 20)
    local, _ = jax.lax.while_loop(going, lambda c: (c[0] - 0.1 * slope(c[0]), c[1] + 1), (start, 0))
    return w + fad.mean(local - start)


@usual(MODEL, BATCH, w="S", x="C")
def early_exit(w, x):
    start = fad.broadcast(w)
    refine = lambda row: jax.lax.while_loop(
        lambda v: jnp.sum(v**2) > 1.0, lambda v: 0.5 * v, row * start
    )
    return w + 0.1 * fad.mean(jnp.mean(jax.vmap(refine)(x), 0))
