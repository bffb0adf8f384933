"""Unrolling: loops through which clients carry differentiated values, written out.

Mixed mode must see from each sum back to the broadcasts that it depends on. A client value that a
loop carries from one iteration to the next hides them, so the loop becomes its iterations, one after
the other; any other loop stays as it is. Bounded: a long loop is refused instead of making an
endless program. Choices that client values leave are rewritten too (`secfad.derivatives.hoisting`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp

from secfad import _jax
from secfad._jax import Literal, Var
from secfad.derivatives.hoisting import hoisted
from secfad.errors import ModeError
from secfad.jaxprs.activity import active_outputs, active_variables, loop_carries
from secfad.placements import CLIENTS, Placement
from secfad.programs.blocks import Atom, Block, Branch, Local, Loop, Step, While

MOST_ITERATIONS = 64


def without_client_carries(name: str, block: Block, active_inputs: Sequence[int]) -> Block:
    """The block, with every loop written out in which clients carry active values.

    Args:
      name: What errors call the computation.
      block: A placed program.
      active_inputs: Which of its inputs will be differentiated.

    Raises:
      ModeError: A loop is too long, or control flow hides differentiated client values.
    """
    writer = _Writer(name, block)
    env: dict[Var, Atom] = {v: v for v in (*block.inputs, *block.constants)}
    writer.write(block, active_inputs, env)
    results = tuple(_now(env, v) for v in block.results)
    return Block(block.inputs, results, tuple(writer.steps), writer.placements, writer.constants)


class _Writer:
    """Copies steps into one block, under new variables."""

    def __init__(self, name: str, block: Block):
        self.name = name
        self.steps: list[Step] = []
        self.placements: dict[Var, Placement | None] = {
            v: block.placements[v] for v in block.inputs
        }
        self.constants = dict(block.constants)
        self.placements.update(dict.fromkeys(self.constants))

    def write(self, block: Block, flags: Sequence[int], env: dict[Var, Atom]) -> None:
        active = active_variables(block, flags)
        for step in block.steps:
            inside = [isinstance(v, Var) and v in active for v in step.inputs]
            if isinstance(step, Loop) and _carries_clients(step, inside):
                self._iterate(step, inside, env)
            elif isinstance(step, Branch) and _chooses_clients(step, block, inside):
                self._hoist(self._prepared(step, inside), block, env)
            else:
                self._copy(self._prepared(step, inside), block.placements, env)

    def _prepared(self, step: Step, inside: Sequence[bool]) -> Step:
        """A step with its bodies written out; refuses what mixed mode cannot see through."""
        match step:
            case Loop():
                flags = _body_flags(step, inside)
                body = without_client_carries(self.name, step.body, flags)
                return dataclasses.replace(step, body=body)
            case While() if any(inside):
                raise ModeError(
                    f"`{self.name}` communicates under a data-dependent loop "
                    f"({_jax.user_line(step.equation)}); its Jacobians have no fixed number. "
                    "Use mode='forward', or mode='reverse' if it is a linear solver's."
                )
            case Branch():
                bodies = [without_client_carries(self.name, b, inside[1:]) for b in step.branches]
                return dataclasses.replace(step, branches=tuple(bodies))
        return step

    def _hoist(self, step: Step, block: Block, env: dict[Var, Atom]) -> None:
        assert isinstance(step, Branch)
        made = hoisted(step, block.placements)
        for variable, value in made.constants.items():
            captured = self._new(variable, None)
            env[variable] = captured
            self.constants[captured] = value
        for part in made.steps:
            self._copy(part, made.placements, env)
        env.update((v, _now(env, atom)) for v, atom in made.aliases.items())

    def _copy(
        self, step: Step, placements: Mapping[Var, Placement | None], env: dict[Var, Atom]
    ) -> None:
        inputs = tuple(_now(env, v) for v in step.inputs)
        outputs = tuple(self._new(v, placements[v]) for v in step.outputs)
        env.update(zip(step.outputs, outputs))
        if isinstance(step, Local):
            equation = step.equation.replace(invars=list(inputs), outvars=list(outputs))
            self.steps.append(Local(equation, step.placement))
        else:
            self.steps.append(dataclasses.replace(step, inputs=inputs, outputs=outputs))

    def _new(self, like: Atom, placement: Placement | None) -> Var:
        variable = Var(like.aval)
        self.placements[variable] = placement
        return variable

    def _iterate(self, step: Loop, inside: Sequence[bool], env: dict[Var, Atom]) -> None:
        self._require_short(step)
        body, flags = step.body, _body_flags(step, inside)
        split = step.constants + step.carries
        values = [_now(env, v) for v in step.inputs]
        carry, rows = values[step.constants : split], []
        places = [body.placements[v] for v in body.inputs]
        for index in range(step.length)[:: -1 if step.reverse else 1]:
            slices = [
                self._local(lambda x, i=index: x[i], [value], place)
                for value, place in zip(values[split:], places[split:])
            ]
            inner = dict(zip(body.inputs, [*values[: step.constants], *carry, *slices]))
            for variable, value in body.constants.items():
                captured = self._new(variable, None)
                inner[variable] = captured
                self.constants[captured] = value
            self.write(body, flags, inner)
            out = [_now(inner, v) for v in body.results]
            carry = out[: step.carries]
            rows.append(out[step.carries :])
        env.update(zip(step.outputs, carry))
        rows = rows[:: -1 if step.reverse else 1]
        for variable, result, *column in zip(
            step.outputs[step.carries :], body.results[step.carries :], *rows
        ):
            place = body.placement(result)
            env[variable] = self._local(lambda *xs: jnp.stack(xs), column, place)

    def _require_short(self, step: Loop) -> None:
        if step.length > MOST_ITERATIONS:
            raise ModeError(
                f"Mixed mode of `{self.name}` expected at most {MOST_ITERATIONS} iterations of a scan "
                f"in which clients carry differentiated values, got {step.length} "
                f"({_jax.user_line(step.equation)}). Use mode='reverse' or mode='forward'."
            )

    def _local(self, fun: Callable, inputs: Sequence[Atom], placement: Placement | None) -> Atom:
        """Adds the steps of a function of these values, all at one place."""
        specs = [_jax.spec(v.aval) for v in inputs]
        closed = _jax.make_jaxpr(fun, specs)[0]
        env = dict(zip(closed.jaxpr.invars, inputs))
        for equation in closed.jaxpr.eqns:
            places = dict.fromkeys(equation.outvars, placement)
            self._copy(Local(equation, placement), places, env)
        return _now(env, closed.jaxpr.outvars[0])


def _carries_clients(step: Loop, inside: Sequence[bool]) -> bool:
    """True if an active client value enters by a carry or a sequence, or leaves."""
    flags = _body_flags(step, inside)
    entering = list(zip(step.body.inputs, flags))[step.constants :]
    active = active_variables(step.body, flags)
    leaving = [(v, isinstance(v, Var) and v in active) for v in step.body.results]
    return any(a and step.body.placement(v) is CLIENTS for v, a in (*entering, *leaving))


def _chooses_clients(step: Branch, block: Block, inside: Sequence[bool]) -> bool:
    """True if an active client value leaves a choice by the server."""
    leaving = zip(step.outputs, active_outputs(step, inside))
    return any(a and block.placements[v] is CLIENTS for v, a in leaving)


def _body_flags(step: Loop, inside: Sequence[bool]) -> list[int]:
    split = step.constants + step.carries
    carries = loop_carries(step, inside)
    return [*inside[: step.constants], *carries, *inside[split:]]


def _now(env: Mapping[Var, Atom], atom: Atom) -> Atom:
    return atom if isinstance(atom, Literal) else env.get(atom, atom)
