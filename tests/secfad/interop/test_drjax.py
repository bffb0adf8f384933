"""An unmodified DrJAX program, translated, has DrJAX's values and derivatives and all our modes."""

import threading

import drjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drjax_programs import CASES, CLIENTS, DATA, MODEL, local_loss, local_steps, program

import audits
import privacy
import secfad as fad
from secfad.errors import TranslationError
from secfad.interop.drjax import from_drjax

pytestmark = pytest.mark.usefixtures("double_precision")
PLACES = {"server": fad.SERVER, "clients": fad.CLIENTS}
SERVER_AND_DATA = {"model": fad.SERVER, "data": fad.CLIENTS}


def translated(case):
    return from_drjax(case.fun, **{k: PLACES[v] for k, v in case.placements.items()})


def arguments(case):
    return jax.tree.map(jnp.asarray, case.args)


def one_client(case):
    specs = [
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), a) for a in arguments(case)
    ]
    rows = lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype)
    places = case.placements.values()
    return [jax.tree.map(rows, s) if p == "clients" else s for s, p in zip(specs, places)]


def close(got, expected, tolerance=1e-10):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


QUICK = {
    "fedsgd": "mixed",
    "deltas_outside_of_map_fn": "forward",
    "weighted_mean": "reverse",
    "equal_weights_made_at_the_server": "forward",
    "clients_with_state": "forward",
    "branches_and_loops_of_clients": "reverse",
    "conjugate_gradients": "reverse",
}


def every_mode():
    """Some programs in one of their modes; the others with the longer evidence."""
    for name, case in CASES.items():
        for mode in case.modes:
            marks = () if QUICK.get(name) == mode else pytest.mark.slow
            yield pytest.param(name, mode, marks=marks)


@pytest.mark.sample(quick=3, slow=25)
@pytest.mark.parametrize(("name", "mode"), list(every_mode()))
def test_a_translated_program_has_the_value_and_the_derivative_of_drjax(name, mode):
    case = CASES[name]
    got = fad.simulate(fad.value_and_grad(translated(case), mode=mode))(*arguments(case))
    if case.modes == ("forward",):
        expected = case.fun(*arguments(case)), jax.jacfwd(case.fun)(*arguments(case))
    else:
        expected = jax.jit(jax.value_and_grad(case.fun))(*arguments(case))
    close(got, expected)


def test_a_cohort_of_another_size_is_the_program_declared_for_that_size():
    def loss(model, data):
        return drjax.reduce_mean(drjax.map_fn(local_loss, (drjax.broadcast(model), data)))

    some = jax.tree.map(lambda a: jnp.asarray(a[:3]), DATA)
    got = fad.simulate(from_drjax(program(loss), **SERVER_AND_DATA))(MODEL, some)
    close(got, drjax.program(placements={"clients": 3})(loss)(MODEL, some))


def test_results_at_the_clients_stay_at_the_clients():
    def trained(model, data):
        models = drjax.map_fn(local_steps, (drjax.broadcast(model), data))
        return models, drjax.reduce_mean(models)

    case = CASES["fedsgd"]
    ours = from_drjax(program(trained), **SERVER_AND_DATA)
    close(fad.simulate(ours)(*arguments(case)), program(trained)(*arguments(case)))
    places = set(fad.trace(ours, *one_client(case)).out_placements)
    assert places == {fad.SERVER, fad.CLIENTS}


@pytest.mark.parametrize(("name", "sums"), [("deltas_outside_of_map_fn", 1), ("weighted_mean", 1)])
def test_a_whole_tree_and_its_weights_travel_in_one_message(name, sums):
    case = CASES[name]
    traced = fad.trace(translated(case), *one_client(case))
    primitives = [e.primitive.name for e in traced.jaxpr.jaxpr.eqns]
    assert primitives.count("federated_sum") == sums
    assert "client_axis" not in str(traced.jaxpr)


def two_rounds(rate, data):
    def one_round(rate):
        return drjax.reduce_mean(mapped(lambda r, d: jnp.sin(r * d), drjax.broadcast(rate), data))

    return one_round(one_round(rate))


def mapped(fun, *args):
    return drjax.map_fn(fun, args)


def test_second_derivatives_are_those_of_drjax():
    args, places = (0.3, jnp.linspace(0.0, 1.0, CLIENTS)), {"rate": fad.SERVER, "data": fad.CLIENTS}

    def curvature(gradient):
        return lambda rate, data: jax.jvp(lambda r: gradient(r, data), (rate,), (1.0,))[1]

    theirs = jax.jit(curvature(jax.grad(program(two_rounds))))
    ours = fad.grad(from_drjax(program(two_rounds), **places), mode="reverse")
    composed = fad.computation(**places)(lambda rate, data: curvature(ours)(rate, data))
    close(fad.simulate(composed)(*args), theirs(*args))
    # The other way: what DrJAX makes of its own program is translated.
    close(fad.simulate(from_drjax(theirs, **places))(*args), theirs(*args))


