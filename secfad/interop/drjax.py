"""`from_drjax`: an unmodified DrJAX program as a federated computation.

A DrJAX program works on arrays with a leading axis of clients. Here it is traced once with that
axis, our primitives standing in for DrJAX's five operators: a value enters `map_fn` by losing the axis
and leaves it by getting one, so that the code in between is seen as one client runs it. `unstacking`
then removes the axis everywhere, or says where it cannot. What is left is a computation like any other:
it can be traced, differentiated in every mode, simulated, executed message by message, privatised and
certified.

Whole trees travel in one message: `reduce_mean` of a model is one sum, and the numerators and
denominators of `reduce_weighted_mean` come from the same clients.

    import drjax, secfad as fad
    from secfad.interop.drjax import from_drjax

    @drjax.program(placements={"clients": 8})
    def loss(model, data):
        sent = drjax.broadcast(model)
        return drjax.reduce_mean(drjax.map_fn(local_loss, (sent, data)))

    gradient = fad.grad(from_drjax(loss, model=fad.SERVER, data=fad.CLIENTS), mode="mixed")

Sources: DrJAX 0.2, `drjax.program` and the function that puts its operators in place; Rush, Charles,
Garrett (JMLR 2024).
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from secfad import _jax
from secfad import primitives as fad
from secfad.computations import Computation, computation
from secfad.errors import ArgumentError, TranslationError
from secfad.interop.stacking import add_axis, refused, remove_axis
from secfad.interop.unstacking import unstack
from secfad.jaxprs.inside import every_equation
from secfad.placements import CLIENTS, SERVER, Placement
from secfad.programs.inference import place
from secfad.programs.normalization import normalise


def from_drjax(fun: Callable, **placements: Placement) -> Computation:
    """Translates a DrJAX program.

    Guarantees:
      Value and derivatives are those of the DrJAX program, up to rounding, for every cohort of the
      declared size. For a cohort of another size, or with dropped clients, sums and means are over
      those who answer; numbers that the program computed in Python from its declared size stay. A
      result that is the same at every client because it depends on no client's data is returned once.

    Args:
      fun: A function decorated with `drjax.program`, or any JAX function that calls one, such as
        `jax.jit(program)` or `jax.grad(program)`. It is not changed.
      **placements: `SERVER` or `CLIENTS` for every parameter. In DrJAX an argument at the clients has
        a leading axis of clients; the computation takes what one client holds.

    Returns:
      The computation, with the names of the parameters. Tracing it raises `TranslationError`, with
      the user's line, for what is neither broadcast, sum, mean nor work of single clients: other
      reductions over clients, an index over them, a client's position used as data.

    Raises:
      ImportError: DrJAX is not installed.
      ArgumentError: The placements do not fit the parameters, or, when traced, `fun` runs no DrJAX
        program.
    """
    _drjax_interface()

    @functools.wraps(fun)
    def one_client(*args: Any) -> Any:
        return _translated(fun, made, args)

    made = computation(**placements)(one_client)
    return made


def _drjax_interface() -> Any:
    """The module of DrJAX whose `_replace_api` puts the operators of a program in place."""
    try:
        import drjax
        from drjax._src import api, impls, primitives
    except ImportError as error:
        raise ImportError(
            "Expected DrJAX to be installed, got none. Run `pip install 'drjax>=0.2.1'`; it is only "
            "needed for secfad.interop.drjax."
        ) from error
    for module in (drjax, api, impls, primitives):
        if module.__file__:
            _jax.hide_file_from_tracebacks(module.__file__)
    return api


def _translated(fun: Callable, made: Computation, args: tuple) -> Any:
    leaves, tree = jax.tree.flatten(args)
    at_clients = [
        place is CLIENTS
        for place, arg in zip(made.placements.values(), args)
        for _ in jax.tree.leaves(arg)
    ]
    group = _declared(made.name, lambda *xs: fun(*jax.tree.unflatten(tree, xs)), leaves, at_clients)
    structure: list[Any] = []

    def stacked(*values: Any) -> list[Any]:
        given = [add_axis(x, group.size) if c else x for x, c in zip(values, at_clients)]
        with _operators(made.name, group):
            result = fun(*jax.tree.unflatten(tree, given))
        flat, out_tree = jax.tree.flatten(result)
        structure.append(out_tree)
        return flat

    specs = [_jax.spec(jax.typeof(x)) for x in leaves]
    # JAX remembers traces of helpers by function and shapes. Under an axis of its own, nothing of
    # this trace is used by DrJAX later, nor a trace for another number of clients here.
    axes = [(group, 1), (group.placement, group.size)]
    trace = jax.make_jaxpr(stacked, axis_env=axes)(*specs)
    _require_no_collective(trace.jaxpr, group)
    _require_sent(made, trace, specs, at_clients, group.size)
    results = unstack(trace, leaves, group.size)
    return jax.tree.unflatten(structure[-1], results)


def _require_sent(
    made: Computation, trace: Any, specs: list, at_clients: list[bool], size: int
) -> None:
    """Raises TranslationError for a result at the clients that is the server's and was never sent."""
    stacked: list[bool] = []
    own, _ = _jax.make_jaxpr(lambda *xs: unstack(trace, xs, size, stacked), specs)
    places = [CLIENTS if c else SERVER for c in at_clients]
    block = place(normalise(own, erase_rules=True), places, ["an argument"] * len(places))
    if any(s and block.placement(v) is SERVER for s, v in zip(stacked, block.results)):
        raise TranslationError(
            f"`{made.name}` returns at the clients what is the server's: drjax.map_fn gives clients a "
            "server value that nothing sent to them. Return drjax.broadcast of it, or the value itself."
        )


