"""Wrong arguments are typed errors that name the argument, before anything runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.engines.local import Aggregate
from secfad.errors import ArgumentError, CohortError, ModeError, PlacementError, TracingError

S, C = fad.SERVER, fad.CLIENTS


@fad.computation(model=S, batch=C)
def fun(model, batch):
    return fad.mean(fad.broadcast(model)["w"] * batch["x"] * batch["n"], name="m")


MODEL = {"w": jnp.ones(3)}
BATCH = {"x": jnp.ones((4, 3)), "n": jnp.ones(4)}
PROGRAM = fad.trace(fun, MODEL, {"x": jnp.ones(3), "n": jnp.ones(())})


def refused(error, words, *args):
    with pytest.raises(error, match=words):
        fad.execute(PROGRAM, *args)


def test_shape_names_the_leaf_and_both_shapes():
    refused(
        ArgumentError,
        r"\(3,\) at each client in `batch\['x'\]`, got \(2,\)",
        MODEL,
        BATCH | {"x": jnp.ones((4, 2))},
    )
    refused(ArgumentError, r"at the server in `model\['w'\]`", {"w": jnp.ones(2)}, BATCH)


def test_dtype_names_both_and_the_conversion():
    refused(
        ArgumentError,
        r"float32 in `batch\['n'\]`, got int32.*astype",
        MODEL,
        BATCH | {"n": jnp.ones(4, int)},
    )


def test_structure_is_checked():
    refused(ArgumentError, "structure", MODEL, {"x": BATCH["x"]})


def test_number_of_arguments_is_checked():
    refused(ArgumentError, r"2 arguments \(model, batch\), got 1", MODEL)


def test_disagreement_on_the_cohort_names_the_sizes():
    refused(CohortError, r"`batch` has . and .", MODEL, BATCH | {"n": jnp.ones(5)})


def test_empty_cohort_is_refused():
    refused(CohortError, "empty cohort", MODEL, {"x": jnp.ones((0, 3)), "n": jnp.ones(0)})


def test_scalar_client_argument_is_refused():
    refused(CohortError, "leading axis of clients", MODEL, BATCH | {"n": jnp.ones(())})


def test_simulation_refuses_the_same_cohorts():
    run = fad.simulate(fun)
    with pytest.raises(CohortError, match=r"`batch` has . and ."):
        run(MODEL, BATCH | {"n": jnp.ones(5)})
    with pytest.raises(CohortError, match="empty cohort"):
        run(MODEL, {"x": jnp.ones((0, 3)), "n": jnp.ones(0)})
    with pytest.raises(CohortError, match="leading axis of clients"):
        run(MODEL, BATCH | {"n": jnp.ones(())})


def test_computation_without_client_arguments_has_no_cohort():
    made = fad.computation(model=S)(lambda model: fad.sum(1.0) * model)
    with pytest.raises(CohortError, match="placed at the clients"):
        fad.simulate(made)(1.0)
    with pytest.raises(CohortError, match="number of clients"):
        fad.execute(fad.trace(made, 1.0), 1.0)


def test_declared_names_must_be_those_of_the_function():
    with pytest.raises(ArgumentError, match=r"parameters \(a, b\), got placements for \(a\)"):
        fad.computation(a=S)(lambda a, b: a)


def test_placement_must_be_a_placement():
    with pytest.raises(ArgumentError, match="SERVER or CLIENTS for `a`"):
        fad.computation(a="server")


def test_star_arguments_are_refused():
    with pytest.raises(ArgumentError, match="plain parameters"):
        fad.computation(args=S)(lambda *args: args)


def test_computation_takes_arguments_by_position_or_name_but_not_twice():
    made = fad.computation(a=S, b=S)(lambda a, b: a - b)
    assert made(3, b=1) == made(b=1, a=3) == 2
    with pytest.raises(ArgumentError, match="Pass each argument once"):
        made(3, a=1)


def test_trace_wants_a_computation_and_arrays():
    with pytest.raises(ArgumentError, match="Decorate the function"):
        fad.trace(lambda x: x, 1.0)
    with pytest.raises(ArgumentError, match=r"Expected arrays in argument `model`"):
        fad.trace(fun, {"w": object()}, {"x": jnp.ones(3), "n": 1.0})
    with pytest.raises(ArgumentError, match=r"missing: .batch"):
        fad.trace(fun, MODEL)


def test_python_branch_on_a_traced_value_is_a_tracing_error():
    made = fad.computation(x=C)(lambda x: fad.sum(x if x > 0 else -x))
    with pytest.raises(TracingError, match=r"jax\.lax\.cond"):
        fad.trace(made, 1.0)


@pytest.mark.parametrize(
    ("weights", "words"),
    [(jnp.ones(3), r"got shape \(3,\)"), ({"a": 1.0}, "got a dict")],
)
def test_weights_of_a_mean_are_one_number_per_client(weights, words):
    made = fad.computation(x=C)(lambda x: fad.mean(x, weights=weights))
    with pytest.raises(TypeError, match=words):
        fad.trace(made, jnp.ones(3))


@pytest.mark.parametrize("value", [jnp.array(True), jax.random.key(0)], ids=["bool", "key"])
def test_flags_and_keys_cannot_be_added(value):
    made = fad.computation(x=C)(lambda x: fad.sum(x, name="flag"))
    with pytest.raises(TypeError, match="'flag' expected numbers"):
        fad.trace(made, value)


def test_communication_outside_a_computation_says_what_to_do():
    with pytest.raises(PlacementError, match=r"secfad\.simulate"):
        fad.sum(1.0)


def test_unknown_mode_and_argument_positions_are_refused():
    with pytest.raises(ArgumentError, match=r"'forward', 'reverse', .*'auto' for grad"):
        fad.grad(fun, mode="backward")
    with pytest.raises(ArgumentError, match="within the 2 arguments"):
        fad.grad(fun, argnums=2)


@pytest.mark.parametrize("mode", ["forward", "mixed"])
def test_client_argument_is_differentiated_by_reverse_mode_only(mode):
    with pytest.raises(ModeError, match=r"`batch`.*mode='reverse'"):
        fad.grad(fun, argnums=1, mode=mode)


def test_gradient_of_a_vector_is_refused_in_every_mode():
    for mode in ("forward", "reverse", "mixed"):
        with pytest.raises((ArgumentError, TypeError), match="scalar"):
            fad.trace(fad.grad(fun, mode=mode), MODEL, {"x": jnp.ones(3), "n": jnp.ones(())})


@pytest.mark.parametrize("leaf", ["text", np.array([object()]), np.array(["a"]), jnp.float32])
def test_what_is_no_array_of_numbers_is_named(leaf):
    for run in (
        lambda: fad.simulate(fun)({"w": leaf}, BATCH),
        lambda: fad.execute(PROGRAM, {"w": leaf}, BATCH),
        lambda: fad.trace(fun, {"w": leaf}, BATCH),
    ):
        with pytest.raises(ArgumentError, match=r"Expected arrays in argument `model.*, got a"):
            run()


def test_a_computation_is_not_yet_a_program():
    with pytest.raises(ArgumentError, match=r"Expected a Program, got Computation.*secfad.trace"):
        fad.execute(fun, MODEL, BATCH)


def test_an_argument_may_be_called_self():
    named = fad.computation(self=S, args=C)(lambda self, args: fad.sum(args) * self)
    assert fad.simulate(named)(self=2.0, args=jnp.ones(4)) == 8.0


@pytest.mark.parametrize("change", [lambda values: values, lambda values: values[:0]])
def test_an_aggregate_has_the_shapes_of_sums(change):
    aggregate = lambda upload: Aggregate(change(upload.values), upload.clients)
    with pytest.raises(ArgumentError, match=r"aggregate of round 0 \(m\).* \[\(3,\)\], got"):
        fad.execute(PROGRAM, MODEL, BATCH, aggregate=aggregate)
