"""Typed views of equations: the one place that knows how JAX lays out calls and control flow.

JAX nests programs inside equation parameters under different names and in different shapes. `view`
gives each equation a form whose regions have names, and `with_` makes an equation of changed regions:

    Broadcast   a message from the server to every client
    Sum         a message from every client to the server, added up
    Call        means its body, once: `jit`, `remat`, a custom derivative rule
    Solve       a call of its `solve` program; the other programs serve its derivative
    Scan        a loop of known length
    While       a loop that a predicate ends
    Cond        one of several branches
    Plain       everything else

`split` of a view divides any list that has one item per operand (values, placements, bits) into the
regions.

>>> import jax, jax.numpy as jnp
>>> jaxpr = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * x, x))(2.0).jaxpr
>>> loop = view(jaxpr.eqns[-1])
>>> type(loop).__name__, loop.length, loop.split("xic")
('Scan', 3, (['x'], ['i', 'c'], []))
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var
from secfad.primitives import broadcast_p, sum_p

Atom = Var | Literal

JIT = frozenset(
    {
        _jax.jax_primitives.jit_p,
        _jax.jax_primitives.closed_call_p,
        _jax.jax_primitives.call_p,
    }
)
REMAT = _jax.jax_primitives.remat_p
CUSTOM_JVP = _jax.jax_primitives.custom_jvp_call_p
CUSTOM_VJP = _jax.jax_primitives.custom_vjp_call_p
CUSTOM_RULES = frozenset({CUSTOM_JVP, CUSTOM_VJP})
LINEAR_SOLVE = _jax.jax_primitives.linear_solve_p
# Calls whose derivative is not that of their body.
OWN_DERIVATIVE = CUSTOM_RULES | {LINEAR_SOLVE}
SCAN = _jax.jax_primitives.scan_p
WHILE = _jax.jax_primitives.while_p
COND = _jax.jax_primitives.cond_p
CONTROL_FLOW = frozenset({SCAN, WHILE, COND})


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Plain:
    """An equation without a program that is run in place of it."""

    equation: JaxprEqn

    @property
    def inputs(self) -> list[Atom]:
        """Everything that the equation reads."""
        return self.equation.invars

    @property
    def outputs(self) -> list[Var]:
        """Everything that it defines."""
        return self.equation.outvars

    @property
    def line(self) -> str:
        """The user's line."""
        return _jax.user_line(self.equation)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Message(Plain):
    """A broadcast or a sum."""

    @property
    def name(self) -> str:
        """The name that the user gave it, with the suffixes of its derivatives."""
        return self.equation.params["name"]


class Broadcast(Message):
    """A message from the server to every client."""

    __slots__ = ()


