"""Contractions: a sum over clients of per-client products, as one product.

The gradient of a mean loss with respect to a matrix is a sum over clients of products of per-client
matrices. Computed as written, every client's product is formed and then added up. If nothing happens
to a client's product in between (no clip, no other use), the sum over clients is one further
contracted axis of one product. This is for the fused simulation only: a real client has to form its
own product, and so do the engines.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn, Literal, Var
from secfad.primitives import sum_p

DOT = "dot_general"
# Between the product and the sum: equations that commute with adding up, on one operand.
_COMMUTING = frozenset({"transpose", "reshape", "squeeze"})


def _product(lhs, rhs, **params):
    return jax.lax.dot_general_p.bind(lhs, rhs, **params)


def _over_clients(clients, operands, mapped, params):
    """The rule for the axis of clients: contract it, if both operands have it."""
    lhs, rhs = operands
    if all(mapped):
        contracting, batch = params["dimension_numbers"]
        contracted = [(0, *(axis + 1 for axis in axes)) for axes in contracting]
        batched = [tuple(axis + 1 for axis in axes) for axes in batch]
        numbers = (tuple(contracted), tuple(batched))
        return _product(lhs, rhs, **params | {"dimension_numbers": numbers})
    summed = [jnp.sum(x, axis=0, dtype=x.dtype) if m else x for x, m in zip(operands, mapped)]
    product = _product(*summed, **params)
    return product if any(mapped) else product * jnp.asarray(clients, product.dtype)


contraction_p = _jax.client_contraction("federated_contraction", _product, _over_clients)


def contract(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program with every sum of an otherwise unused product as a contraction."""
    jaxpr = closed.jaxpr
    maker = {v: e for e in jaxpr.eqns for v in e.outvars}
    uses: dict[Var, int] = {}
    for atom in (*jaxpr.outvars, *(v for e in jaxpr.eqns for v in e.invars)):
        if isinstance(atom, Var):
            uses[atom] = uses.get(atom, 0) + 1
    equations: list[JaxprEqn] = []
    for equation in jaxpr.eqns:
        equations += _rewritten(equation, maker, uses)
    if len(equations) == len(jaxpr.eqns):
        return closed
    return ClosedJaxpr(jaxpr.replace(eqns=equations), closed.consts)


def _rewritten(equation: JaxprEqn, maker: dict, uses: dict[Var, int]) -> Sequence[JaxprEqn]:
    if equation.primitive is not sum_p:
        return [equation]
    kept, added = [], []
    for operand, result in zip(equation.invars, equation.outvars):
        chain = _chain(operand, maker, uses)
        if chain is None:
            kept.append((operand, result))
            continue
        product, *unary = chain
        value = Var(product.outvars[0].aval) if unary else result
        added.append(product.replace(primitive=contraction_p, outvars=[value]))
        for i, step in enumerate(unary):
            out = result if i == len(unary) - 1 else Var(step.outvars[0].aval)
            added.append(step.replace(invars=[value], outvars=[out]))
            value = out
    if not added:
        return [equation]
    if kept:
        operands, results = zip(*kept)
        added.append(equation.replace(invars=list(operands), outvars=list(results)))
    return added


def _chain(atom, maker: dict, uses: dict[Var, int]) -> list[JaxprEqn] | None:
    """The product that makes a value and the steps from it, if nothing else uses them."""
    steps: list[JaxprEqn] = []
    while not isinstance(atom, Literal) and uses[atom] == 1 and atom in maker:
        equation = maker[atom]
        if equation.primitive.name == DOT:
            return [equation, *steps[::-1]]
        if equation.primitive.name not in _COMMUTING:
            return None
        steps.append(equation)
        atom = equation.invars[0]
    return None
