"""Evaluation: runs a program equation by equation with JAX, so that a subclass can change one.

Under a trace this rebuilds the program; what a subclass overrides is a program transformation. It says
what becomes of one equation, `equation`, and which equations are looked into, `enters`: by default
those that communicate inside. Loops and branches are rebuilt as `jax.lax` control flow with the same
evaluator inside; calls are replaced by their bodies; everything else is evaluated as it is, derivative
rules included.

>>> import jax, jax.numpy as jnp
>>> class Doubled(Evaluator):
...     def equation(self, equation, values):
...         results = super().equation(equation, values)
...         return [2 * r for r in results] if equation.primitive.name == "sin" else results
...     def enters(self, equation):
...         return True
>>> float(Doubled().run(jax.make_jaxpr(jax.jit(lambda x: jnp.sin(x) + x))(0.0), [0.5])[0])
1.4588510990142822
"""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from secfad.jaxprs.equations import Atom, Call, Cond, Scan, While, view
from secfad.jaxprs.inside import communicates


class Evaluator:
    """Evaluates programs as they are."""

    def run(self, body: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
        """Results of a program for the values of its inputs."""
        # Rules may index what a program captured, which NumPy arrays refuse tracers for.
        consts = [jnp.asarray(c) if isinstance(c, np.ndarray) else c for c in body.consts]
        env: dict[Var, Any] = dict(zip(body.jaxpr.constvars, consts))
        env.update(zip(body.jaxpr.invars, values))
        self.equations(body.jaxpr, env)
        return [read(env, v) for v in body.jaxpr.outvars]

    def equations(self, jaxpr: Jaxpr, env: MutableMapping[Var, Any]) -> None:
        """Evaluates the equations of a program in order and writes their results."""
        for equation in jaxpr.eqns:
            results = self.equation(equation, [read(env, v) for v in equation.invars])
            env.update(zip(equation.outvars, results))

    def enters(self, equation: JaxprEqn) -> bool:
        """Whether the programs of an equation are evaluated by this evaluator too."""
        return communicates(equation)

    def equation(self, equation: JaxprEqn, values: list[Any]) -> list[Any]:
        """The results of one equation for the values of its operands."""
        made = view(equation)
        if isinstance(made, Call | Scan | While | Cond) and self.enters(equation):
            with _jax.at_line(equation):
                return self.rebuilt(made, values)
        return _jax.evaluate(equation, values)

    def rebuilt(self, made: Call | Scan | While | Cond, values: Sequence[Any]) -> list[Any]:
        """The results of an equation whose programs this evaluator evaluates."""
        match made:
            case Scan():
                return self.scan(made, values)
            case While():
                return self.while_loop(made, values)
            case Cond():
                return self.cond(made, values)
        return self.run(made.body, made.split(values))

    def scan(self, loop: Scan, values: Sequence[Any]) -> list[Any]:
        """Rebuilds a loop of known length."""
        consts, start, xs = loop.split(values)
        body = lambda carry, row: loop.split_out(self.run(loop.body, [*consts, *carry, *row]))
        carry, ys = jax.lax.scan(body, start, xs, **loop.options)
        return [*carry, *ys]

    def while_loop(self, loop: While, values: Sequence[Any]) -> list[Any]:
        """Rebuilds a loop that a predicate ends."""
        head, consts, start = loop.split(values)
        return jax.lax.while_loop(
            lambda carry: self.run(loop.predicate, [*head, *carry])[0],
            lambda carry: self.run(loop.body, [*consts, *carry]),
            start,
        )

    def cond(self, cond: Cond, values: Sequence[Any]) -> list[Any]:
        """Rebuilds a choice."""
        index, operands = cond.split(values)
        branches = [lambda *args, b=b: self.run(b, args) for b in cond.branches]
        return jax.lax.switch(index, branches, *operands)


def read(env: Mapping[Var, Any], atom: Atom) -> Any:
    """The value of a variable or literal."""
    return atom.val if isinstance(atom, Literal) else env[atom]
