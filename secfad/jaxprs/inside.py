"""What is inside of equations: their bodies, every equation at any depth, and questions about them.

`Inside` asks once per program whether anything in it has a property, and remembers the answer;
`communicates` is the question asked most.
"""

import weakref
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, TypeGuard

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from secfad.jaxprs.equations import VIEWS
from secfad.jaxprs.nesting import Nested, may_hold_more
from secfad.primitives import COMMUNICATION


def variables(atoms: Iterable[Any]) -> Iterator[Var]:
    """The atoms that are variables."""
    return (v for v in atoms if isinstance(v, Var))


def is_in(atom: Any, variables: Container[Var]) -> TypeGuard[Var]:
    """True for a variable that is one of these; literals are none."""
    return isinstance(atom, Var) and atom in variables


# Their functions run on the host, where no message can be sent.
_CALLBACKS = frozenset({"pure_callback", "io_callback", "debug_callback", "debug_print"})
_HOLDERS = (ClosedJaxpr, Jaxpr, tuple, list, dict)


def bodies(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """Every program nested in an equation's parameters."""
    for value in equation.params.values():
        if isinstance(value, _HOLDERS):
            for body in _jax.sub_jaxprs(value):
                yield body.jaxpr if isinstance(body, ClosedJaxpr) else body


def with_programs(
    equation: JaxprEqn, change: Callable[[ClosedJaxpr | Jaxpr], ClosedJaxpr | Jaxpr]
) -> JaxprEqn:
    """The equation with every program nested in its parameters changed, constants included."""

    def changed(value: Any) -> Any:
        if isinstance(value, ClosedJaxpr | Jaxpr):
            return change(value)
        if isinstance(value, tuple) and any(isinstance(v, ClosedJaxpr) for v in value):
            items = [changed(v) for v in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        return value

    return equation.replace(params={k: changed(v) for k, v in equation.params.items()})


def with_bodies(equation: JaxprEqn, change: Callable[[Jaxpr], Jaxpr]) -> JaxprEqn:
    """The equation with every program nested in its parameters changed."""

    def changed(body: ClosedJaxpr | Jaxpr) -> ClosedJaxpr | Jaxpr:
        if isinstance(body, ClosedJaxpr):
            return ClosedJaxpr(change(body.jaxpr), body.consts)
        return change(body)

    return with_programs(equation, changed)


def every_equation(jaxpr: Jaxpr) -> Iterator[tuple[JaxprEqn, JaxprEqn | None]]:
    """Every equation at any depth, with the one whose parameter holds it; each program once."""
    seen = {id(jaxpr)}

    def inside(program: Jaxpr, caller: JaxprEqn | None) -> Iterator:
        for equation in program.eqns:
            yield equation, caller
            for body in bodies(equation):
                if id(body) not in seen:
                    seen.add(id(body))
                    yield from inside(body, equation)

    return inside(jaxpr, None)


def every_body(equation: JaxprEqn) -> Iterable[Jaxpr]:
    """`bodies`, and every program that a primitive holds in any other way."""
    if equation.primitive in VIEWS:
        return bodies(equation)
    return Nested(equation.params).programs if may_hold_more(equation.params) else ()


def is_opaque(equation: JaxprEqn) -> bool:
    """True if an equation holds what cannot be looked into, such as a function."""
    unknown = equation.primitive not in VIEWS and equation.primitive.name not in _CALLBACKS
    return unknown and Nested(equation.params).opaque


class Inside:
    """Says whether an equation, or any inside it, is of some kind; looks at every program once."""

    def __init__(
        self,
        is_one: Callable[[JaxprEqn], bool],
        nested: Callable[[JaxprEqn], Iterable[Jaxpr]] = bodies,
    ) -> None:
        """`is_one` says whether an equation itself is of the kind, `nested` what to look into."""
        self._is_one = is_one
        self._nested = nested
        self._known: weakref.WeakKeyDictionary[Jaxpr, bool] = weakref.WeakKeyDictionary()

    def __call__(self, equation: JaxprEqn) -> bool:
        """True if the equation, or one inside it at any depth, is of the kind."""
        return self._is_one(equation) or any(map(self.in_jaxpr, self._nested(equation)))

    def in_jaxpr(self, jaxpr: Jaxpr) -> bool:
        """True if any equation of the program, at any depth, is of the kind."""
        if jaxpr not in self._known:
            self._known[jaxpr] = any(map(self, jaxpr.eqns))
        return self._known[jaxpr]


# Whether an equation, or any inside it, is a broadcast or a sum.
communicates = Inside(lambda equation: equation.primitive in COMMUNICATION, every_body)


def any_inside(jaxpr: Jaxpr, is_one: Callable[[JaxprEqn], bool]) -> bool:
    """True if any equation of the program, at any depth, is of some kind."""
    return Inside(is_one).in_jaxpr(jaxpr)
