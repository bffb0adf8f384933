"""Rules for vmap and functions of the host see one client at a time, so that they mix no clients unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad

S, C = fad.SERVER, fad.CLIENTS
W, X = jnp.array([0.5, -1.0, 2.0]), jnp.arange(12.0).reshape(4, 3) / 7
MODES = ("forward", "reverse", "factored", "mixed", "blockwise", "auto")


def ruled(rule, fun=jnp.sin):
    made = jax.custom_batching.custom_vmap(fun)
    made.def_vmap(rule)
    return made


# What a rule can do to rows that are other clients'.
MIXING = {
    "adds up": lambda size, batched, v: (jnp.sin(v).sum(0) + 0 * v, True),
    "one for all": lambda size, batched, v: (jnp.sin(v[0]), False),
    "turns round": lambda size, batched, v: (jnp.flip(jnp.sin(v), 0), True),
    "goes on": lambda size, batched, v: (jnp.cumsum(jnp.sin(v), 0), True),
    "by position": lambda size, batched, v: (jnp.arange(size)[:, None] * jnp.sin(v), True),
    "communicates": lambda size, batched, v: (
        jax.vmap(lambda v: fad.broadcast(fad.mean(v)))(v),
        True,
    ),
}


def differentiated(mixing):
    """A function whose derivative rule calls another one."""
    made = jax.custom_jvp(jnp.sin)
    made.defjvp(lambda p, t: (jnp.sin(p[0]), mixing(p[0]) * 0 + jnp.cos(p[0]) * t[0]))
    return made


PLACES = {
    "client code": lambda mixing: mixing,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "scan": lambda mixing: (
        lambda v: jax.lax.scan(lambda v, _: (mixing(v), None), v, None, length=2)[0]
    ),
    "cond": lambda mixing: lambda v: jax.lax.cond(v[0] > 0.3, mixing, jnp.sin, v),
    "rule": differentiated,
}


def computation(fun):
    @fad.computation(w=S, x=C)
    def program(w, x):
        return fad.mean(jnp.sum(fun(fad.broadcast(w) * x) ** 2))

    return program


RUNS = {
    "simulated": lambda c: fad.simulate(c)(W, X),
    "in chunks": lambda c: fad.simulate(c, chunk_size=3)(W, X),
    "executed": lambda c: fad.execute(fad.trace(c, W, X[0]), W, X),
    "differentiated": lambda c: jax.grad(fad.simulate(c))(W, X),
    "tangents": lambda c: jax.jacfwd(fad.simulate(c))(W, X),
}


@pytest.mark.sample(quick=8, slow=60)
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", MIXING)
def test_a_rule_for_vmap_does_not_see_the_axis_of_clients(rule, place, run):
    got = RUNS[run](computation(PLACES[place](ruled(MIXING[rule]))))
    expected = RUNS[run](computation(PLACES[place](jnp.sin)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("mode", MODES)
def test_a_function_with_a_rule_for_vmap_has_every_mode(mode):
    own = computation(ruled(MIXING["turns round"]))
    got = fad.simulate(fad.grad(own, mode=mode))(W, X)
    np.testing.assert_allclose(got, jax.grad(fad.simulate(computation(jnp.sin)))(W, X), rtol=1e-5)


def test_axes_that_clients_map_themselves_keep_their_rules():
    twice = ruled(lambda size, batched, v: (2 * jnp.sin(v), True))
    got = fad.simulate(computation(jax.vmap(twice)))(W, X)
    expected = fad.simulate(computation(lambda v: 2 * jnp.sin(v)))(W, X)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(twice)(X), 2 * jnp.sin(X), rtol=1e-6)


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("mode", ["value", *MODES])
def test_messages_in_a_function_with_a_rule_are_those_of_its_body(mode):
    def mixing(v):
        return jnp.sin(v) * fad.broadcast(fad.mean(v, name="inside"))

    def derived(fun):
        made = computation(fun)
        return made if mode == "value" else fad.grad(made, mode=mode)

    own, plain = (derived(f) for f in (jax.custom_batching.sequential_vmap(mixing), mixing))
    programs = [fad.trace(c, W, X[0]) for c in (own, plain)]
    assert programs[0].costs == programs[1].costs
    assert programs[0].digest == programs[1].digest
    np.testing.assert_allclose(fad.simulate(own)(W, X), fad.simulate(plain)(W, X), rtol=1e-5)


@pytest.mark.parametrize("run", ["simulated", "in chunks", "executed"])
@pytest.mark.parametrize("method", ["expand_dims", "broadcast_all", "sequential", None])
def test_a_function_of_the_host_gets_one_client_at_a_time(method, run):
    seen = []

    def called(v):
        seen.append(v.shape)
        return np.asarray(v) - np.asarray(v).mean(0)

    def local(v):
        return jax.pure_callback(
            called, jax.ShapeDtypeStruct(v.shape, v.dtype), v, vmap_method=method
        )

    got = RUNS[run](computation(local))
    expected = jnp.mean(jnp.sum(jax.vmap(lambda v: v - v.mean())(X * W) ** 2, 1))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert set(seen) == {(3,)}
