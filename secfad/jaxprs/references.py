"""References: mutable ones have no place in a federated computation, and are refused when it is traced.

A reference (`jax.new_ref`) connects operations that read no value of each other. Placements, messages
and derivatives are read off the values of a program, so what is written into a reference would pass
them by. A kernel that takes arrays and works on references inside, as of Pallas, is a function of arrays.
"""

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr
from secfad.errors import TracingError

INSTEAD = (
    "Keep the value in a variable instead, change it by x = x.at[...].set(...) or x.at[...].add(...), and "
    "carry it through loops (jax.lax.scan, jax.lax.fori_loop)."
)


def require_no_references(name: str, jaxpr: Jaxpr) -> None:
    """Raises TracingError for a mutable reference, made in the program or captured; names the line."""
    _require(name, jaxpr, set())


def _require(name: str, jaxpr: Jaxpr, seen: set[int]) -> None:
    if id(jaxpr) in seen:
        return
    seen.add(id(jaxpr))
    for equation in jaxpr.eqns:
        if any(_jax.is_reference(v.aval) for v in (*equation.invars, *equation.outvars)):
            raise TracingError(
                f"{_jax.user_line(equation)}: `{name}` expected values that nothing changes, got a mutable "
                f"reference (jax.new_ref), which neither messages nor derivatives can follow. {INSTEAD}"
            )
        for value in equation.params.values():
            for body in _jax.sub_jaxprs(value):
                inner = body.jaxpr if isinstance(body, ClosedJaxpr) else body
                # The references of a kernel are its own: the equation that runs it has none.
                if not any(_jax.is_reference(v.aval) for v in inner.invars):
                    _require(name, inner, seen)
