"""Forward and reverse mode: derivatives of computations, as computations.

`broadcast` and `sum` are linear and each other's transpose, so JAX's own forward and reverse mode
give the two modes of the paper: forward sends tangents along with values, reverse sends cotangents
back. The result is again a computation over broadcast and sum, with the same arguments, so modes
compose and nest. `mode` chooses; `mixed` is in `secfad.derivatives.mixed`, `auto` in
`secfad.derivatives.planning`.

Sources: Rush, Charles, Garrett (JMLR 2024), sections 3.1-3.3, Tables 1-3.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import jax

from secfad import _jax
from secfad.computations import Computation
from secfad.derivatives import differentiation
from secfad.derivatives.factoring import factored
from secfad.derivatives.planning import STANDARD, cheapest, priced
from secfad.derivatives.preparation import differentiable
from secfad.derivatives.refusals import explained
from secfad.derivatives.requirements import (
    checked_argnums,
    is_complex,
    require_alike,
    require_mode,
    require_numbers,
    require_results,
    require_server_arguments,
    unused_name,
    value_specs,
)
from secfad.derivatives.traced import Derivative, evaluated, specs_of, traced_once
from secfad.placements import SERVER, Placement
from secfad.programs.tracing import trace_flat

Mode = Literal["forward", "reverse", "factored", "mixed", "blockwise", "auto"]
Argnums = int | Sequence[int]


def grad(
    computation: Computation,
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    mode: Mode = "reverse",
) -> Computation:
    """The gradient of a scalar computation, as a computation with the same arguments.

    Guarantees:
      Equals the gradient of the centralised program; communicates by broadcast and sum only.

    Args:
      computation: Returns one floating-point scalar at the server.
      argnums: Position, or positions, of the arguments to differentiate. By a complex number x + iy the
        gradient is d/dx - i d/dy, as that of `jax.grad`, in every mode.
      has_aux: Whether it returns a pair `(value, aux)`, of which only the value is differentiated.
        `aux` is any tree; it costs its own messages and no more, and what of it is at the clients
        stays there.
      mode: "forward" sends a tangent per differentiated entry with every message, in the same
        rounds. "reverse" sends cotangents back: more rounds, with the same clients. "factored" is
        reverse mode in which clients do not wait for scalar cotangents, which the server multiplies
        by instead (see `secfad.derivatives.factoring`). "mixed" sends local Jacobians with the values, in the
        same rounds. "blockwise" sends those Jacobians that are small, and cotangents for the other
        sums (see `secfad.derivatives.jacobians`). "auto" chooses by `plan`.

    Returns:
      A computation that returns a tree like the argument (a tuple for several argnums); with
      `has_aux` it returns `(gradient, aux)`.

    Raises:
      ArgumentError: The positions are wrong; when traced, if there is nothing to differentiate.
      ModeError: When traced, if the mode does not exist for the program.

    Source: Rush, Charles, Garrett (JMLR 2024), sections 3.1-3.3.
    """
    return _derived(computation, argnums, mode, "grad", has_aux)


def value_and_grad(
    computation: Computation,
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    mode: Mode = "reverse",
) -> Computation:
    """`(value, gradient)` of a scalar computation, with `has_aux` `((value, aux), gradient)`.

    Arguments and modes as for `grad`.
    """
    return _derived(computation, argnums, mode, "value_and_grad", has_aux)


def jacobian(
    computation: Computation,
    argnums: Argnums = 0,
    *,
    has_aux: bool = False,
    mode: Mode = "reverse",
) -> Computation:
    """The Jacobian of a computation with any tree of floating-point results at the server.

    Forward mode also takes results at the clients: their Jacobians stay there.
    Arguments and modes as for `grad`; the result has the structure of `jax.jacobian`: for every
    result, for every argument, an array of shape `result.shape + argument.shape`. Complex results have
    one by real arguments only, in forward and mixed mode; for others `jvp` and `vjp` say what JAX does.
    """
    return _derived(computation, argnums, mode, "jacobian", has_aux)


def jvp(computation: Computation, argnums: Argnums = 0, *, mode: Mode = "forward") -> Computation:
    """Value and directional derivative, as a computation with tangents as further arguments.

    Args:
      computation: What to differentiate.
      argnums: Position, or positions, of the server arguments to differentiate.
      mode: "forward" or "mixed".

    Returns:
      A computation of the same arguments and one `<name>_tangent` per differentiated argument
      (numbered where an argument is called so already), which returns `(value, tangent)`.
    """
    require_mode(mode, ("forward", "mixed"), "jvp")
    argnums = checked_argnums(computation, argnums)
    chosen = _tuple(argnums)
    if mode == "mixed":
        require_server_arguments(computation, chosen, mode)
    names = list(computation.placements)
    added = {unused_name(f"{names[i]}_tangent", names): names[i] for i in chosen}

    def derived(specs: tuple) -> Prepared:
        local, _ = differentiable(traced_once(computation, specs[: len(names)]), chosen, mode)

        def along(*args: Any) -> Any:
            primals, tangents = args[: len(names)], args[len(names) :]
            for i, tangent, (what, of) in zip(chosen, tangents, added.items()):
                require_alike(tangent, primals[i], what, f"`{of}`")
            fun, at = _of_chosen(local, primals, argnums)
            return jax.jvp(fun, (at,), (_picked(tangents, isinstance(argnums, int)),))

        return along, False, mode

    title = "Value and directional derivative"
    places = {tangent: computation.placements[of] for tangent, of in added.items()}
    unfactored = lambda: jvp(computation.fused, argnums, mode=mode)
    return _derivative(
        computation, "jvp", title, argnums, mode, derived, added=places, unfactored=unfactored
    )


def vjp(computation: Computation, argnums: Argnums = 0, *, mode: Mode = "reverse") -> Computation:
    """Value and pulled-back cotangent, as a computation with the cotangent as a further argument.

    Args:
      computation: What to differentiate; its results are at the server.
      argnums: Position, or positions, of the arguments to differentiate.
      mode: "reverse", "factored", "mixed" or "blockwise".

    Returns:
      A computation of the same arguments and a last argument `cotangent` (numbered where an argument
      is called so already), shaped like the result, which returns `(value, derivative)` with the
      derivative shaped like the arguments.
    """
    require_mode(mode, ("reverse", "factored", "mixed", "blockwise"), "vjp")
    argnums = checked_argnums(computation, argnums)
    chosen = _tuple(argnums)
    if mode in ("mixed", "blockwise"):
        require_server_arguments(computation, chosen, mode)
    added = unused_name("cotangent", computation.placements)

    def derived(specs: tuple) -> Prepared:
        local, factoring = differentiable(traced_once(computation, specs[:-1]), chosen, mode)

        def back(*args: Any) -> Any:
            *primals, cotangent = args
            fun, at = _of_chosen(local, primals, argnums)
            value, pull = jax.vjp(fun, at)
            require_alike(cotangent, value, added, "the result")
            return value, pull(cotangent)[0]

        return back, factoring, mode

    title = "Value and pulled-back cotangent"
    return _derivative(computation, "vjp", title, argnums, mode, derived, added={added: SERVER})


# A function, whether to factor scalars out of its program, and the mode that it is in.
Prepared = tuple[Callable, bool, str]


def _derivative(
    computation: Computation,
    kind: str,
    title: str,
    argnums: Argnums,
    mode: str,
    derived: Callable[[tuple], Prepared],
    *options: bool,
    added: Mapping[str, Placement] = MappingProxyType({}),
    unfactored: Callable[[], Computation] | None = None,
) -> Computation:
    """A derivative, given what JAX is to trace at arguments of given shapes.

    It is made once: what is traced and compiled for it is found again in a loop.
    """
    key = (kind, argnums, mode, *options)
    if key in computation.made:
        return computation.made[key]

    def fun(*args: Any) -> Any:
        made, factoring, use = derived(specs_of(args))
        with explained(computation.name, use):
            return evaluated(*factored(made, specs_of(args)), args) if factoring else made(*args)

    def tracer(specs: tuple) -> tuple[_jax.ClosedJaxpr, Any]:
        made, factoring, use = derived(specs)
        with explained(computation.name, use):
            return (factored if factoring else _jax.make_jaxpr)(made, specs)

    names = list(computation.placements)
    of = ", ".join(f"`{names[i]}`" for i in _tuple(argnums))
    text = f"{title} of `{computation.name}` with respect to {of}, in {mode} mode."
    text = f"{text}\n\n{computation.__doc__}" if computation.__doc__ else text
    made = Derivative(
        fun,
        MappingProxyType({**computation.placements, **added}),
        f"{computation.name}.{kind}",
        # Arguments before those that are added cannot be left out.
        {} if added else computation.defaults,
        tracer=tracer,
        unfactored=unfactored,
    )
    computation.made[key] = made.documented(text)
    return made


# What each kind of derivative is called, and how it is taken.
_DERIVE = {
    "grad": ("Gradient", differentiation.gradient),
    "value_and_grad": ("Value and gradient", differentiation.value_and_gradient),
    "jacobian": ("Jacobian", differentiation.jacobian),
}


def _derived(
    computation: Computation,
    argnums: Argnums,
    mode: Mode,
    kind: str,
    has_aux: bool,
    *,
    factor: bool = True,
) -> Computation:
    require_mode(mode, get_args(Mode), kind)
    argnums = checked_argnums(computation, argnums)
    chosen = _tuple(argnums)
    if mode in ("forward", "mixed", "blockwise"):
        require_server_arguments(computation, chosen, mode)
    title, derive = _DERIVE[kind]

    def derived(specs: tuple) -> Prepared:
        require_numbers(computation, specs, chosen)
        known = traced_once(computation, specs)
        use: Any = mode
        if mode == "auto":
            # A computation that is badly placed is refused, whatever the mode.
            _ = known.program
            derivative = lambda m: _derived(known, argnums, cast(Mode, m), kind, has_aux)
            options = priced(lambda m: trace_flat(derivative(m), specs), STANDARD)
            use = cheapest(options, computation.name).mode
        local, factoring = differentiable(known, chosen, use, has_aux)
        by_complex = any(is_complex(x.dtype) for i in chosen for x in jax.tree.leaves(specs[i]))
        value = value_specs(known.name, known.out_tree, known.source.jaxpr.outvars, has_aux)
        require_results(value, known.name, kind, use, by_complex)
        fun = lambda *args: derive(*_of_chosen(local, args, argnums), use, has_aux)
        return fun, factor and factoring, use

    def unfactored() -> Computation:
        return _derived(computation.fused, argnums, mode, kind, has_aux, factor=False)

    return _derivative(
        computation, kind, title, argnums, mode, derived, has_aux, factor, unfactored=unfactored
    )


def _tuple(argnums: Argnums) -> tuple[int, ...]:
    return (argnums,) if isinstance(argnums, int) else tuple(argnums)


def _of_chosen(fun: Callable, args: Sequence[Any], argnums: Argnums) -> tuple[Callable, Any]:
    """A function of its differentiated arguments alone, as one tree, and this tree."""
    chosen, alone = _tuple(argnums), isinstance(argnums, int)

    def of_chosen(at: Any) -> Any:
        changed = dict(zip(chosen, [at] if alone else at))
        return fun(*(changed.get(i, value) for i, value in enumerate(args)))

    return of_chosen, _picked([args[i] for i in chosen], alone)


def _picked(values: Sequence[Any], alone: bool) -> Any:
    return values[0] if alone else tuple(values)
