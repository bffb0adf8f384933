"""The known primitives, by identity, and the family of each one.

The checker recognises a primitive as the object that JAX (or secfad) registered, never by its name
alone (`secfad.jaxprs.origins`). DrJAX creates new primitive objects for every decorated program.
The checker recognises these by their implementation, which must be the code object that the
installed DrJAX defines.

`DECISIONS` holds a family for every name; a primitive without one is denied.
"""

import sys
from types import CodeType

from audits.transfer.families import DECISIONS
from secfad.inner import Primitive, is_registered

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
