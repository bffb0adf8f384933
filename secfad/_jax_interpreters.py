"""How our primitives are registered with JAX's interpreters: the only importer of `jax.interpreters`.

A primitive is a name until every interpreter of JAX has a rule for it: abstract evaluation, forward and
reverse mode, batching, partial evaluation, dead code and lowering. Here are the rules of four kinds of
primitives, given only what they mean: linear communication, local functions that stay
visible, contractions over clients and markers of an axis. What is specific to secfad (names,
parameters, errors) comes from `secfad.primitives` and others. As in `secfad._jax`, a change of JAX is a
change of this file.

Sources: JAX documentation, "JAX internals: primitives" and "API compatibility"; Radul et al. (2023), *You
only linearize once*, for transposition and partial evaluation.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from secfad._jax import (
    Jaxpr,
    JaxprEqn,
    Primitive,
    ShapedArray,
    Var,
    spec,
)


class _ClientAxis:
    """The name of the mapped axis of clients. An object, so that no axis of a user's can equal it.

    Attributes:
      marked_only: Whether no message passes it but those that are marked.
    """

    def __init__(self, marked_only: bool):
        self.marked_only = marked_only

    def __repr__(self) -> str:
        return "clients"


client_axis = _ClientAxis(marked_only=True)
# For programs with custom derivative rules, which may send messages of their own when JAX
# differentiates a simulation.
open_client_axis = _ClientAxis(marked_only=False)


def dce(jaxpr: Jaxpr, used_outputs: Sequence[bool]) -> Jaxpr:
    """Removes dead equations; keeps every input."""
    return pe.dce_jaxpr(jaxpr, list(used_outputs), instantiate=True)[0]


def zero_tangent(aval: ShapedArray) -> Any:
    """A symbolic zero tangent for a value of this shape."""
    return ad.Zero(aval.to_tangent_aval())


def linear_primitive(
    name: str,
    *,
    place: Callable,
    tangent_params: Callable[[dict], dict],
    cotangent_params: Callable[[dict], dict],
    check: Callable,
    outside: Callable[[dict], Exception],
    hidden: Callable[[dict], Exception],
    mark: str,
) -> Primitive:
    """An n-ary, identity-shaped, linear primitive; `transposed` of the result must be set afterwards.

    Only operands with a non-zero tangent or cotangent are bound, so that no symbolic zero becomes a
    message. Its results are saved, never recomputed, under `jax.checkpoint`: a second
    communication of the same value would be a second contact and, under noise, another value.

    Where JAX separates what is linear in some inputs from what is known without them, each operand is
    on its own side: a transposed mean knows its denominator.

    Args:
      name: Name of the primitive in jaxprs.
      place: Rule for the clients' axis: `(axis_size, operands, mapped, params)` to
        `(results, mapped)` where `mapped` says which operands have the clients' axis in front.
      tangent_params: Parameters of the tangent's equation from those of the primal's.
      cotangent_params: Parameters of the transposed primitive's equation.
      check: Called with the operands' avals and the parameters; raises on what may not pass.
      outside: The error for a message of arrays, which is part of no computation.
      hidden: The error for a message that is left when a program is compiled, or that is not marked.
      mark: The parameter that marks a message.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    def abstract_eval(*avals, **params):
        check(avals, params)
        return list(avals)

    def impl(*_, **params):
        raise outside(params)

    def lower(context, *_, **params):
        del context
        raise hidden(params)

    def jvp(primals, tangents, **params):
        results = primitive.bind(*primals, **params)
        live = [not isinstance(t, ad.Zero) for t in tangents]
        sent = [t for t, keep in zip(tangents, live) if keep]
        moved = iter(primitive.bind(*sent, **tangent_params(params)) if sent else ())
        zeros = (zero_tangent(jax.typeof(result)) for result in results)
        return results, [next(moved) if keep else zero for keep, zero in zip(live, zeros)]

    def transpose(cotangents, *operands, **params):
        live = [not isinstance(ct, ad.Zero) for ct in cotangents]
        sent = [ct for ct, keep in zip(cotangents, live) if keep]
        other = primitive.transposed  # type: ignore[attr-defined]
        moved = iter(other.bind(*sent, **cotangent_params(params)) if sent else ())
        back = [next(moved) if keep else ct for keep, ct in zip(live, cotangents)]
        return [
            ct if ad.is_undefined_primal(operand) else None for ct, operand in zip(back, operands)
        ]

    def batch(axis_data, operands, dims, **params):
        if not isinstance(axis_data.name, _ClientAxis):
            return primitive.bind(*operands, **params), dims
        if axis_data.name.marked_only and not params.get(mark):
            raise hidden(params)
        results, mapped = place(axis_data.size, *_fronted(operands, dims), params)
        return results, [0 if m else None for m in mapped]

    primitive.def_abstract_eval(abstract_eval)
    primitive.def_impl(impl)
    mlir.register_lowering(primitive, lower)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    pe.custom_partial_eval_rules[primitive] = functools.partial(_separate, primitive)
    batching.fancy_primitive_batchers[primitive] = batch
    pe.dce_rules[primitive] = _drop_unused_operands
    pe.partial_eval_jaxpr_custom_rules[primitive] = _save_results
    return primitive


