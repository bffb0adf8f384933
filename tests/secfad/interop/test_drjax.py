"""An unmodified DrJAX program, translated, has DrJAX's values and derivatives and all our modes."""

import sys
import threading
from pathlib import Path

import drjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drjax_programs import CASES, CLIENTS, DATA, MODEL, local_loss, local_steps, program

import audits
import privacy
import secfad as fad
from secfad.errors import ArgumentError, PlacementError, TranslationError
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
    "equal_weights_made_at_the_server": "auto",
    "rounds_in_a_scan": "forward",
    "clients_with_state": "reverse",
    "batches_in_a_scan": "forward",
    "while_of_the_server": "forward",
    "branches_and_loops_of_clients": "reverse",
    "conjugate_gradients": "reverse",
    "sweep_over_rates": "mixed",
}


def every_mode():
    """Some programs in one of their modes; the others with the longer evidence."""
    for name, case in CASES.items():
        for mode in case.modes:
            marks = () if QUICK.get(name) == mode else pytest.mark.slow
            yield pytest.param(name, mode, marks=marks)


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
    data = jnp.arange(5.0)
    fad.simulate(from_drjax(own, x=fad.SERVER, d=fad.CLIENTS))(1.0, data)
    assert own(1.0, data) == 15
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


REFUSED = {
    "maximum": (lambda m, d: jnp.max(d), "reduces the axis of clients"),
    "mean by hand": (lambda m, d: jnp.mean(d, axis=0), "reduces the axis of clients"),
    "median": (lambda m, d: jnp.median(d, axis=0), "reduces the axis of clients"),
    "order": (lambda m, d: jnp.sort(d, axis=0), "may mix the values of clients"),
    "one client": (lambda m, d: d[0], "picks some of the clients"),
    "roll": (lambda m, d: drjax.reduce_sum(jnp.roll(d, 1, axis=0)), "picks some of the clients"),
    "merge": (lambda m, d: d.reshape(-1), "merges the axis of clients"),
    "positions": (
        lambda m, d: drjax.reduce_sum(jnp.arange(5.0)[:, None] * d),
        "one value at the clients throughout",
    ),
    "products": (lambda m, d: d @ d.T, "may mix the values of clients"),
    "pairs": (lambda m, d: d[:, None] - d[None], "one value at the clients throughout"),
    "client after client": (
        lambda m, d: jax.lax.scan(lambda c, x: (c + x, None), m, d)[0],
        "goes from client to client",
    ),
    "custom rule": (lambda m, d: drjax.reduce_sum(jax.nn.relu(d)), "Call it in map_fn"),
    "server vector": (
        lambda m, d: drjax.reduce_sum(jnp.concatenate([m, m[:2]])),
        "Wrap a server value in drjax.broadcast",
    ),
    "captured data": (
        lambda m, d: drjax.reduce_sum(jnp.asarray(np.arange(5.0))),
        "make clients' data an argument",
    ),
    "collective": (
        lambda m, d: drjax.reduce_sum(mapped(lambda x: jax.lax.psum(x, "clients"), d)),
        "names the axis 'clients' of clients",
    ),
    "broadcast twice": (
        lambda m, d: drjax.broadcast(drjax.broadcast(m)),
        "expected a server value, got a value at the clients",
    ),
    "sum of a sum": (
        lambda m, d: drjax.reduce_sum(jnp.resize(drjax.reduce_sum(d), (5,))),
        "got another array",
    ),
    "axis behind": (lambda m, d: d.T, "with the clients in front"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_neither_broadcast_nor_sum_is_refused(name):
    fun, words = REFUSED[name]
    ours = from_drjax(program(fun), m=fad.SERVER, d=fad.CLIENTS)
    with pytest.raises(TranslationError, match=words) as caught:
        fad.trace(ours, jnp.zeros(3), jnp.zeros(3))
    if name != "axis behind":
        assert Path(__file__).name in caught.value.line


MISPLACED = {
    "captured server value": (
        lambda m, d: drjax.reduce_sum(mapped(lambda x: m * x, d)),
        "implicit",
    ),
    "without broadcast": (lambda m, d: drjax.reduce_sum(d - m), "implicit"),
    "broadcast by clients": (
        lambda m, d: drjax.reduce_sum(mapped(lambda x: drjax.reduce_mean(drjax.broadcast(x)), d)),
        "addressed",
    ),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_a_forgotten_broadcast_is_an_error_at_the_users_line(name):
    fun, kind = MISPLACED[name]
    ours = from_drjax(program(fun), m=fad.SERVER, d=fad.CLIENTS)
    with pytest.raises(PlacementError) as caught:
        fad.trace(ours, jnp.zeros(3), jnp.zeros(3))
    assert caught.value.kind.startswith(kind)
    assert Path(__file__).name in caught.value.line


def test_two_groups_of_clients_are_refused():
    train, validate = (drjax.program(placements={"clients": n})(drjax_sum) for n in (3, 2))
    ours = from_drjax(lambda a, b: train(a) + validate(b), a=fad.CLIENTS, b=fad.CLIENTS)
    with pytest.raises(TranslationError, match="3 'clients' and 2 'clients'"):
        fad.trace(ours, 0.0, 0.0)


def drjax_sum(d):
    return drjax.reduce_sum(d)


def test_a_function_without_a_drjax_program_is_refused():
    with pytest.raises(ArgumentError, match="which runs none"):
        fad.trace(from_drjax(lambda x: x, x=fad.CLIENTS), 0.0)


def test_placements_must_name_the_parameters():
    with pytest.raises(ArgumentError, match="has the parameters"):
        from_drjax(program(drjax_sum), data=fad.CLIENTS)


def test_without_drjax_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "drjax", None)
    with pytest.raises(ImportError, match="pip install 'drjax"):
        from_drjax(drjax_sum, d=fad.CLIENTS)


@pytest.mark.parametrize(
    ("operator", "takes"),
    [("broadcast", 1), ("map_fn", 2), ("reduce_sum", 1), ("reduce_mean", 1)],
)
def test_operators_with_too_many_arguments_fail_as_in_drjax(operator, takes):
    extra = (drjax_sum,) if operator == "map_fn" else ()
    wrong = program(lambda d: getattr(drjax, operator)(*extra, d, d))
    plural = "s" if takes > 1 else ""
    words = rf"{operator}\(\) takes {takes} positional argument{plural} but {takes + 1} were given"
    for run in (wrong, fad.simulate(from_drjax(wrong, d=fad.CLIENTS))):
        with pytest.raises(TypeError, match=words):
            run(jnp.arange(5.0))


def test_errors_of_client_code_reach_the_user_as_they_are():
    def failing(_):
        raise ValueError("what the client's code says")

    ours = from_drjax(program(lambda d: drjax.map_fn(failing, d)), d=fad.CLIENTS)
    with pytest.raises(ValueError, match="what the client's code says"):
        fad.trace(ours, 0.0)
    with pytest.raises(Exception, match="only defined in the context"):
        drjax.broadcast(1.0)


def test_sensors_in_programs_of_different_sizes():
    def share_above(threshold, values):
        above = lambda t, v: jax.lax.cond(v > t, lambda: jnp.ones_like(v), lambda: 0 * v)
        return drjax.reduce_mean(mapped(above, drjax.broadcast(threshold), values))

    for clients, threshold, expected in [(100, 24, 0.75), (20, 3, 0.8), (100, 24, 0.75)]:
        declared = jax.jit(drjax.program(placements={"sensors": clients})(share_above))
        ours = from_drjax(declared, threshold=fad.SERVER, values=fad.CLIENTS)
        measured = jnp.arange(float(clients))
        assert declared(threshold, measured) == expected
        assert fad.simulate(ours)(threshold, measured) == expected