def _require_no_collective(jaxpr: _jax.Jaxpr, group: "_Group") -> None:
    for equation, _ in every_equation(jaxpr):
        axes = (equation.params.get("axes"), equation.params.get("axis_name"))
        if group.placement in jax.tree.leaves(axes):
            raise refused(
                equation, f"names the axis {group.placement!r} of clients. Use drjax.reduce_sum"
            )


class _Group:
    """The clients that a DrJAX program declares."""

    def __init__(self, placement: str, size: int):
        self.placement = placement
        self.size = size

    def __repr__(self) -> str:
        return f"{self.placement} of a DrJAX program"


_group = functools.cache(_Group)


class _Entered(BaseException):
    """A program was entered: its group is known, and no more has to be run."""

    def __init__(self, group: _Group):
        self.group = group


def _declared(name: str, fun: Callable, leaves: list, at_clients: list[bool]) -> _Group:
    """The group of clients of the first DrJAX program that `fun` enters."""

    def entered(api: Any, group: _Group) -> None:
        raise _Entered(group)

    specs = [
        jax.ShapeDtypeStruct((1, *jnp.shape(x)) if c else jnp.shape(x), jnp.result_type(x))
        for x, c in zip(leaves, at_clients)
    ]
    try:
        with _entering(entered):
            # Under an axis that no other trace has, what JAX remembers of an earlier run is not used.
            jax.make_jaxpr(fun, axis_env=[(object(), 1)])(*specs)
    except _Entered as found:
        return found.group
    raise ArgumentError(
        f"Expected a DrJAX program, got `{name}`, which runs none. Decorate it with "
        '@drjax.program(placements={"clients": n}).'
    )


@contextlib.contextmanager
def _operators(name: str, group: _Group) -> Iterator[None]:
    """While this lasts, DrJAX programs of this group bind our primitives."""

    stand_ins = _stand_ins(group.size)

    def entered(api: Any, found: _Group) -> None:
        if found is not group:
            raise TranslationError(
                f"`{name}` expected one group of clients, got {group.size} {group.placement!r} and "
                f"{found.size} {found.placement!r}. Translate each program by itself."
            )
        for operator, stand_in in stand_ins.items():
            setattr(api, operator, stand_in)

    with _entering(entered):
        yield


_LOCK = threading.RLock()


@contextlib.contextmanager
def _entering(entered: Callable[[Any, _Group], None]) -> Iterator[None]:
    """Calls `entered` with the module to fill in, whenever this thread enters a DrJAX program."""
    interface = _drjax_interface()
    thread = threading.get_ident()

    def replace(api, placed, primitives, *, placement):
        if threading.get_ident() != thread:
            return original(api, placed, primitives, placement=placement)
        entered(api, _group(placement, placed._placements_to_n_elements[placement]))
        return api

    with _LOCK:
        original = interface._replace_api
        interface._replace_api = replace
        try:
            yield
        finally:
            interface._replace_api = original


def _stand_ins(size: int) -> dict[str, Callable]:
    """What DrJAX's operators are while a program of `size` clients is translated."""
    mapping: list[Callable] = []

    def require_server(operator: str) -> None:
        if mapping:
            raise TranslationError(
                f"Expected the work of one client inside drjax.map_fn, got drjax.{operator}. "
                "Communicate before or after the map.",
                line=_jax.current_line(),
            )

    def leave(tree: Any) -> Any:
        return jax.tree.map(lambda x: add_axis(x, size), tree)

    def enter(tree: Any) -> Any:
        return jax.tree.map(lambda x: remove_axis(x, size), tree)

    # Where clients are computed, `mesh`, is for `simulate(mesh=)` to say.
    def broadcast(x: Any, *, mesh: Any = None) -> Any:
        require_server("broadcast")
        return leave(fad.broadcast(jax.tree.map(jnp.asarray, x)))

    def map_fn(fn: Callable, arg: Any, *, mesh: Any = None) -> Any:
        require_server("map_fn")
        own = enter(arg)
        mapping.append(fn)
        try:
            return leave(fn(*own) if isinstance(own, tuple) else fn(own))
        finally:
            mapping.pop()

    def reduce_sum(x: Any) -> Any:
        require_server("reduce_sum")
        return fad.sum(enter(x))

    def reduce_mean(x: Any) -> Any:
        require_server("reduce_mean")
        return fad.mean(enter(x))

    def reduce_weighted_mean(x: Any, w: Any) -> Any:
        require_server("reduce_weighted_mean")
        values, weights = enter(x), enter(w)
        products = jax.tree.map(jnp.multiply, values, weights)
        totals, total_weights = fad.sum((products, weights), name="mean")
        return jax.tree.map(jnp.divide, totals, total_weights)

    operators = (broadcast, map_fn, reduce_sum, reduce_mean, reduce_weighted_mean)
    return {operator.__name__: operator for operator in operators}