def test_a_translated_program_is_planned_executed_certified_and_privatised():
    args, specs = (
        (jnp.array(0.3), jnp.linspace(0.0, 1.0, CLIENTS)),
        (jnp.array(0.3), jnp.array(0.0)),
    )
    ours = from_drjax(program(two_rounds), rate=fad.SERVER, data=fad.CLIENTS)
    close(fad.execute(fad.trace(ours, *specs), *args), program(two_rounds)(*args))
    modes = {option.mode for option in fad.plan(fad.grad(ours), *specs).options}
    assert {"forward", "reverse", "mixed"} <= modes
    audits.assert_certified(ours, *specs)
    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    private = privacy.privatize(ours, *specs, mechanism=mechanism, purpose="training")
    assert private.program.digest in audits.certify(private).digests.values()
    assert len(private.releases) == 2


def test_a_shared_helper_keeps_no_number_of_clients():
    @jax.jit
    def total(x):
        return drjax.reduce_sum(drjax.broadcast(x))

    def declared(n):
        return drjax.program(placements={"clients": n})(lambda x, own: total(x) + 0 * x)

    def ours(n):
        translated = from_drjax(declared(n), x=fad.SERVER, own=fad.CLIENTS)
        return fad.simulate(translated)(jnp.float64(1), jnp.zeros(n))

    assert [ours(4), ours(8), ours(4)] == [4, 8, 4]


def test_drjax_is_left_as_it_was():
    @jax.jit
    def helper(x):
        return drjax.reduce_sum(drjax.broadcast(x))

    own = program(lambda x, d: helper(x) + drjax.reduce_sum(d))
    ours = fad.simulate(from_drjax(own, x=fad.SERVER, d=fad.CLIENTS))
    for run in (ours, own, ours):
        assert run(jnp.float64(1), jnp.arange(5.0)) == 15
    traced = fad.trace(from_drjax(own, x=fad.SERVER, d=fad.CLIENTS), *jnp.ones(2))
    assert traced.costs.up_bytes == 16
    with pytest.raises(Exception, match="only defined in the context"):
        drjax.broadcast(1.0)


def test_programs_of_other_threads_stay_programs_of_drjax():
    seen = []
    total = program(lambda d: drjax.reduce_sum(d))

    def fun(x, d):
        thread = threading.Thread(target=lambda: seen.append(float(total(jnp.arange(5.0)))))
        thread.start()
        thread.join(60)
        return x + total(d)

    ours = from_drjax(fun, x=fad.SERVER, d=fad.CLIENTS)
    assert fad.simulate(ours)(1.0, jnp.arange(5.0)) == 11
    assert set(seen) == {10.0}


def test_sensors_in_programs_of_different_sizes():
    def share_above(threshold, values):
        above = lambda t, v: jax.lax.cond(v > t, lambda: jnp.ones_like(v), lambda: 0 * v)
        return drjax.reduce_mean(mapped(above, drjax.broadcast(threshold), values))

    for clients, threshold, expected in [(100, 24, 0.75), (20, 3, 0.8)]:
        declared = jax.jit(drjax.program(placements={"sensors": clients})(share_above))
        ours = from_drjax(declared, threshold=fad.SERVER, values=fad.CLIENTS)
        measured = jnp.arange(float(clients))
        assert declared(threshold, measured) == expected
        assert fad.simulate(ours)(threshold, measured) == expected


def test_a_server_value_that_map_fn_gives_clients_unsent_is_refused():
    def diloco(w, x, sent):
        new = w - drjax.reduce_mean(drjax.map_fn(jnp.tanh, x))
        continued = drjax.map_fn(lambda own: new, x)
        return drjax.broadcast(new) if sent else continued

    w, x = jnp.ones(3), jnp.arange(3.0)
    places = {"w": fad.SERVER, "x": fad.CLIENTS}
    unsent = from_drjax(program(lambda w, x: diloco(w, x, False)), **places)
    with pytest.raises(TranslationError, match=r"server value that nothing sent.*drjax.broadcast"):
        fad.trace(unsent, w, x)
    sent = from_drjax(program(lambda w, x: diloco(w, x, True)), **places)
    assert fad.trace(sent, w, x).out_placements == (fad.CLIENTS,)


@pytest.mark.parametrize("clients", [0, 1])
def test_a_compiled_program_that_ran_before_is_translated(clients):
    made = drjax.program(placements={"clients": 1 if clients else 4})

    def total(w, *x):
        return drjax.reduce_sum(drjax.map_fn(lambda v: 2 * v, x[0] if x else drjax.broadcast(w)))

    compiled = jax.jit(made(lambda w, x: total(w, x) if clients else total(w)))
    w, x = jnp.ones(3), jnp.ones((1, 3))
    expected = compiled(w, x)
    ours = from_drjax(compiled, w=fad.SERVER, x=fad.CLIENTS if clients else fad.SERVER)
    program = fad.trace(ours, w, x[0] if clients else x)
    assert program.costs.rounds == 1
    if clients:
        np.testing.assert_allclose(fad.simulate(ours)(w, x), expected)
