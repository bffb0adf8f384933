"""Rewriting: builds a program from the equations of others.

A `Rewriter` reads equations in order and emits new ones. Every result that it copies is a new
variable, so a body may be read twice, and `env` says what each variable that was read is now. A pass
overrides `equation`, which decides what becomes of one equation.

>>> import jax
>>> from secfad.jaxprs.equations import Call, view
>>> body = jax.make_jaxpr(jax.jit(lambda x: 2 * x))(1.0)
>>> class Opened(Rewriter):
...     def equation(self, equation):
...         match view(equation):
...             case Call(body=body, operands=operands):
...                 self.define(equation, self.inline(body, self.now(operands)))
...             case _:
...                 self.copy(equation)
>>> [e.primitive.name for e in Opened().rewritten(body).jaxpr.eqns]
['mul']
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from secfad.jaxprs.equations import Atom
from secfad.jaxprs.inside import variables, with_programs


class Rewriter:
    """Emits equations; copies those that it reads, unless a subclass does something else.

    Attributes:
      equations: Those emitted so far.
      env: What variables that were read stand for.
      constants: Values of the emitted program's own variables.
    """

    def __init__(self) -> None:
        self.equations: list[JaxprEqn] = []
        self.env: dict[Var, Atom] = {}
        self.constants: dict[Var, Any] = {}

    def rewritten(self, closed: ClosedJaxpr) -> ClosedJaxpr:
        """The program, rewritten; its inputs stay the same variables."""
        self.constants.update(zip(closed.jaxpr.constvars, closed.consts))
        self.read(closed.jaxpr)
        return self.program(closed.jaxpr.invars, closed.jaxpr.outvars)

    def program(self, invars: Sequence[Var], outvars: Sequence[Atom]) -> ClosedJaxpr:
        """What was emitted, as a program with these inputs and results."""
        jaxpr = _jax.new_jaxpr(invars, self.now(outvars), self.equations, list(self.constants))
        return ClosedJaxpr(jaxpr, list(self.constants.values()))

    def now(self, atoms: Iterable[Atom]) -> list[Atom]:
        """What atoms that were read stand for."""
        return [self.env.get(v, v) if isinstance(v, Var) else v for v in atoms]

    def read(self, jaxpr: Jaxpr, caller: JaxprEqn | None = None) -> None:
        """Rewrites the equations of a program in order; those without a line get the caller's."""
        for equation in jaxpr.eqns:
            self.equation(_jax.with_line(equation, caller) if caller else equation)

    def equation(self, equation: JaxprEqn) -> None:
        """Rewrites one equation, whose operands are those that were read."""
        self.copy(equation)

    def copy(self, equation: JaxprEqn) -> None:
        """Emits an equation with its operands as they are now and with new results."""
        outvars = [Var(v.aval) for v in equation.outvars]
        self.equations.append(equation.replace(invars=self.now(equation.invars), outvars=outvars))
        self.env.update(zip(equation.outvars, outvars))

    def inside(self, equation: JaxprEqn, rewriter: "Callable[[], Rewriter]") -> None:
        """Copies an equation, each program inside rewritten by a rewriter of its own."""

        def changed(body: ClosedJaxpr | Jaxpr) -> ClosedJaxpr | Jaxpr:
            if isinstance(body, ClosedJaxpr):
                return rewriter().rewritten(body)
            return rewriter().rewritten(ClosedJaxpr(body, ())).jaxpr

        self.copy(with_programs(equation, changed))

    def define(self, equation: JaxprEqn, results: Iterable[Atom]) -> None:
        """Lets the results of an equation stand for these atoms."""
        self.env.update(zip(equation.outvars, results))

    def inline(
        self, body: ClosedJaxpr, inputs: Iterable[Atom], caller: JaxprEqn | None = None
    ) -> list[Atom]:
        """Rewrites the equations of a body here and returns its results.

        Inputs are atoms of the emitted program. Equations without a line, such as those of JAX's own
        functions, get that of the caller.
        """
        # A body may have variables of the program around it, with another meaning.
        outer, self.env = self.env, dict(zip(body.jaxpr.invars, inputs))
        for variable, value in zip(body.jaxpr.constvars, body.consts):
            own = self.env[variable] = Var(variable.aval)
            self.constants[own] = value
        self.read(body.jaxpr, caller)
        results = self.now(body.jaxpr.outvars)
        self.env = outer
        return results

    def call(self, fun: Callable, *atoms: Atom) -> list[Atom]:
        """Emits what a function of these atoms of the emitted program computes; returns its results."""
        body = _jax.make_jaxpr(fun, [_jax.spec(v.aval) for v in atoms])[0]
        fresh = renamed(body, atoms)
        self.equations += fresh.jaxpr.eqns
        self.constants.update(zip(fresh.jaxpr.constvars, fresh.consts))
        return list(fresh.jaxpr.outvars)


def renamed(
    body: ClosedJaxpr, inputs: Sequence[Atom] | None = None, caller: JaxprEqn | None = None
) -> ClosedJaxpr:
    """The program with new variables, so that a body that is used twice is two programs.

    It may read other inputs; equations without a line get that of the caller.
    """
    arguments = [Var(v.aval) for v in body.jaxpr.invars] if inputs is None else inputs
    fresh = Rewriter()
    results = fresh.inline(body, arguments, caller)
    return fresh.program(list(variables(arguments)), results)
