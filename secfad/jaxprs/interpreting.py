"""`Interpreter`: evaluates a block step by step with JAX, so that a subclass can change a step.

Under a trace this rebuilds the program; what a subclass overrides is a program transformation, such
as mixed mode (each sum also sends Jacobians) or privatisation (a clip before each sum). Loops and
branches are rebuilt as `jax.lax` control flow, with the same interpreter inside.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from secfad import _jax
from secfad._jax import Literal, Var
from secfad.primitives import broadcast_p, sum_p
from secfad.programs.blocks import (
    Atom,
    Block,
    Branch,
    Broadcast,
    Local,
    Loop,
    Step,
    Structured,
    Sum,
    While,
)


class Interpreter:
    """Evaluates blocks as they are."""

    def run(self, block: Block, values: Sequence[Any]) -> list[Any]:
        """Results of a block for the values of its inputs."""
        env: dict[Var, Any] = dict(block.constants)
        env.update(zip(block.inputs, values))
        self.steps(block, env)
        return [read(env, v) for v in block.results]

    def steps(self, block: Block, env: dict[Var, Any]) -> None:
        """Evaluates the steps of a block in order."""
        for step in block.steps:
            self.step(step, block, env)

    def step(self, step: Step, block: Block, env: dict[Var, Any]) -> None:
        """Evaluates one step and writes its outputs."""
        values = [read(env, v) for v in step.inputs]
        match step:
            case Local():
                results = _jax.evaluate(step.equation, values)
            case Broadcast():
                with _jax.at_line(step.equation):
                    results = broadcast_p.bind(*values, name=step.name)
            case Sum():
                with _jax.at_line(step.equation):
                    results = sum_p.bind(*values, name=step.name)
            case Loop() | While() | Branch():
                with _jax.at_line(step.equation):
                    results = self._structured(step, values)
        env.update(zip(step.outputs, results))

    def _structured(self, step: Structured, values: Sequence[Any]) -> list[Any]:
        match step:
            case Loop():
                return self.loop(step, values)
            case While():
                return self.while_loop(step, values)
            case Branch():
                return self.branch(step, values)

    def loop(self, step: Loop, values: Sequence[Any]) -> list[Any]:
        """Rebuilds a scan."""
        split = step.constants + step.carries
        constants = values[: step.constants]

        def body(carry, slices):
            out = self.run(step.body, [*constants, *carry, *slices])
            return out[: step.carries], out[step.carries :]

        carry, collected = jax.lax.scan(
            body,
            list(values[step.constants : split]),
            list(values[split:]),
            length=step.length,
            reverse=step.reverse,
        )
        return [*carry, *collected]

    def while_loop(self, step: While, values: Sequence[Any]) -> list[Any]:
        """Rebuilds a while loop."""
        first, second = step.predicate_constants, step.body_constants
        head, constants = values[:first], values[first : first + second]
        return jax.lax.while_loop(
            lambda carry: self.run(step.predicate, [*head, *carry])[0],
            lambda carry: self.run(step.body, [*constants, *carry]),
            list(values[first + second :]),
        )

    def branch(self, step: Branch, values: Sequence[Any]) -> list[Any]:
        """Rebuilds a switch."""
        branches = [lambda *args, b=b: self.run(b, args) for b in step.branches]
        return jax.lax.switch(values[0], branches, *values[1:])


def read(env: Mapping[Var, Any], atom: Atom) -> Any:
    """The value of a variable or literal."""
    return atom.val if isinstance(atom, Literal) else env[atom]
