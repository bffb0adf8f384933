"""Each primitive by itself: its values, its two derivatives, and where it may be called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
import secfad.primitives
from secfad.errors import ArgumentError, PlacementError, TracingError
from secfad.jaxprs.equations import SCAN

S, C = fad.SERVER, fad.CLIENTS
CLIENTS = 100
ONES = jnp.ones((CLIENTS, 1))


@fad.computation(x=S, own=C)
def sent(x, own):
    return fad.broadcast(x) + 0 * own


@fad.computation(x=C)
def total(x):
    return fad.sum(x)


@fad.computation(x=C)
def average(x):
    return fad.mean(x)


def there_and_back(reduce):
    return fad.computation(x=S, own=C)(lambda x, own: reduce(fad.broadcast(x) + 0 * own))


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize(
    ("computation", "args", "expected"),
    [
        (sent, (jnp.ones(1), ONES), ONES),
        (total, (ONES,), jnp.full(1, 100.0)),
        (average, (ONES,), jnp.ones(1)),
    ],
)
def test_value_of_each_primitive(computation, args, expected, jitted):
    run = fad.simulate(computation)
    np.testing.assert_allclose((jax.jit(run) if jitted else run)(*args), expected, rtol=1e-6)


@pytest.mark.parametrize("computation", [sent, total, average])
def test_reverse_of_each_primitive_is_the_transpose_of_forward(computation):
    run = fad.simulate(computation)
    first = jnp.ones(1) if computation is sent else ONES
    rest = (ONES,) if computation is sent else ()
    forward, reverse = (transform(run)(first, *rest) for transform in (jax.jacfwd, jax.jacrev))
    share = 1 / CLIENTS if computation is average else 1.0
    assert forward.shape == (*run(first, *rest).shape, *first.shape)
    np.testing.assert_allclose(forward, jnp.full(forward.shape, share), rtol=1e-6)
    np.testing.assert_allclose(reverse, forward, rtol=1e-6)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
@pytest.mark.parametrize(("reduce", "expected"), [(fad.sum, CLIENTS), (fad.mean, 1)])
def test_derivative_of_a_value_that_goes_to_the_clients_and_back(reduce, expected, mode):
    derived = fad.jacobian(there_and_back(reduce), argnums=0, mode=mode)
    np.testing.assert_allclose(fad.simulate(derived)(jnp.ones(1), ONES), [[expected]], rtol=1e-6)


@pytest.mark.parametrize("reduce", [fad.sum, fad.mean])
def test_a_result_that_is_ignored_leaves_the_derivative_of_the_other(reduce):
    @jax.jit
    def twice(x):
        return reduce(x), reduce(3 * x)

    computation = fad.computation(x=C)(jax.jit(lambda x: twice(x)[0]))
    expected = 1.0 if reduce is fad.sum else 1 / CLIENTS
    derived = jax.jacrev(fad.simulate(computation))(ONES)
    np.testing.assert_allclose(derived, np.full((1, CLIENTS, 1), expected), rtol=1e-6)


@fad.computation(threshold=S, value=C)
def share_above(threshold, value):
    """Which share of the sensors measures more than the threshold."""
    above = value > fad.broadcast(threshold)
    return fad.mean(
        jax.lax.cond(above, lambda: jnp.ones_like(value), lambda: jnp.zeros_like(value))
    )


def test_a_branch_of_each_client_on_its_own_value_in_cohorts_of_changing_size():
    run = fad.simulate(share_above)
    for clients, threshold, expected in [(100, 24, 0.75), (20, 3, 0.8), (100, 24, 0.75)]:
        np.testing.assert_allclose(run(threshold, jnp.arange(clients)), expected, rtol=1e-6)


def test_python_loops_of_clients_are_traced_through():
    @fad.computation(model=S, sequence=C)
    def trained(model, sequence):
        own = fad.broadcast(model)
        for element in sequence:
            own = own + element
        return fad.mean(own)

    assert fad.simulate(trained)(0.0, jnp.ones((CLIENTS, 10))) == 10


@pytest.mark.parametrize("primitive", [fad.broadcast, fad.sum])
def test_primitives_take_one_tree(primitive):
    words = rf"{primitive.__name__}\(\) takes 1 positional argument but 2 were given"
    wrong = fad.computation(a=S, b=C)(lambda a, b: primitive(a, b))
    with pytest.raises(TracingError, match=words):
        fad.trace(wrong, 0.0, 0.0)


@pytest.mark.parametrize("move", [fad.broadcast, fad.sum, fad.mean])
def test_a_name_is_text(move):
    with pytest.raises(TypeError, match="name of type str, got 3"):
        move(1.0, name=3)


@pytest.mark.parametrize("move", [fad.broadcast, fad.sum, fad.mean])
@pytest.mark.parametrize(
    "wrong", ["abc", object(), np.array(["a"])], ids=["str", "object", "ndarray"]
)
def test_what_is_no_array_is_named_by_its_type(move, wrong):
    made = fad.computation(w=S, x=C)(lambda w, x: move({"number": 1.0, "wrong": wrong}))
    words = f"`{move.__name__}` expected a tree of arrays, got a {type(wrong).__name__}"
    with pytest.raises(ArgumentError, match=words):
        fad.simulate(made)(1.0, np.ones(3))


def test_a_mean_takes_what_jax_makes_an_array_of():
    class Wrapped:
        def __jax_array__(self):
            return jnp.ones(2)

    made = fad.computation(x=C)(lambda x: fad.mean(Wrapped()))
    np.testing.assert_array_equal(fad.simulate(made)(ONES), [1, 1])


def test_errors_of_client_code_reach_the_user_as_they_are():
    @fad.computation(x=C)
    def failing(x):
        raise ValueError("what the client's code says")

    with pytest.raises(ValueError, match="what the client's code says"):
        fad.simulate(failing)(ONES)


@pytest.mark.parametrize("primitive", [fad.broadcast, fad.sum])
def test_outside_of_a_computation_primitives_have_no_value_before_or_after(primitive):
    for _ in range(2):
        with pytest.raises(PlacementError, match="outside of a federated computation"):
            primitive(1.0)
        fad.simulate(total)(ONES)


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_a_mesh_in_the_context_changes_no_number(kind):
    derived = fad.value_and_grad(
        fad.computation(x=S, own=C)(
            lambda x, own: jnp.sum(fad.mean(jnp.sin(fad.broadcast(x) * own)))
        )
    )
    expected = fad.simulate(derived)(jnp.ones(1), ONES)
    with jax.set_mesh(jax.make_mesh((1,), ("clients",), axis_types=(kind,))):
        got = fad.simulate(derived)(jnp.ones(1), ONES)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


def test_a_jax_that_moves_messages_out_of_loops_is_refused(monkeypatch):
    require = secfad.primitives.require_messages_stay_in_loops
    # Without this, JAX forms loops as if there were no messages.
    monkeypatch.delattr(SCAN, "bind")
    require.cache_clear()
    try:
        with pytest.raises(TracingError, match=r"moved out of one by JAX .* Install a version"):
            fad.trace(total, ONES[0])
    finally:
        monkeypatch.undo()
        require.cache_clear()
    fad.trace(total, ONES[0])
