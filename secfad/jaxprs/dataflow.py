"""Dataflow: one forward pass through calls, branches and loops, for every analysis of programs.

An analysis says what it knows of a value, as elements of a lattice of finite height: what `bottom` is,
how two of them `join`, and what an equation makes of what is known of its operands, `transfer`. What
nests programs is done here. A call means its body; of a `cond` the branches are joined; the carries of a
loop are joined with what comes back until nothing changes. Who follows sets has whole numbers as
elements, whose bits are the members: `Marks`.

>>> import jax
>>> body = jax.make_jaxpr(lambda x, y: jax.lax.fori_loop(0, 9, lambda i, c: (c[1], c[0]), (x, y)))
>>> Marks().results(body(1.0, 2.0), [1, 2])
[3, 3]

A transfer may look at the variables of its equation, such as for their placements: every body has its
own. It is called again whenever more is known of the operands.

Source: Kildall (1973), "A unified approach to global program optimization".
"""

import functools
import operator
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from secfad.jaxprs.equations import Call, Cond, Message, Scan, Solve, While, view

Known = TypeVar("Known")


class Dataflow(Generic[Known]):
    """One analysis; remembers what it found of every body.

    Attributes:
      bottom: What is known of a constant, unless `constant` says otherwise; it joins to the other.
      strict: Whether an equation makes nothing but `bottom` of nothing but `bottom`.
    """

    bottom: Known
    strict = False

    def __init__(self) -> None:
        self._found: weakref.WeakKeyDictionary[Jaxpr, dict] = weakref.WeakKeyDictionary()

    def join(self, first: Known, second: Known) -> Known:
        """What holds of a value that may be either."""
        raise NotImplementedError

    def constant(self, value: object) -> Known:
        """What is known of a number in the program."""
        del value
        return self.bottom

    def transfer(self, equation: JaxprEqn, given: list[Known]) -> list[Known]:
        """What an equation without a body makes of its operands: by default, of all of them."""
        return [self.joined(given)] * len(equation.outvars)

    def message(self, equation: JaxprEqn, given: list[Known]) -> list[Known]:
        """What a broadcast or a sum makes of its operands: each is moved by itself."""
        del equation
        return given

    def call(self, call: Call, given: list[Known]) -> list[Known]:
        """What a call makes of its operands."""
        return self.results(call.body, given)

    def solve(self, solve: Solve, given: list[Known]) -> list[Known]:
        """What a linear solve makes of its operands."""
        return self.transfer(solve.equation, given)

    def decided(self, by: Known, results: list[Known]) -> list[Known]:
        """The results of a choice or a `while` loop, given what decides it."""
        return [self.join(by, result) for result in results]

    def joined(self, given: Iterable[Known]) -> Known:
        """What holds of a value that may be any of these."""
        return functools.reduce(self.join, given, self.bottom)

    def results(self, body: ClosedJaxpr | Jaxpr, given: Sequence[Known]) -> list[Known]:
        """What is known of the results of a program, given what is of its inputs."""
        jaxpr = body.jaxpr if isinstance(body, ClosedJaxpr) else body
        found = self._found.setdefault(jaxpr, {})
        key = tuple(given)
        if key not in found:
            env = self.variables(body, given)
            found[key] = [self._read(env, v) for v in jaxpr.outvars]
        return found[key]

    def variables(self, body: ClosedJaxpr | Jaxpr, given: Sequence[Known]) -> dict[Var, Known]:
        """What is known of every variable of a program; those of its bodies are not included."""
        jaxpr = body.jaxpr if isinstance(body, ClosedJaxpr) else body
        env: dict[Var, Known] = dict(zip(jaxpr.invars, given))
        if isinstance(body, ClosedJaxpr):
            env.update((v, self.constant(c)) for v, c in zip(jaxpr.constvars, body.consts))
        for equation in jaxpr.eqns:
            made = self.outputs(equation, [self._read(env, v) for v in equation.invars])
            env.update(zip(equation.outvars, made))
        return env

    def _read(self, env: dict[Var, Known], atom: Var | Literal) -> Known:
        if isinstance(atom, Literal):
            return self.constant(atom.val)
        return env.get(atom, self.bottom)

    def outputs(self, equation: JaxprEqn, given: list[Known]) -> list[Known]:
        """What is known of the results of an equation, given what is of its operands."""
        if self.strict and all(known == self.bottom for known in given):
            return [self.bottom] * len(equation.outvars)
        match view(equation):
            case Message():
                return self.message(equation, given)
            case Solve() as solve:
                return self.solve(solve, given)
            case Call() as call:
                return self.call(call, given)
            case Scan() as scan:
                entering = self.entering(scan, given)
                _, ys = scan.split_out(self.results(scan.body, entering))
                return [*scan.split(entering)[1], *ys]
            case While() as loop:
                entering = self.entering(loop, given)
                head, _, carry = loop.split(entering)
                return self.decided(self.results(loop.predicate, [*head, *carry])[0], carry)
            case Cond() as cond:
                by, operands = cond.split(given)
                rows = [self.results(branch, operands) for branch in cond.branches]
                return self.decided(by, [self.joined(column) for column in zip(*rows)])
        return self.transfer(equation, given)

    def entering(self, loop: Scan | While | Cond, given: Sequence[Known]) -> list[Known]:
        """What is known of the operands of a loop in any iteration, given what is of them before."""
        match loop:
            case Scan():
                consts, carry, xs = loop.split(given)
                step = lambda now: self.results(loop.body, [*consts, *now, *xs])
                return [*consts, *self._settled(step, carry), *xs]
            case While():
                head, consts, carry = loop.split(given)
                step = lambda now: self.results(loop.body, [*consts, *now])
                return [*head, *consts, *self._settled(step, carry)]
        return list(given)

    def _settled(
        self, iteration: Callable[[list[Known]], list[Known]], carry: list[Known]
    ) -> list[Known]:
        while True:
            later = [self.join(a, b) for a, b in zip(carry, iteration(carry))]
            if later == carry:
                return carry
            carry = later


class Marks(Dataflow[int]):
    """Which marks a value has: those of everything that it is computed from."""

    bottom = 0
    strict = True

    def join(self, first: int, second: int) -> int:
        """The marks of both."""
        return first | second

    def joined(self, given: Iterable[int]) -> int:
        """The marks of all."""
        return functools.reduce(operator.or_, given, 0)
