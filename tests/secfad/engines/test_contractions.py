"""A sum over clients of products is one product where clients are simulated together: same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad import _jax

S, C = fad.SERVER, fad.CLIENTS
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)
X = jnp.asarray(RNG.normal(size=(5, 4, 3)), jnp.float32)


K = jnp.asarray(RNG.normal(size=(3, 3, 1, 2)), jnp.float32)
IMAGES = jnp.asarray(RNG.normal(size=(5, 2, 6, 6, 1)), jnp.float32)
TABLE = jnp.asarray(RNG.normal(size=(7, 2)), jnp.float32)
ROWS = jnp.asarray(RNG.integers(0, 7, size=(5, 4)))
LAYERS = jnp.asarray(RNG.normal(size=(6, 3, 3)), jnp.float32)


def loss(w, x):
    return jnp.mean(jnp.sin(x @ w))


def gradient(fun):
    return lambda w, x: jax.grad(fun)(fad.broadcast(w), x)


def convolution(k, x):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jnp.mean(
        jnp.sin(jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers))
    )


def layers(ws, x):
    return jnp.mean(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, ws)[0])


def heads(ws, x):
    return jnp.mean(jnp.sin(jnp.einsum("ei,hio->eho", x, ws) ** 2))


def grouped(ws, x):
    return jnp.mean(jnp.sin(jnp.einsum("ehi,hio->eho", jnp.stack([x, x**2, -x], 1), ws)))


def examples_last(w, x):
    return jnp.mean(jnp.sin(w.T @ x.T))


def recurrent(w, x):
    return jnp.mean(jax.lax.scan(lambda h, row: (jnp.tanh(h @ w + row), None), jnp.zeros(3), x)[0])


def clipped(w, x):
    return fad.mean(fad.clip(gradient(loss)(w, x), 0.01))


def used_twice(w, x):
    g = gradient(loss)(w, x)
    return fad.mean((g, jnp.sum(g**2)))


def needed_later(w, x):
    g = gradient(loss)(w, x)
    return fad.mean(jnp.tanh(fad.broadcast(fad.mean(g, name="first")) - g), name="second")


def mean_loss(w, x):
    return fad.mean(loss(fad.broadcast(w), x))


def accumulated(w, x):
    own = fad.broadcast(w)
    return fad.sum(
        jax.lax.scan(lambda g, row: (0.9 * g + jax.grad(loss)(own, row), None), own, x)[0]
    )


def rounds(w, x):
    def step(w, _):
        return w - fad.mean(gradient(loss)(w, x)), None

    return jax.lax.scan(step, w, None, length=3)[0]


# Client functions of a server value and client data whose products are contracted over clients.
CONTRACTED = {
    "gradient": (lambda w, x: fad.mean(gradient(loss)(w, x)), W, X),
    "linear_algebra_between": (
        lambda w, x: fad.mean(fad.broadcast(w) / 7 - 0.1 * (gradient(loss)(w, x) + 1)),
        W,
        X,
    ),
    "flattened": (
        lambda w, x: fad.mean(jnp.concatenate([jnp.ravel(gradient(loss)(w, x)), jnp.ones(2)])),
        W,
        X,
    ),
    "inside_jit": (lambda w, x: fad.mean(jax.jit(jax.grad(loss))(fad.broadcast(w), x)), W, X),
    "rounds": (rounds, W, X),
    "hessian_vector_product": (
        lambda w, x: jax.jvp(lambda v: jax.grad(mean_loss)(v, x), (w,), (w,))[1],
        W,
        X,
    ),
    "look_up": (
        lambda t, i: fad.sum(gradient(lambda t, i: jnp.sum(jnp.sin(t[i])))(t, i)),
        TABLE,
        ROWS,
    ),
    "convolution": (lambda k, x: fad.mean(gradient(convolution)(k, x)), K, IMAGES),
    "scanned_layers": (lambda w, x: fad.mean(gradient(layers)(w, x)), LAYERS, X),
    "examples_last": (lambda w, x: fad.mean(gradient(examples_last)(w, x)), W, X),
    "heads": (lambda w, x: fad.mean(gradient(heads)(w, x)), LAYERS[:3], X),
    "grouped": (lambda w, x: fad.mean(gradient(grouped)(w, x)), LAYERS[:3], X),
    "recurrent": (lambda w, x: fad.mean(gradient(recurrent)(w, x)), LAYERS[0], X),
    "accumulated": (accumulated, W, X),
}
KEPT_APART = {
    "clip": (clipped, W, X),
    "another_use": (used_twice, W, X),
    "needed_later": (needed_later, W, X),
}


# Five clients all together, and as a chunk of three and one of two.
TOGETHER = {"whole": ({}, (5,)), "chunks": ({"chunk_size": 3}, (3, 2))}


def forms_a_product_per_client(computation, weight, data, together):
    """True if some value of the simulation is shaped like the weight for each of some clients."""

    def shapes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.shape for v in equation.outvars)
            for value in equation.params.values():
                for body in _jax.sub_jaxprs(value):
                    yield from shapes(getattr(body, "jaxpr", body))

    options, counts = TOGETHER[together]
    sizes = [sorted((count, *(n for n in weight.shape if n > 1))) for count in counts]
    jaxpr = jax.make_jaxpr(fad.simulate(computation, **options))(weight, data).jaxpr
    return any(sorted(n for n in shape if n > 1) in sizes for shape in shapes(jaxpr))


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("name", CONTRACTED)
def test_product_is_contracted_over_clients_and_the_numbers_stay(name):
    fun, weight, data = CONTRACTED[name]
    computation = fad.computation(w=S, x=C)(lambda w, x: fun(w, x))
    # Messages are formed per client, so nothing is contracted there.
    expected = fad.execute(fad.trace(computation, weight, data[0]), weight, data)
    for together, (options, _) in TOGETHER.items():
        assert not forms_a_product_per_client(computation, weight, data, together), together
        got = fad.simulate(computation, **options)(weight, data)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6, err_msg=together)


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("name", KEPT_APART)
def test_what_needs_the_products_of_clients_keeps_them_apart(name, together):
    fun, weight, data = KEPT_APART[name]
    computation = fad.computation(w=S, x=C)(fun)
    assert forms_a_product_per_client(computation, weight, data, together)
    expected = fad.execute(fad.trace(computation, weight, data[0]), weight, data)
    got = fad.simulate(computation, **TOGETHER[together][0])(weight, data)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("both", [True, False])
def test_product_with_a_shared_operand_is_summed_right(both):
    @fad.computation(w=S, x=C)
    def fun(w, x):
        received = fad.broadcast(w)
        return fad.sum(x @ received if both else received.T @ received, name="product")

    expected = (X @ W).sum(0) if both else 5 * W.T @ W
    np.testing.assert_allclose(fad.simulate(fun)(W, X), expected, rtol=1e-5)


@pytest.mark.slow
def test_simulation_with_contractions_is_differentiable_and_mappable():
    run = fad.simulate(fad.computation(w=S, x=C)(CONTRACTED["gradient"][0]))
    expected = jax.jacrev(
        lambda w: jax.vmap(lambda x: jax.grad(lambda v: jnp.mean(jnp.sin(x @ v)))(w))(X).mean(0)
    )(W)
    np.testing.assert_allclose(jax.jacrev(run)(W, X), expected, rtol=1e-4, atol=1e-6)
    two = jnp.stack([W, 2 * W])
    mapped = jax.vmap(run, in_axes=(0, None))(two, X)
    np.testing.assert_allclose(mapped[1], run(2 * W, X), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("second", [False, True])
def test_fused_simulation_scales_no_sums(second):
    # What saves a message costs a product per weight, and a fused program has no messages.
    gradient = fad.grad(fad.computation(w=S, x=C)(mean_loss))
    derived = fad.jvp(gradient) if second else gradient
    arguments = (W, X, W) if second else (W, X)
    jaxpr = jax.make_jaxpr(fad.simulate(derived))(*arguments).jaxpr.eqns[0].params["jaxpr"].jaxpr
    scaled = [e for e in jaxpr.eqns if e.primitive.name == "mul"]
    assert all(e.outvars[0].aval.shape != W.shape for e in scaled)
    assert fad.trace(gradient, W, X[0]).costs.contacts == 1


# What a client makes is in the range of float16, the sum of what it is made of is not.
SMALL, HUGE = jnp.float16(0.001), jnp.float16(1000.0)
NARROW = {
    "product": lambda c, x: fad.sum(x[0] * fad.broadcast(jnp.full(5, c))),
    "quotient": lambda c, x: fad.sum(jnp.broadcast_to(x[0], 5) / fad.broadcast(jnp.full(5, HUGE))),
    "matrix product": lambda c, x: fad.sum(x @ fad.broadcast(jnp.full((3, 2), c))),
    "collected": lambda c, x: fad.sum(
        jax.lax.scan(lambda s, e: (s, e * fad.broadcast(jnp.full(2, c))), 0, x)[1]
    ),
    "gradient": lambda c, x: jax.grad(
        lambda w: jnp.sum(fad.mean(x[0] * fad.broadcast(w))).astype(jnp.float32)
    )(jnp.full(5, c)),
}


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("program", NARROW.values(), ids=NARROW)
def test_a_sum_of_float16_numbers_is_made_after_they_are_brought_into_range(program):
    f = fad.computation(c=S, x=C)(program)
    x = jnp.full((1000, 3), 100.0, jnp.float16)
    expected = fad.execute(fad.trace(f, SMALL, x[0]), SMALL, x)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(fad.simulate(f)(SMALL, x), expected, rtol=2e-2)
