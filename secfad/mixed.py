"""Mixed mode: clients send Jacobians with their values, the server does the rest by itself.

A sum over clients of c(b), where b was broadcast, has the derivative sum over clients of dc/db. In
mixed mode every client computes its local Jacobian in tandem with its value and sends both in one
message; the server then differentiates a program of its own, in which each sum is a function of the
broadcast values with a known derivative. No round, no download and no second visit is added.

Only what is needed is sent: no Jacobian for a broadcast that does not depend on the differentiated
input, none for an operand that does not depend on the broadcast, and each block by reverse or
forward mode, whichever is smaller. Sums inside a `scan` are treated per iteration; if clients carry
differentiated state from one iteration to the next, the scan is unrolled.

Source: Rush, Charles, Garrett (JMLR 2024), section 3.3 and Table 3.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax import Jaxpr, JaxprEqn, Var
from secfad.activity import active_outputs, active_variables, is_differentiable, loop_carries
from secfad.blocks import Atom, Block, Branch, Broadcast, Local, Loop, Step, Sum, While
from secfad.calls import CUSTOM_RULES, WHILE, Communicates, bodies
from secfad.computations import Computation
from secfad.errors import ModeError
from secfad.inference import place
from secfad.interpreting import Interpreter, read
from secfad.normalization import normalise
from secfad.placements import CLIENTS
from secfad.primitives import broadcast_p, sum_p
from secfad.tracing import flat_placements
from secfad.unrolling import unroll

_jax.hide_file_from_tracebacks(__file__)

LARGE_JACOBIAN = 4_000_000


class LargeJacobianWarning(UserWarning):
    """A Jacobian block that every client would send is large; another mode is likely cheaper."""


def surrogate(computation: Computation, specs: tuple, argnums: Sequence[int]) -> Callable:
    """The computation as a function whose derivative at the server needs no further communication.

    Args:
      computation: What will be differentiated.
      specs: Shapes of its arguments, as the server or one client holds them.
      argnums: The arguments that will be differentiated.

    Raises:
      ModeError: The program communicates where mixed mode is not defined; names a mode that is.
    """
    source, out_tree = _jax.make_jaxpr(computation.fun, specs)
    _require_no_communicating_rules(computation.name, source.jaxpr, Communicates())
    placements, origins = flat_placements(computation, specs)
    normal = normalise(source, erase_rules=False, open_calls=True)
    active = [i in argnums for i, spec in enumerate(specs) for _ in jax.tree.leaves(spec)]
    while True:
        block = place(normal, placements, origins, keep_rules=True)
        crossing = _crossing_loop(computation.name, block, active)
        if crossing is None:
            break
        normal = normalise(unroll(normal, crossing), erase_rules=False, open_calls=True)

    def fun(*args: Any) -> Any:
        results = _Mixed(computation.name, active).run(block, jax.tree.leaves(args))
        return jax.tree.unflatten(out_tree, results)

    return fun


def _require_no_communicating_rules(name: str, jaxpr: Jaxpr, talks: Communicates) -> None:
    for equation in jaxpr.eqns:
        if equation.primitive in CUSTOM_RULES and talks(equation):
            raise ModeError(
                f"`{name}` has a custom derivative rule around communication "
                f"({_jax.user_line(equation)}); mixed mode would pass it by. Use mode='reverse'."
            )
        for body in bodies(equation):
            _require_no_communicating_rules(name, body, talks)


def _crossing_loop(name: str, block: Block, flags: Sequence[bool]) -> JaxprEqn | None:
    """A scan through which differentiated client values pass; it must be unrolled."""
    active = active_variables(block, flags)
    for step in block.steps:
        inputs = [isinstance(v, Var) and v in active for v in step.inputs]
        at_clients = [block.placement(v) is CLIENTS for v in (*step.inputs, *step.outputs)]
        crosses = any(a and c for a, c in zip([*inputs, *active_outputs(step, inputs)], at_clients))
        if isinstance(step, While) and any(inputs):
            raise ModeError(
                f"`{name}` communicates under a data-dependent loop "
                f"({_jax.user_line(step.equation)}); its Jacobians have no fixed number. "
                "Use mode='forward'."
            )
        if isinstance(step, Branch) and crosses:
            raise ModeError(
                f"`{name}` passes differentiated client values through a branch "
                f"({_jax.user_line(step.equation)}). Use mode='reverse'."
            )
        if isinstance(step, Loop) and crosses:
            return step.equation
        if isinstance(step, Loop) and any(inputs):
            split = step.constants + step.carries
            carries = loop_carries(step, inputs)
            inner = [*inputs[: step.constants], *carries, *inputs[split:]]
            if _crossing_loop(name, step.body, inner) is not None:
                return step.equation
    return None


class _Mixed(Interpreter):
    """Evaluates blocks with every active sum replaced by `_summed`."""

    def __init__(self, name: str, active_inputs: Sequence[bool]):
        self.name = name
        self.flags = active_inputs

    def steps(self, block: Block, env: dict[Var, Any]) -> None:
        active = active_variables(block, self.flags)
        slicer = _Slicer(block, active)
        for step in block.steps:
            if isinstance(step, Sum) and any(_member(v, active) for v in step.inputs):
                env.update(zip(step.outputs, self._summed(step, block, slicer, env)))
            elif not slicer.skips(step):
                inner = [_member(v, active) for v in step.inputs]
                _Mixed(self.name, inner).step(step, block, env)
        for result in block.results:
            if _member(result, active) and block.placement(result) is CLIENTS:
                raise ModeError(
                    f"`{self.name}` returns a client value that depends on the differentiated "
                    "argument; mixed mode has no derivative for it. Use mode='reverse'."
                )

    def loop(self, step: Loop, values: Sequence[Any]) -> list[Any]:
        split = step.constants + step.carries
        carries = loop_carries(step, self.flags)
        inner = [*self.flags[: step.constants], *carries, *self.flags[split:]]
        return Interpreter.loop(_Mixed(self.name, inner), step, values)

    def while_loop(self, step: While, values: Sequence[Any]) -> list[Any]:
        return Interpreter().while_loop(step, values)

    def branch(self, step: Branch, values: Sequence[Any]) -> list[Any]:
        return Interpreter.branch(_Mixed(self.name, self.flags[1:]), step, values)

    def _summed(self, step: Sum, block: Block, slicer: "_Slicer", env: dict[Var, Any]) -> list[Any]:
        local = slicer.slice(step)
        sources = [read(env, v) for v in local.sources]
        constants = [read(env, v) for v in local.constants]
        return _sum_with_jacobians(self.name, local, step.name)(sources, constants)


def _member(atom: Atom, variables: set[Var]) -> bool:
    return isinstance(atom, Var) and atom in variables


@dataclasses.dataclass(frozen=True, eq=False)
class _Slice:
    """The client code between some broadcasts and one sum.

    Attributes:
      jaxpr: From the broadcast values and the constants to the operands of the sum.
      sources: What the server broadcasts, as server variables.
      names: Of the broadcasts, one per source.
      constants: Other values that the code reads: client data, inactive values.
      depends: For every operand, which sources it depends on.
    """

    jaxpr: Jaxpr
    sources: list[Atom]
    names: list[str]
    constants: list[Var]
    depends: list[list[bool]]

    def contains(self, primitives: frozenset) -> bool:
        """True if the client code has an equation of these primitives, at any depth."""
        return _contains(self.jaxpr, primitives)


def _contains(jaxpr: Jaxpr, primitives: frozenset) -> bool:
    return any(
        e.primitive in primitives or any(_contains(b, primitives) for b in bodies(e))
        for e in jaxpr.eqns
    )


class _Slicer:
    """Finds, for a sum, the client code that depends on active broadcasts."""

    def __init__(self, block: Block, active: set[Var]):
        self.block = block
        self.sender: dict[Var, tuple[str, Atom]] = {}
        self.maker: dict[Var, Local] = {}
        self.order: dict[int, int] = {}
        for index, step in enumerate(block.steps):
            self.order[id(step)] = index
            if isinstance(step, Broadcast):
                for source, target in zip(step.inputs, step.outputs):
                    if target in active:
                        self.sender[target] = (step.name, source)
            elif (
                isinstance(step, Local)
                and step.placement is CLIENTS
                and any(_member(v, active) for v in step.outputs)
            ):
                self.maker.update(dict.fromkeys(step.outputs, step))

    def skips(self, step: Step) -> bool:
        """True for client code that is only evaluated inside slices."""
        return isinstance(step, Local) and any(v in self.maker for v in step.outputs)

    def slice(self, step: Sum) -> _Slice:
        steps: dict[int, Local] = {}
        roots: dict[Var, None] = {}
        stack = [v for v in step.inputs if isinstance(v, Var)]
        while stack:
            variable = stack.pop()
            if variable in self.sender:
                roots[variable] = None
            elif variable in self.maker and id(self.maker[variable]) not in steps:
                steps[id(self.maker[variable])] = self.maker[variable]
                stack += [v for v in self.maker[variable].inputs if isinstance(v, Var)]
        ordered = sorted(steps.values(), key=lambda s: self.order[id(s)])
        defined = {v for s in ordered for v in s.outputs} | set(roots)
        reads = [v for s in ordered for v in s.inputs] + list(step.inputs)
        constants = dict.fromkeys(v for v in reads if isinstance(v, Var) and v not in defined)
        equations = [s.equation for s in ordered]
        jaxpr = _jax.new_jaxpr([*roots, *constants], list(step.inputs), equations)
        names, sources = zip(*(self.sender[v] for v in roots))
        return _Slice(
            jaxpr, list(sources), list(names), list(constants), _dependence(jaxpr, list(roots))
        )


def _dependence(jaxpr: Jaxpr, roots: list[Var]) -> list[list[bool]]:
    reach: dict[Var, frozenset[int]] = {v: frozenset({i}) for i, v in enumerate(roots)}
    for equation in jaxpr.eqns:
        union = frozenset().union(
            *(reach.get(v, ()) for v in equation.invars if isinstance(v, Var))
        )
        reach.update(dict.fromkeys(equation.outvars, union))
    return [
        [
            isinstance(v, Var) and is_differentiable(v) and i in reach.get(v, ())
            for i in range(len(roots))
        ]
        for v in jaxpr.outvars
    ]


def _sum_with_jacobians(name: str, local: _Slice, message: str) -> Callable:
    """The sum as a function of what was broadcast, with its derivative from the same message."""

    def received(sources):
        return [broadcast_p.bind(s, name=n)[0] for s, n in zip(sources, local.names)]

    @jax.custom_jvp
    def summed(sources, constants):
        operands = _jax.eval_jaxpr(local.jaxpr, (), *received(sources), *constants)
        return sum_p.bind(*operands, name=message)

    @summed.defjvp
    def derivative(primals, tangents):
        sources, constants = primals
        wires = received(sources)
        operands = _jax.eval_jaxpr(local.jaxpr, (), *wires, *constants)
        blocks = _jacobians(name, local, wires, constants, message)
        totals = sum_p.bind(*operands, *(block for _, _, block in blocks), name=message)
        values, jacobians = totals[: len(operands)], totals[len(operands) :]
        moved = [_zero_tangent(v) for v in values]
        for (row, column, _), jacobian in zip(blocks, jacobians):
            tangent = tangents[0][column]
            moved[row] += jnp.tensordot(
                jacobian, tangent, axes=tangent.ndim, precision=jax.lax.Precision.HIGHEST
            )
        return values, moved

    return summed


def _zero_tangent(value: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return jnp.zeros_like(value)
    return np.zeros(jnp.shape(value), jax.dtypes.float0)


def _jacobians(
    name: str, local: _Slice, wires: list, constants: list, message: str
) -> list[tuple[int, int, Any]]:
    """Every non-zero block (operand, source, Jacobian), each in the cheaper direction."""
    one_way = _only_direction(name, local)
    blocks = []
    for row, needs in enumerate(local.depends):
        columns = [i for i, need in enumerate(needs) if need]
        if not columns:
            continue
        out = local.jaxpr.outvars[row].aval
        inputs = sum(math.prod(wires[i].shape) for i in columns)
        _warn_if_large(name, message, math.prod(out.shape), inputs)

        def operand(*chosen, row=row, columns=columns):
            full = list(wires)
            for i, value in zip(columns, chosen):
                full[i] = value
            return _jax.eval_jaxpr(local.jaxpr, (), *full, *constants)[row]

        reverse = one_way == "reverse" or (not one_way and math.prod(out.shape) <= inputs)
        jacobian = (jax.jacrev if reverse else jax.jacfwd)(
            operand, argnums=tuple(range(len(columns)))
        )
        for column, block in zip(columns, jacobian(*(wires[i] for i in columns))):
            blocks.append((row, column, block))
    return blocks


def _only_direction(name: str, local: _Slice) -> str:
    no_forward = local.contains(frozenset({_jax.jax_primitives.custom_vjp_call_p}))
    no_reverse = local.contains(frozenset({WHILE}))
    if no_forward and no_reverse:
        raise ModeError(
            f"`{name}` has both a custom_vjp and a while loop in one client stage: JAX has no "
            "derivative of it in either direction. Give the custom rule as a custom_jvp."
        )
    return "reverse" if no_forward else "forward" if no_reverse else ""


def _warn_if_large(name: str, message: str, rows: int, columns: int) -> None:
    if rows * columns > LARGE_JACOBIAN:
        warnings.warn(
            f"Mixed mode of `{name}`: every client sends a Jacobian of {rows} x {columns} = "
            f"{rows * columns:,} numbers with the sum {message!r}. Reverse mode sends {columns:,}; "
            "see secfad.plan.",
            LargeJacobianWarning,
            stacklevel=2,
        )