def _fronted(operands: Sequence, dims: Sequence[int | None]) -> tuple[list, list[bool]]:
    """Operands with the mapped axis in front, and which of them have it."""
    fronted = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims)]
    return fronted, [d is not None for d in dims]


def _separate(primitive: Primitive, trace, *tracers, **params) -> list:
    """Partial evaluation: what is known now, the rest later, each operand on its own side."""
    known = [tracer.is_known() for tracer in tracers]
    if all(known) or not any(known):
        return trace.default_process_primitive(primitive, tracers, params)
    values = [t.pval.get_known() for t, k in zip(tracers, known) if k]
    others = [t for t, k in zip(tracers, known) if not k]
    now = iter(primitive.bind(*values, **params))
    later = iter(trace.default_process_primitive(primitive, others, params))
    return [next(now) if k else next(later) for k in known]


def _drop_unused_operands(used: list[bool], equation: JaxprEqn):
    if not any(used):
        return [False] * len(equation.invars), None
    return list(used), _operands(equation, used)


def _save_results(saveable, unknown_in, instantiated_in, equation):
    """Partial evaluation under `jax.checkpoint`: known results become residuals."""
    del saveable
    count = len(equation.outvars)
    if not any(unknown_in):
        return equation, None, [False] * count, [False] * count, []
    known = [i for i, unknown in enumerate(unknown_in) if not unknown]
    if known:
        now, later = (
            _operands(equation, [u is side for u in unknown_in]) for side in (False, True)
        )
        return now, later, list(unknown_in), list(unknown_in), []
    residuals = [equation.invars[i] for i in known if not instantiated_in[i]]
    residuals = [v for v in residuals if isinstance(v, Var)]
    return None, equation, [True] * count, [True] * count, residuals


def _operands(equation: JaxprEqn, kept: Sequence[bool]) -> JaxprEqn:
    """The message with some of its operands only."""
    invars, outvars = (
        [v for v, k in zip(vs, kept) if k] for vs in (equation.invars, equation.outvars)
    )
    return equation.replace(invars=invars, outvars=outvars)  # type: ignore[arg-type]


def before_binding(primitive: Primitive, change: Callable) -> None:
    """Changes operands and parameters of a primitive of JAX's wherever an equation of it is formed."""
    bind = primitive.bind

    def changed(*operands, **params):
        operands, params = change(operands, params)
        return bind(*operands, **params)

    primitive.bind = changed


def map_clients_by(primitive: Primitive, rule: Callable) -> None:
    """Gives a primitive of JAX's a rule for the axis of clients; for other axes it keeps its own.

    The new rule takes the usual one, then, as usual, the axis, the operands, their dimensions and the
    parameters, and gives results and their dimensions.
    """
    found = batching.fancy_primitive_batchers.get(primitive)
    if found is None:  # JAX before 0.9
        plain = batching.primitive_batchers[primitive]  # type: ignore[index]
        usual = lambda _, operands, dims, **params: plain(operands, dims, **params)
    else:
        usual = found

    def batch(axis_data, operands, dims, **params):
        if isinstance(axis_data.name, _ClientAxis) and any(d is not None for d in dims):
            return rule(usual, axis_data, operands, dims, params)
        return usual(axis_data, operands, dims, **params)

    batching.fancy_primitive_batchers[primitive] = batch


def check_in_checkpoint(primitive: Primitive, check: Callable[[JaxprEqn], None]) -> None:
    """Calls `check` with every equation of a primitive that reverse mode would run twice.

    Under `jax.checkpoint` that is what is known without the cotangents and needed again with them.
    """
    usual = pe.partial_eval_jaxpr_custom_rules[primitive]

    def separate(saveable, unknown_in, instantiated_in, equation):
        check(equation)
        return usual(saveable, unknown_in, instantiated_in, equation)

    pe.partial_eval_jaxpr_custom_rules[primitive] = separate