class Sum(Message):
    """A message from every client to the server, added up there."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Call(Plain):
    """An equation that means its body, once, and can be replaced by it.

    Attributes:
      body: What is called.
      operands: What the body takes.
    """

    body: ClosedJaxpr
    operands: list[Atom]

    def split(self, items: Sequence) -> list:
        """The items of the operands that the body takes."""
        return list(items)

    def with_(self, *, body: ClosedJaxpr) -> JaxprEqn:
        """The equation with another body, which takes and gives as much."""
        params, key = self.equation.params, _body_key(self.equation)
        changed = body if isinstance(params[key], ClosedJaxpr) else body.jaxpr
        return self.equation.replace(params=params | {key: changed})


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Solve(Call):
    """A linear solve: it runs its `solve` program, its derivative may run the others.

    Attributes:
      programs: All four by their names in `jax.lax.custom_linear_solve`; absent ones are None.
    """

    programs: dict[str, Any]

    def split(self, items: Sequence) -> list:
        """The items of the operands that the `solve` program takes."""
        parts = self.regions(items)
        return [*parts["solve"], *parts["right"]]

    def regions(self, items: Sequence) -> dict[str, list]:
        """The items of the constants of each program, and those of the right-hand side, `right`."""
        lengths = self.equation.params["const_lengths"]
        names = [*self.programs, "right"]
        cuts = itertools.accumulate(getattr(lengths, name) or 0 for name in self.programs)
        return dict(zip(names, _cut(items, *cuts)))

    def with_(self, *, body: ClosedJaxpr) -> JaxprEqn:
        """The equation with another `solve` program."""
        bodies = self.equation.params["jaxprs"]._replace(solve=body)
        return self.equation.replace(params=self.equation.params | {"jaxprs": bodies})


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Scan(Plain):
    """A loop of known length.

    Attributes:
      body: One iteration: from constants, carries and a row of each sequence to carries and rows.
      consts: Operands that every iteration reads.
      carry: Operands that the first iteration starts from.
      xs: Operands of which every iteration reads a row.
      carry_out: Results of the last iteration.
      ys: Collected rows.
    """

    body: ClosedJaxpr
    consts: list[Atom]
    carry: list[Atom]
    xs: list[Atom]
    carry_out: list[Var]
    ys: list[Var]

    @property
    def length(self) -> int:
        """How often the body runs."""
        return int(self.equation.params["length"])

    @property
    def reverse(self) -> bool:
        """Whether the last row comes first."""
        return self.equation.params["reverse"]

    @property
    def unroll(self) -> Any:
        """How many iterations are compiled as one."""
        return self.equation.params["unroll"]

    def split(self, items: Sequence) -> tuple[list, list, list]:
        """The items of the constants, of the carries and of the sequences."""
        first = len(self.consts)
        consts, carry, xs = _cut(items, first, first + len(self.carry))
        return consts, carry, xs

    def split_out(self, items: Sequence) -> tuple[list, list]:
        """The items of the carries and of the rows that an iteration gives."""
        carry, ys = _cut(items, len(self.carry))
        return carry, ys

    def with_(
        self,
        *,
        body: ClosedJaxpr | None = None,
        consts: Sequence[Atom] | None = None,
        carry: Sequence[Atom] | None = None,
        xs: Sequence[Atom] | None = None,
        outvars: Sequence[Var] | None = None,
    ) -> JaxprEqn:
        """The loop with other regions; the body must fit them."""
        body = self.body if body is None else body
        consts, carry, xs = _given((consts, self.consts), (carry, self.carry), (xs, self.xs))
        params = self.equation.params | {
            "jaxpr": body,
            "num_consts": len(consts),
            "num_carry": len(carry),
        }
        invars = [*consts, *carry, *xs]
        if "linear" in params:  # JAX before 0.9
            params["linear"] = (False,) * len(invars)
        return _replaced(self.equation, invars, outvars, params)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class While(Plain):
    """A loop that a predicate ends.

    Attributes:
      predicate: From its constants and the carries to a flag: whether to go on.
      body: One iteration, from its constants and the carries to the carries.
      predicate_consts: Operands that every predicate reads.
      body_consts: Operands that every iteration reads.
      carry: Operands that the first iteration starts from.
    """

    predicate: ClosedJaxpr
    body: ClosedJaxpr
    predicate_consts: list[Atom]
    body_consts: list[Atom]
    carry: list[Atom]

    def split(self, items: Sequence) -> tuple[list, list, list]:
        """The items of the constants of the predicate and of the body, and of the carries."""
        first = len(self.predicate_consts)
        predicate, body, carry = _cut(items, first, first + len(self.body_consts))
        return predicate, body, carry

    def with_(
        self,
        *,
        predicate: ClosedJaxpr | None = None,
        body: ClosedJaxpr | None = None,
        predicate_consts: Sequence[Atom] | None = None,
        body_consts: Sequence[Atom] | None = None,
        carry: Sequence[Atom] | None = None,
        outvars: Sequence[Var] | None = None,
    ) -> JaxprEqn:
        """The loop with other regions; predicate and body must fit them."""
        head, consts, carry = _given(
            (predicate_consts, self.predicate_consts),
            (body_consts, self.body_consts),
            (carry, self.carry),
        )
        params = self.equation.params | {
            "cond_jaxpr": self.predicate if predicate is None else predicate,
            "body_jaxpr": self.body if body is None else body,
            "cond_nconsts": len(head),
            "body_nconsts": len(consts),
        }
        return _replaced(self.equation, [*head, *consts, *carry], outvars, params)


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Cond(Plain):
    """One of several branches.

    Attributes:
      index: The number of the branch.
      operands: What every branch takes.
      branches: Programs of the same inputs and results.
    """

    index: Atom
    operands: list[Atom]
    branches: tuple[ClosedJaxpr, ...]

    def split(self, items: Sequence) -> tuple[Any, list]:
        """The item of the index, and those of the operands."""
        return items[0], list(items[1:])

    def with_(
        self,
        *,
        index: Atom | None = None,
        operands: Sequence[Atom] | None = None,
        branches: Sequence[ClosedJaxpr] | None = None,
        outvars: Sequence[Var] | None = None,
    ) -> JaxprEqn:
        """The choice with other regions; the branches must fit them."""
        params = self.equation.params
        if branches is not None:
            params = params | {"branches": tuple(branches)}
        operands = self.operands if operands is None else operands
        first = self.index if index is None else index
        return _replaced(self.equation, [first, *operands], outvars, params)


_V = TypeVar("_V", bound=Plain)
View = Plain | Broadcast | Sum | Call | Solve | Scan | While | Cond


def view(equation: JaxprEqn) -> View:
    """The view of an equation."""
    make = VIEWS.get(equation.primitive)
    return Plain(equation) if make is None else make(equation)


def views(jaxpr: Jaxpr) -> tuple[View, ...]:
    """The views of the equations of a program, in order."""
    return tuple(map(view, jaxpr.eqns))


def viewed(equation: JaxprEqn, kind: type[_V]) -> _V:
    """The view of an equation that is of a kind; TypeError if it is of another."""
    made = view(equation)
    if not isinstance(made, kind):
        raise TypeError(f"Expected a {kind.__name__}, got the equation `{equation.primitive}`.")
    return made


def as_call(equation: JaxprEqn) -> Call | None:
    """The view of an equation that can be replaced by its body; None of another."""
    made = view(equation)
    return made if isinstance(made, Call) else None


def _body_key(equation: JaxprEqn) -> str:
    return "jaxpr" if "jaxpr" in equation.params else "call_jaxpr"


def _call(equation: JaxprEqn) -> Call:
    body = equation.params[_body_key(equation)]
    return Call(equation, _closed(body), list(equation.invars))


def _solve(equation: JaxprEqn) -> Solve:
    programs = equation.params["jaxprs"]._asdict()
    made = Solve(equation, programs["solve"], [], programs)
    return dataclasses.replace(made, operands=made.split(equation.invars))


def _scan(equation: JaxprEqn) -> Scan:
    params = equation.params
    carries = params["num_carry"]
    cuts = params["num_consts"], params["num_consts"] + carries
    inputs, outputs = _cut(equation.invars, *cuts), _cut(equation.outvars, carries)
    return Scan(equation, params["jaxpr"], *inputs, *outputs)


def _while(equation: JaxprEqn) -> While:
    params = equation.params
    first = params["cond_nconsts"]
    inputs = _cut(equation.invars, first, first + params["body_nconsts"])
    return While(equation, params["cond_jaxpr"], params["body_jaxpr"], *inputs)


def _cond(equation: JaxprEqn) -> Cond:
    index, *operands = equation.invars
    return Cond(equation, index, operands, equation.params["branches"])


VIEWS: dict[Primitive, Callable[[JaxprEqn], View]] = {
    broadcast_p: Broadcast,
    sum_p: Sum,
    **dict.fromkeys(JIT | CUSTOM_RULES | {REMAT}, _call),
    LINEAR_SOLVE: _solve,
    SCAN: _scan,
    WHILE: _while,
    COND: _cond,
}


def _cut(items: Sequence, *cuts: int) -> list[list]:
    edges = [0, *cuts, len(items)]
    return [list(items[a:b]) for a, b in itertools.pairwise(edges)]


def _given(*pairs: tuple[Sequence[Atom] | None, Sequence[Atom]]) -> list[list[Atom]]:
    return [list(old if new is None else new) for new, old in pairs]


def _replaced(equation: JaxprEqn, invars, outvars, params: dict) -> JaxprEqn:
    outvars = equation.outvars if outvars is None else list(outvars)
    return equation.replace(invars=invars, outvars=outvars, params=params)


def _closed(body: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    return body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())
