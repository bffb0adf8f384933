"""Contractions: a sum over clients of per-client products, as one product.

The gradient of a mean loss with respect to a shared weight is a sum over clients of products of
per-client arrays. Computed as written, every client's product is formed and then added up. If nothing
but linear algebra with shared coefficients happens in between (no clip, no other use), the sum over
clients is one further contracted axis of one product. So sums are moved back through what commutes
with them, up to the products, also into loops that collect or accumulate products. This is for the
fused simulation only: a real client has to form its own product, and so do the engines.

A value that clients only multiply by shared numbers, such as the tangents of forward mode, is added
up before it is multiplied, once for all of them. Not in float16, where the sum of what a small factor
was to bring into range may overflow.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from secfad.engines.products import contraction
from secfad.jaxprs.dependence import is_differentiable
from secfad.jaxprs.equations import JIT, Call, Scan, View, view
from secfad.jaxprs.inside import communicates, is_in, with_bodies
from secfad.jaxprs.linearity import SUMS, is_narrow
from secfad.primitives import COMMUNICATION, sum_p
from secfad.programs.following import axis_of, marked
from secfad.programs.normalization import opened

_SOMETIMES_LINEAR = frozenset({"mul", "div", "convert_element_type"})
# A value whose sum is wanted: the variable for the sum, and the message that asks for it.
Summed = dict[Var, tuple[Var, JaxprEqn]]


def over_clients(
    closed: ClosedJaxpr, mapped: Sequence[bool], stacked: Sequence[bool]
) -> Callable[..., list[Any]]:
    """The program of one client as a function of the values of many, with sums as products.

    The program is mapped over a leading axis of clients, which its sums reduce. A simulation fuses a
    whole program over all clients, or one contact over a chunk of them.

    Args:
      closed: The program, without dead equations.
      mapped: Which arguments differ between clients and have a leading axis of them; one at least.
      stacked: Which results shall have one; the others are alike for all clients.
    """
    closed = ClosedJaxpr(_contracted(closed.jaxpr, mapped), closed.consts)
    source = marked(closed)
    return jax.vmap(
        functools.partial(_jax.eval_jaxpr, source.jaxpr, source.consts),
        in_axes=[0 if m else None for m in mapped],
        out_axes=[0 if s else None for s in stacked],
        axis_name=axis_of(closed),
    )


def _contracted(jaxpr: Jaxpr, mapped: Sequence[bool]) -> Jaxpr:
    flat = _inlined(jaxpr, with_results=False)
    equations = _Scope(flat, mapped).equations({})
    return _jax.new_jaxpr(flat.invars, flat.outvars, equations, flat.constvars)


class _Scope:
    """One program: which values differ between clients, and which sums can become products.

    Inside a loop, an accumulator that is read once is a *seed*: its sum is wanted before the loop, so
    that within the loop it stands for its own sum.
    """

    def __init__(
        self,
        jaxpr: Jaxpr,
        mapped: Sequence[bool],
        seeds: Iterable[Var] = (),
    ):
        self.jaxpr = jaxpr
        self.uses = _uses(jaxpr)
        self.differing = {v for v, m in zip(jaxpr.invars, mapped) if m}
        self.seeds = {v for v in seeds if self.uses.get(v) == 1}
        # Values that nothing else uses and that are linear in products, in seeds, or in less than they
        # are; and in which seeds.
        self.holding: dict[Var, frozenset[Var]] = {v: frozenset({v}) for v in self.seeds}
        self.loops: dict[int, _Scope] = {}
        for equation in jaxpr.eqns:
            self._look(equation)

    def _look(self, equation: JaxprEqn) -> None:
        if equation.primitive not in COMMUNICATION and any(map(self._differs, equation.invars)):
            self.differing.update(equation.outvars)
        once = [self.uses.get(v) == 1 for v in equation.outvars]
        viewed = view(equation)
        if isinstance(viewed, Scan) and any(once):
            self._look_inside(viewed, once)
        elif once == [True]:
            operands = [equation.invars[i] for i in self._linear(equation)]
            held = [seeds for seeds in map(self.held, operands) if seeds is not None]
            if held or self._is_product(equation) or _spreads(equation, operands):
                self.holding[equation.outvars[0]] = frozenset().union(*held)

    def _look_inside(self, loop: Scan, once: Sequence[bool]) -> None:
        """Finds what a loop collects or accumulates that is linear in products."""
        flat = _inlined(loop.body.jaxpr, with_results=True)
        _, seeds, _ = loop.split(flat.invars)
        inside = _Scope(flat, self._inner_mapped(loop, flat), seeds)
        self.loops[id(loop.equation)] = inside
        for i, (inner, outer) in enumerate(zip(flat.outvars, loop.equation.outvars)):
            needed, start = frozenset(), None
            if i < len(seeds):
                needed, start = frozenset({seeds[i]}), loop.carry[i]
            if once[i] and inside.held(inner) == needed:
                self.holding[outer] = self.held(start) or frozenset()

    def _is_product(self, equation: JaxprEqn) -> bool:
        """Whether the sum of an equation over clients is best made as one product."""
        if contraction(equation) is None:
            return False
        is_scaled = len(equation.invars) == 2 and not all(map(self._differs, equation.invars))
        return not (is_scaled and is_narrow(equation.outvars[0]))

    def _differs(self, atom: Any) -> bool:
        return is_in(atom, self.differing)

    def held(self, atom: Any) -> frozenset[Var] | None:
        """The seeds in which a value is linear; None if its sum is best made of itself."""
        return self.holding.get(atom) if isinstance(atom, Var) else None

    def _linear(self, equation: JaxprEqn) -> Sequence[int]:
        """Operands in which an equation is jointly linear, with the same coefficients everywhere."""
        name, operands = equation.primitive.name, equation.invars
        if name in SUMS:
            return range(len(operands))
        if is_narrow(equation.outvars[0]):
            return []
        if name == "mul":
            return [i for i in (0, 1) if not self._differs(operands[1 - i])][:1]
        if name == "div" and is_differentiable(operands[0]):
            return [] if self._differs(operands[1]) else [0]
        if name == "convert_element_type":
            before, after = operands[0].aval, equation.outvars[0].aval
            return [0] if _jax.spec(before).dtype == _jax.spec(after).dtype else []
        return []

    def equations(self, summed: Summed) -> list[JaxprEqn]:
        """The equations, with sums moved back to the products; `summed` are sums wanted outside."""
        rows: list[list[JaxprEqn]] = []
        for equation in reversed(self.jaxpr.eqns):
            moved = any(v in summed for v in equation.outvars)
            if equation.primitive is sum_p:
                rows.append(self._sum(equation, summed))
            elif not moved:
                rows.append([self._nested(equation)])
            else:
                viewed = view(equation)
                is_loop = isinstance(viewed, Scan)
                rows.append(
                    self._loop(viewed, summed) if is_loop else self._moved(equation, summed)
                )
        return [equation for row in reversed(rows) for equation in row]

    def _sum(self, equation: JaxprEqn, summed: Summed) -> list[JaxprEqn]:
        kept = []
        for operand, result in zip(equation.invars, equation.outvars):
            if is_in(operand, self.holding):
                summed[operand] = result, equation
            else:
                kept.append((operand, result))
        if not kept:
            return []
        operands, results = zip(*kept)
        return [equation.replace(invars=list(operands), outvars=list(results))]

    def _moved(self, equation: JaxprEqn, summed: Summed) -> list[JaxprEqn]:
        """An equation whose result is only added up, as an equation between sums."""
        result, message = summed[equation.outvars[0]]
        product = contraction(equation)
        if product is not None:
            return [equation.replace(primitive=product, outvars=[result])]
        done, operands = [], list(equation.invars)
        for i in self._linear(equation):
            operands[i] = self._total(operands[i], message, summed, done)
        return [*done, equation.replace(invars=operands, outvars=[result])]

    def _total(self, operand: Any, message: JaxprEqn, summed: Summed, done: list) -> Var:
        """The sum of an operand, which something before makes or a further message in `done`."""
        if is_in(operand, self.seeds):
            return operand
        total = Var(operand.aval)
        if is_in(operand, self.holding):
            summed[operand] = total, message
        else:
            done.append(message.replace(invars=[operand], outvars=[total]))
        return total

    def _loop(self, loop: Scan, summed: Summed) -> list[JaxprEqn]:
        """A loop that adds up over clients in every iteration what was to be added up after it."""
        inside = self.loops[id(loop.equation)]
        done: list[JaxprEqn] = []
        within: Summed = {}
        carry, outvars, results = list(loop.carry), list(loop.equation.outvars), []
        for i, inner in enumerate(inside.jaxpr.outvars):
            if outvars[i] in summed:
                outvars[i], message = summed[outvars[i]]
                if i < len(carry):
                    carry[i] = self._total(carry[i], message, summed, done)
                inner = inside._total(inner, message, within, [])
            results.append(inner)
        body = _jax.new_jaxpr(
            inside.jaxpr.invars, results, inside.equations(within), inside.jaxpr.constvars
        )
        made = loop.with_(body=ClosedJaxpr(body, loop.body.consts), carry=carry, outvars=outvars)
        return [*done, made]

    def _nested(self, equation: JaxprEqn) -> JaxprEqn:
        """An equation with the sums inside it moved."""
        if equation.primitive in COMMUNICATION or not communicates(equation):
            return equation
        viewed = view(equation)
        return with_bodies(equation, lambda b: _contracted(b, self._inner_mapped(viewed, b)))

    def _inner_mapped(self, viewed: View, body: Jaxpr) -> list[bool]:
        """Which inputs of a nested program may differ between clients."""
        flags = [self._differs(v) for v in viewed.equation.invars]
        match viewed:
            case Call(equation=equation) if equation.primitive in JIT:
                return flags
            case Scan():
                # A carry may start alike for all clients and differ later.
                consts, carry, xs = viewed.split(flags)
                return [*consts, *[True] * len(carry), *xs]
        return [True] * len(body.invars)


def _spreads(equation: JaxprEqn, operands: Sequence[Any]) -> bool:
    """Whether a result is larger than what it is linear in, as a value times several tangents is."""
    size = lambda atom: _jax.spec(atom.aval).size
    return len(operands) == 1 and size(operands[0]) < size(equation.outvars[0])


def _uses(jaxpr: Jaxpr) -> dict[Var, int]:
    uses: dict[Var, int] = {}
    for atom in (*jaxpr.outvars, *(v for e in jaxpr.eqns for v in e.invars)):
        if isinstance(atom, Var):
            uses[atom] = uses.get(atom, 0) + 1
    return uses


def _inlined(jaxpr: Jaxpr, with_results: bool) -> Jaxpr:
    """The program with `jit` calls inlined whose results are only added up, here or outside."""
    while chosen := _chosen_calls(jaxpr, jaxpr.outvars if with_results else ()):
        own = ClosedJaxpr(jaxpr, jaxpr.constvars)
        jaxpr = opened(own, chosen.__contains__).jaxpr
    return jaxpr


def _chosen_calls(jaxpr: Jaxpr, wanted: Iterable[Any]) -> set[JaxprEqn]:
    uses, chosen = _uses(jaxpr), set()
    known = {v for v in wanted if isinstance(v, Var)}
    for equation in reversed(jaxpr.eqns):
        if equation.primitive is sum_p:
            known.update(v for v in equation.invars if isinstance(v, Var))
        elif not any(v in known and uses[v] == 1 for v in equation.outvars):
            continue
        elif equation.primitive.name in SUMS | _SOMETIMES_LINEAR:
            known.update(v for v in equation.invars if isinstance(v, Var))
        elif equation.primitive in JIT:
            call = view(equation)
            if isinstance(call, Call) and not call.body.consts:
                chosen.add(equation)
    return chosen
