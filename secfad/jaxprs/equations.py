"""Typed views of equations: the one place that knows how JAX lays out calls and control flow.

JAX nests programs inside equation parameters under different names and in different shapes. `view`
gives each equation a form whose regions have names, and `with_` makes an equation of changed regions.
`split` of a view divides any list that has one item per operand (values, placements, bits) into the
regions.

>>> import jax, jax.numpy as jnp
>>> jaxpr = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * x, x))(2.0).jaxpr
>>> loop = view(jaxpr.eqns[-1])
>>> type(loop).__name__, loop.length, loop.split("xic")
('Scan', 3, [['x'], ['i', 'c'], []])
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

    def entries(self, items: Sequence) -> list[tuple[ClosedJaxpr, list]]:
        """The body, with the items of what it takes."""
        return [(self.body, self.split(items))]

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
class _Regions(Plain):
    """Control flow: an equation whose operands and programs are the attributes of its view."""

    def with_(self, outvars: Sequence[Var] | None = None, **regions: Any) -> JaxprEqn:
        """The equation with other regions, given by the names of attributes; they must fit."""
        changed = dataclasses.replace(self, **regions)
        invars, params = changed.regions()
        params = self.equation.params | params
        if "linear" in params:  # JAX before 0.9
            params["linear"] = (False,) * len(invars)
        outvars = self.outputs if outvars is None else list(outvars)
        return self.equation.replace(invars=invars, outvars=outvars, params=params)

    def regions(self) -> tuple[list[Atom], dict[str, Any]]:
        """All operands, and the parameters that say how they are divided and what they enter."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Scan(_Regions):
    """A loop of known length.

    Attributes:
      body: One iteration: from constants, carries and a row of each sequence to carries and rows.
      consts: Operands that every iteration reads.
      carry: Operands that the first iteration starts from.
      xs: Operands of which every iteration reads a row.
    """

    body: ClosedJaxpr
    consts: list[Atom]
    carry: list[Atom]
    xs: list[Atom]

    @property
    def length(self) -> int:
        """How often the body runs."""
        return int(self.equation.params["length"])

    @property
    def reverse(self) -> bool:
        """Whether the last row comes first."""
        return self.equation.params["reverse"]

    @property
    def options(self) -> dict[str, Any]:
        """What `jax.lax.scan` takes beside operands and body."""
        return {name: self.equation.params[name] for name in ("length", "reverse", "unroll")}

    def split(self, items: Sequence) -> list[list]:
        """The items of the constants, of the carries and of the sequences."""
        first = len(self.consts)
        return _cut(items, first, first + len(self.carry))

    def split_out(self, items: Sequence) -> tuple[list, list]:
        """The items of the carries and of the rows that an iteration gives."""
        return list(items[: len(self.carry)]), list(items[len(self.carry) :])

    def regions(self) -> tuple[list[Atom], dict[str, Any]]:
        """All operands; the body and the numbers of constants and of carries."""
        sizes = {"num_consts": len(self.consts), "num_carry": len(self.carry)}
        return [*self.consts, *self.carry, *self.xs], {"jaxpr": self.body, **sizes}

    def entries(self, items: Sequence) -> list[tuple[ClosedJaxpr, list]]:
        """The body, with the items of what it takes."""
        return [(self.body, list(items))]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class While(_Regions):
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

    def split(self, items: Sequence) -> list[list]:
        """The items of the constants of the predicate and of the body, and of the carries."""
        first = len(self.predicate_consts)
        return _cut(items, first, first + len(self.body_consts))

    def regions(self) -> tuple[list[Atom], dict[str, Any]]:
        """All operands; both programs and the numbers of their constants."""
        head, consts = self.predicate_consts, self.body_consts
        programs = {"cond_jaxpr": self.predicate, "body_jaxpr": self.body}
        sizes = {"cond_nconsts": len(head), "body_nconsts": len(consts)}
        return [*head, *consts, *self.carry], programs | sizes

    def entries(self, items: Sequence) -> list[tuple[ClosedJaxpr, list]]:
        """The predicate and the body, with the items of what each takes."""
        head, consts, carry = self.split(items)
        return [(self.predicate, [*head, *carry]), (self.body, [*consts, *carry])]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Cond(_Regions):
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

    def regions(self) -> tuple[list[Atom], dict[str, Any]]:
        """All operands; the branches."""
        return [self.index, *self.operands], {"branches": tuple(self.branches)}

    def entries(self, items: Sequence) -> list[tuple[ClosedJaxpr, list]]:
        """The branches, with the items of what each takes."""
        return [(branch, list(items[1:])) for branch in self.branches]


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
    first = params["num_consts"]
    inputs = _cut(equation.invars, first, first + params["num_carry"])
    return Scan(equation, params["jaxpr"], *inputs)


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


def _closed(body: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    return body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())
