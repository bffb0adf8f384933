"""The known primitives, by identity, and the family of each one (`audits.rules.families`).

The checker recognises a primitive as the object that JAX (or secfad) registered, never by its name
alone (`secfad.jaxprs.origins`). DrJAX creates new primitive objects for every decorated program.
The checker recognises these by their implementation, which must be the code object that the
installed DrJAX defines.
"""

import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

import jax

from audits.rules.families import DECISIONS
from secfad.inner import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Primitive,
    is_key_generator,
    is_known_dtype,
    is_registered,
)

UNKNOWN, IMPOSTOR = "unknown", "impostor"


def family(primitive: Primitive, *, style: str) -> str:
    """The family of a primitive, `UNKNOWN`, or `IMPOSTOR` for a known name on another object."""
    if style == "drjax":
        found = _drjax_role(primitive)
        if found is not None:
            return found
    decided = DECISIONS.get(primitive.name, UNKNOWN)
    if is_registered(primitive):
        return decided
    if decided in REFUSED_BY_NAME:
        return decided
    if primitive.name in DECISIONS or _drjax_name(primitive.name):
        return IMPOSTOR
    return UNKNOWN


# A refusal needs no identity: a primitive with the name of a refused primitive is refused too.
REFUSED_BY_NAME = frozenset({"callback", "kernel", "reference", "collective", "refused"})


def _drjax_name(name: str) -> bool:
    return name.startswith(("broadcast_", "sum_from_", "mean_from_")) and name not in DECISIONS


def _drjax_role(primitive: Primitive) -> str | None:
    """`drjax_broadcast`, `drjax_sum` or `drjax_mean` if the installed DrJAX implements it."""
    module = sys.modules.get("drjax._src.primitives")
    impls = sys.modules.get("drjax._src.impls")
    impl = getattr(primitive, "impl", None)
    if module is None or impls is None or impl is None:
        return None
    code = getattr(getattr(impl, "__func__", impl), "__code__", None)
    placed = impls.PlacedComputations
    prefix_of = {
        placed.sum_from_placement.__code__: ("sum_from_", "drjax_sum"),
        placed.mean_from_placement.__code__: ("mean_from_", "drjax_mean"),
    }
    for broadcast_code in _nested_code(module._define_and_register_prims_for_placement.__code__):
        prefix_of.setdefault(broadcast_code, ("broadcast_", "drjax_broadcast"))
    prefix, role = prefix_of.get(code, (None, None)) if isinstance(code, CodeType) else (None, None)
    return role if prefix and primitive.name.startswith(prefix) else None


def _nested_code(code: CodeType) -> list[CodeType]:
    return [
        c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == "broadcast_array_eval"
    ]


def foreign_code(equation: JaxprEqn) -> str:
    """What of an equation is known by its name only; "" if nothing is.

    Parameters may hold code: a primitive, the random generator of new keys, a dtype with rules of
    its own. Programs inside have equations of their own.
    """
    for variable in (*equation.invars, *equation.outvars):
        dtype = getattr(variable.aval, "dtype", None)
        if dtype is not None and not is_known_dtype(dtype):
            return f"{dtype} arrays of another generator than JAX's"
    for value in _flat(tuple(equation.params.values())):
        if isinstance(value, Primitive) and not is_registered(value):
            return f"a parameter `{value}`"
        if _is_generator_like(value) and not is_key_generator(value):
            return f"a random generator named {value.name!r}"
        if _is_extended(value) and not is_known_dtype(value):
            return f"the dtype {value}"
    return ""


def _is_generator_like(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "random_bits") and hasattr(value, "fold_in")


def _is_extended(value: Any) -> bool:
    # `issubdtype` asks for a dtype or a scalar type, which most parameters are not.
    kind = getattr(value, "type", None)
    return isinstance(kind, type) and issubclass(kind, jax.dtypes.extended)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, ClosedJaxpr | Jaxpr):
        return
    if isinstance(value, tuple | list) and not _is_generator_like(value):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        yield from _flat(tuple(value.values()))
    else:
        yield value
