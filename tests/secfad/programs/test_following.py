"""No message is sent that the program does not show: what hides one is refused when it is traced."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_derivatives import linear_call
from jax.interpreters import batching, mlir

import secfad as fad
from secfad import _jax
from secfad.errors import PlacementError, TracingError
from secfad.jaxprs.nesting import Nested

S, C = fad.SERVER, fad.CLIENTS
W, X = np.ones(3, np.float32), np.arange(12, dtype=np.float32).reshape(4, 3)


def mixing(v):
    return fad.broadcast(fad.mean(v))


def mean_of(w, x):
    return fad.mean(fad.broadcast(w) * x)


def linear(fun):
    return lambda v: linear_call(lambda _, v: fun(v), lambda _, c: fun(c), (), v)


@dataclasses.dataclass(frozen=True)
class Holder:
    held: object


class Slotted:
    __slots__ = ("held",)

    def __init__(self, held):
        self.held = held

    def __hash__(self):
        return 1


class Pairs(tuple):
    """A tuple with something beside its items."""


def beside(program):
    made = Pairs((1, 2))
    made.held = program
    return made


WRAPPED = {
    "a program": lambda p: p,
    "an open program": lambda p: p.jaxpr,
    "a tuple": lambda p: (1, (p, "text")),
    "a dataclass": Holder,
    "slots": lambda p: Slotted((p,)),
    "a tuple with attributes": beside,
    "a partial function": lambda p: functools.partial(max, p),
    "a closure": lambda p: lambda: p,
    "a default": lambda p: lambda held=p: held,
    "a method": lambda p: Holder(p).__eq__,
}

holder_p = _jax.Primitive("holder")
holder_p.multiple_results = True
holder_p.def_abstract_eval(lambda *avals, like, held: [avals[like]])
opaque_p = _jax.Primitive("opaque")
opaque_p.multiple_results = True
opaque_p.def_abstract_eval(lambda *avals, like, held: [avals[like]])
mlir.register_lowering(
    opaque_p, mlir.lower_fun(lambda *xs, like, held: [held(*xs)], multiple_results=True)
)
batching.primitive_batchers[opaque_p] = lambda xs, dims, **params: (
    opaque_p.bind(*xs, **params),
    [dims[params["like"]]],
)
unmapped_p = _jax.Primitive("unmapped")
unmapped_p.multiple_results = True
unmapped_p.def_abstract_eval(lambda *avals, like, held: [avals[like]])
deferred_p = _jax.Primitive("deferred")
deferred_p.multiple_results = True
deferred_p.def_abstract_eval(lambda *avals, like, held: [avals[like]])


def _rows(data, xs, dims, like, held):
    del data, like
    if all(d is None for d in dims):
        return [held(*xs)], [None]
    return [jax.vmap(held, dims)(*xs)], [0]


batching.fancy_primitive_batchers[deferred_p] = _rows
mlir.register_lowering(
    deferred_p, mlir.lower_fun(lambda *xs, like, held: [held(*xs)], multiple_results=True)
)


def _mapped(data, xs, dims, like, held):
    mapped = jax.vmap(held, dims, axis_name=data.name)
    return [mapped(*xs)], [0]


mapped_p = _jax.Primitive("mapped")
mapped_p.multiple_results = True
mapped_p.def_abstract_eval(lambda *avals, like, held: [avals[like]])
batching.fancy_primitive_batchers[mapped_p] = _mapped
mlir.register_lowering(
    mapped_p, mlir.lower_fun(lambda *xs, like, held: [held(*xs)], multiple_results=True)
)


def held_in(primitive, wrapped=lambda held: held, traced=False):
    """A function by a primitive that holds it, or its program, in a parameter."""

    def wrap(fun):
        def bound(*args, like=0):
            held = jax.make_jaxpr(fun)(*args) if traced else fun
            return primitive.bind(*args, like=like, held=wrapped(held))[0]

        return bound

    return wrap


HIDING = {
    "linear_call": linear,
    "linear_call in a jit": lambda fun: jax.jit(linear(fun)),
    "linear_call in a scan": lambda fun: (
        lambda v: jax.lax.scan(lambda v, _: (linear(fun)(v), None), v, None, length=2)[0]
    ),
    "opaque": held_in(opaque_p),
    "opaque in an object": held_in(opaque_p, lambda held: Callable(held)),
    "deferred": held_in(deferred_p),
    "mapped": held_in(mapped_p),
    **{
        f"holder of {name}": held_in(holder_p, wrapped, traced=True)
        for name, wrapped in WRAPPED.items()
    },
}


class Callable:
    """Callable, but no function."""

    def __init__(self, fun):
        self.fun = fun

    def __call__(self, *args):
        return self.fun(*args)


@pytest.mark.parametrize("name", HIDING)
def test_communication_of_client_values_that_a_primitive_hides_is_refused(name):
    hiding = HIDING[name](mixing)

    @fad.computation(w=S, x=C)
    def program(w, x):
        return fad.mean(jnp.sum(hiding(x * fad.broadcast(w)) ** 2), name="last")

    primitive = name.split()[0]
    words = rf"test_following\.py:.*communication inside `{primitive}` cannot be followed"
    for use in (
        lambda: fad.trace(program, W, X[0]),
        lambda: fad.simulate(program)(W, X),
        lambda: fad.plan(program, W, X[0]),
    ):
        with pytest.raises(PlacementError, match=words) as caught:
            use()
        assert caught.value.kind == "hidden-communication"


@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_hidden_communication_is_refused_in_derivatives(mode):
    @fad.computation(w=S, x=C)
    def program(w, x):
        return fad.mean(jnp.sum(linear(mixing)(x * fad.broadcast(w)) ** 2))

    with pytest.raises(PlacementError, match="communication inside `linear_call`"):
        fad.trace(fad.grad(program, mode=mode), W, X[0])


MIXED = ["opaque", "holder of a closure"]


@pytest.mark.parametrize("name", MIXED)
def test_hidden_communication_between_values_of_both_places_blames_no_broadcast(name):
    hiding = HIDING[name](mean_of)
    program = fad.computation(w=S, x=C)(lambda w, x: jnp.sum(hiding(w, x)))
    if name == "opaque":
        # What cannot be looked into is taken for local work, which is at one place.
        words = "`opaque` expected values of one place"
    else:
        words = f"communication inside `{name.split()[0]}`"
    with pytest.raises(PlacementError, match=words):
        fad.trace(program, W, X[0])


@pytest.mark.parametrize("name", ["linear_call", "opaque", "deferred"])
def test_the_same_operations_do_local_work(name):
    local = HIDING[name](lambda v: 2 * v)
    program = fad.computation(w=S, x=C)(
        lambda w, x: fad.mean(local(x) if name == "deferred" else x * 2) + W * fad.broadcast(1.0)
    )
    np.testing.assert_allclose(fad.simulate(program)(W, X), 2 * X.mean(0) + 1)


def test_local_work_of_an_operation_that_cannot_be_looked_into_runs_by_messages_too():
    local = HIDING["deferred"](lambda v: 2 * v)
    program = fad.computation(w=S, x=C)(lambda w, x: fad.mean(local(x)) + local(w))
    expected = 2 * X.mean(0) + 2 * W
    np.testing.assert_allclose(fad.simulate(program)(W, X), expected)
    np.testing.assert_allclose(fad.execute(fad.trace(program, W, X[0]), W, X), expected)


def test_an_operation_of_which_nobody_can_say_what_it_does_is_refused():
    unmapped = held_in(unmapped_p)(lambda v: 2 * v)
    program = fad.computation(w=S, x=C)(lambda w, x: fad.mean(unmapped(x) * fad.broadcast(w)))
    with pytest.raises(
        TracingError, match=r"test_following\.py:.*`unmapped` holds a function.*vmap"
    ):
        fad.trace(program, W, X[0])


def test_programs_are_found_in_mappings_and_objects_are_not_walked_without_end():
    program = jax.make_jaxpr(lambda x: x)(1.0)
    found = Nested({"a": {"b": [program]}, "c": {(1, Holder(program)): 2}})
    assert (found.programs, found.opaque) == ([program.jaxpr], False)
    endless: list = []
    endless.append(endless)
    assert not Nested({"a": endless}).opaque
    assert Nested({"a": [[i] for i in range(100_000)]}).opaque


def test_shapes_of_what_communicates_may_be_asked_for():
    @fad.computation(w=S, x=C)
    def program(w, x):
        shape = jax.eval_shape(lambda: mean_of(w, x))
        return fad.mean(fad.broadcast(w) * x) + jnp.zeros(shape.shape)

    assert fad.trace(program, W, X[0]).costs.contacts == 1


def test_a_rule_may_send_messages_of_its_own_where_a_simulation_is_differentiated():
    @jax.custom_jvp
    def average(w, x):
        return mean_of(w, x)

    average.defjvp(lambda p, t: (mean_of(*p), fad.mean(fad.broadcast(t[0]) * p[1], name="own")))
    program = fad.computation(w=S, x=C)(lambda w, x: jnp.sum(average(w, x)))
    np.testing.assert_allclose(jax.grad(fad.simulate(program))(W, X), X.mean(0), rtol=1e-6)


def test_a_rule_that_alone_sends_messages_is_followed_in_derivatives_of_the_computation_only():
    @jax.custom_vjp
    def rated(v):
        return v

    rated.defvjp(lambda v: (v, None), lambda _, g: (fad.mean(fad.broadcast(2.0 * g)),))
    f = fad.computation(w=fad.SERVER, x=fad.CLIENTS)(
        lambda w, x: jnp.sum(fad.mean(x * fad.broadcast(rated(w))))
    )
    w, x = jnp.ones(3), jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(fad.simulate(fad.grad(f))(w, x), 2.0 * x.mean(0))
    with pytest.raises(PlacementError, match="and not its simulation"):
        jax.grad(fad.simulate(f))(w, x)


@pytest.mark.parametrize(
    "run", [fad.simulate, lambda c: lambda *a: fad.execute(fad.trace(c, W, X[0]), *a)]
)
def test_a_callback_sends_no_message(run):
    def called(v):
        return jax.pure_callback(
            lambda v: np.asarray(fad.sum(v)),
            jax.ShapeDtypeStruct(v.shape, v.dtype),
            v,
            vmap_method="sequential",
        )

    program = fad.computation(w=S, x=C)(lambda w, x: fad.mean(called(fad.broadcast(w) * x)))
    with pytest.raises(Exception, match="outside of a federated computation"):
        jax.block_until_ready(run(program)(W, X))


@pytest.mark.parametrize("operands", ["client", "both"])
def test_a_solver_of_lineax_that_communicates_is_refused_and_another_named(operands):
    lx = pytest.importorskip("lineax")
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    solver = lx.CG(rtol=1e-6, atol=1e-6, max_steps=3)

    @fad.computation(w=S, x=C)
    def program(w, x):
        def own(v):
            return v + 0.1 * mixing(v)

        def all_of_them(v):
            return v + fad.mean(x * jnp.vdot(x, fad.broadcast(v)))

        client = operands == "client"
        operator = lx.FunctionLinearOperator(
            own if client else all_of_them, shape, lx.positive_semidefinite_tag
        )
        right = fad.broadcast(w) * x if client else w
        return lx.linear_solve(operator, right, solver, throw=False).value

    words = "communication inside `linear_solve` .*cg" if operands == "client" else "linear_solve"
    with pytest.raises(PlacementError, match=rf"test_following\.py:.*{words}"):
        fad.simulate(program)(W, X)


def test_a_solver_of_lineax_that_does_not_communicate_works():
    lx = pytest.importorskip("lineax")

    @fad.computation(w=S, x=C)
    def program(w, x):
        operator = lx.MatrixLinearOperator(jnp.outer(x, x) + jnp.eye(3))
        return fad.mean(lx.linear_solve(operator, fad.broadcast(w)).value)

    expected = np.mean([np.linalg.solve(np.outer(x, x) + np.eye(3), W) for x in X], 0)
    np.testing.assert_allclose(fad.simulate(program)(W, X), expected, rtol=1e-4)


def test_a_root_finder_of_optimistix_is_refused_where_its_derivative_would_hide_messages():
    optx = pytest.importorskip("optimistix")

    @fad.computation(w=S, x=C)
    def program(w, x):
        def slope(v, _):
            return fad.mean(x * jnp.vdot(x, fad.broadcast(v)) - x) + w * v

        solver = optx.Newton(rtol=1e-6, atol=1e-6)
        return jnp.sum(optx.root_find(slope, solver, jnp.zeros(3), throw=False).value)

    with pytest.raises(PlacementError):
        fad.trace(fad.grad(program, mode="forward"), W, X[0])