def identity_primitive(name: str) -> Primitive:
    """A primitive that gives its first operand, which is said to depend on the second."""
    primitive = Primitive(name)
    primitive.def_abstract_eval(lambda value, _: value)
    primitive.def_impl(lambda value, _: value)
    mlir.register_lowering(primitive, lambda context, value, _: [value])

    def jvp(primals, tangents):
        result = primitive.bind(*primals)
        tangent = tangents[0]
        return result, tangent if isinstance(tangent, ad.Zero) else primitive.bind(
            tangent, primals[1]
        )

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = lambda cotangent, *_: [cotangent, None]
    batching.primitive_batchers[primitive] = lambda values, dims: (
        primitive.bind(*values),
        dims[0],
    )
    return primitive


def local_primitive(name: str, reference: Callable, rows: Callable | None = None) -> Primitive:
    """A named primitive that means `reference` and is differentiated, batched and lowered as it.

    Its purpose is to stay visible in a traced program, where a checker can recognise it by identity.
    `reference` takes arrays and static keyword parameters and returns a list of arrays. Under `vmap` it
    stays visible if `rows` is given: it takes the operands with the mapped axis in front, or None in
    place of those that have none, and returns the results, or None if it cannot.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    @functools.cache
    def with_params(**params):
        return jax.jit(functools.partial(reference, **params))

    def abstract_eval(*avals, **params):
        specs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]
        shapes = jax.eval_shape(functools.partial(reference, **params), *specs)
        return [ShapedArray(s.shape, s.dtype) for s in shapes]

    def jvp(primals, tangents, **params):
        tangents = [ad.instantiate_zeros(t) for t in tangents]
        fun = functools.partial(reference, **params)
        return jax.jvp(fun, tuple(primals), tuple(tangents))

    def batch(axis_data, operands, dims, **params):
        del axis_data
        # JAX asks also for what is alike along the axis, such as a value of the server.
        if all(d is None for d in dims):
            results = primitive.bind(*operands, **params)
            return results, [None] * len(results)
        if rows is not None:
            mapped = [None if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims)]
            results = rows(operands, mapped, **params)
            if results is not None:
                return results, [0] * len(results)
        fun = jax.vmap(functools.partial(reference, **params), in_axes=tuple(dims))
        results = fun(*operands)
        return results, [0] * len(results)

    primitive.def_abstract_eval(abstract_eval)
    primitive.def_impl(lambda *xs, **params: with_params(**params)(*xs))
    ad.primitive_jvps[primitive] = jvp
    batching.fancy_primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(reference, multiple_results=True))
    return primitive


def client_contraction(name: str, reference: Callable, place: Callable) -> Primitive:
    """A primitive that stands for `reference` summed over clients, until the clients' axis is mapped.

    It lives only between the start of a fused simulation and its mapping over clients, so it has no
    derivative and no lowering. `place` is the rule for the clients' axis, as in `linear_primitive`.
    """
    primitive = Primitive(name)

    def abstract_eval(*avals, **params):
        shape = jax.eval_shape(functools.partial(reference, **params), *map(spec, avals))
        return ShapedArray(shape.shape, shape.dtype)

    def batch(axis_data, operands, dims, **params):
        return place(axis_data.size, *_fronted(operands, dims), params), None

    primitive.def_abstract_eval(abstract_eval)
    batching.fancy_primitive_batchers[primitive] = batch
    return primitive


def axis_markers(remove: str, add: str) -> tuple[Primitive, Primitive]:
    """Two primitives that say where a leading axis of `size` ends and begins.

    The first takes the axis off the shape of a value, the second puts it on; each is linear and the
    other's transpose. They only mark a trace for whoever translates it: they cannot be run.
    """
    off, on = Primitive(remove), Primitive(add)

    def shape_off(aval, *, size):
        if aval.shape[:1] != (size,):
            raise TypeError(f"Expected a leading axis of {size}, got shape {aval.shape}.")
        return ShapedArray(aval.shape[1:], aval.dtype)

    off.def_abstract_eval(shape_off)
    on.def_abstract_eval(lambda aval, *, size: ShapedArray((size, *aval.shape), aval.dtype))
    ad.deflinear2(off, lambda ct, _, *, size: [on.bind(ct, size=size)])
    ad.deflinear2(on, lambda ct, _, *, size: [off.bind(ct, size=size)])

    def batch(primitive, source, target):
        # The marked axis stays in front; an axis of a user's `vmap` moves behind it.
        def rule(values, dims, *, size):
            return primitive.bind(jnp.moveaxis(values[0], dims[0], source), size=size), target

        batching.primitive_batchers[primitive] = rule

    batch(off, 1, 0)
    batch(on, 0, 1)
    return off, on
