"""Mixed mode: clients send Jacobians with their values, the server does the rest by itself.

A sum over clients of c(b), where b was broadcast, has the derivative sum over clients of dc/db. In
mixed mode every client computes its local Jacobian in tandem with its value and sends both in one
message; the server then differentiates a program of its own, in which each sum is a function of the
broadcast values with a known derivative. No round, no second visit and no download is added.

Only what is needed is sent: no Jacobian for a broadcast that does not depend on the differentiated
input, none for an operand that does not depend on the broadcast, and each block by reverse or
forward mode, whichever is smaller. Sums inside a `scan` are treated per iteration; a scan through
which clients carry differentiated state is refused.

Source: Rush, Charles, Garrett (JMLR 2024), section 3.3 and Table 3.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

from secfad import _jax
from secfad._jax import Jaxpr, Var
from secfad._jax_interpreters import dce
from secfad.derivatives.jacobians import sum_with_jacobians
from secfad.derivatives.slicing import Slice, Slicer
from secfad.errors import ModeError
from secfad.jaxprs.dependence import ACTIVITY
from secfad.jaxprs.equations import CUSTOM_RULES, Broadcast, Scan, Sum, View, While
from secfad.jaxprs.evaluation import Evaluator, read
from secfad.jaxprs.inside import communicates, every_equation, is_in
from secfad.placements import CLIENTS
from secfad.programs.placed import Placed
from secfad.programs.programs import Program
from secfad.programs.tracing import with_rules


def surrogate(
    program: Program,
    argnums: Sequence[int],
    summing: Callable[[str, Slice, Sum], Callable] = sum_with_jacobians,
    has_aux: bool = False,
) -> Callable:
    """The program as a function whose derivative at the server needs no further communication.

    Args:
      program: What will be differentiated.
      argnums: The arguments that will be differentiated.
      summing: What becomes of an active sum, given its slice; by default one that brings its Jacobian.
      has_aux: Whether only the first of two results will be differentiated.

    Raises:
      ModeError: The program communicates where mixed mode is not defined; names a mode that is.
    """
    name, out_tree = program.name, program.out_tree
    _require_no_communicating_rules(name, program.source.jaxpr)
    placed = with_rules(program, open_calls=True)
    trees = enumerate(program.in_tree.children())
    active = [i in argnums for i, tree in trees for _ in range(tree.num_leaves)]
    slicer = Slicer(placed, _active(placed, active), name)
    wanted = None
    if has_aux and out_tree.children():
        first = out_tree.children()[0].num_leaves
        needed = dce(placed.jaxpr, [i < first for i in range(len(placed.results))])
        wanted = {v for equation, _ in every_equation(needed) for v in equation.outvars}

    def fun(*args: Any) -> Any:
        mixed = _Mixed(slicer, placed, summing, wanted)
        return jax.tree.unflatten(out_tree, mixed.run(placed.closed, jax.tree.leaves(args)))

    return fun


def _require_no_communicating_rules(name: str, jaxpr: Jaxpr) -> None:
    for equation, _ in every_equation(jaxpr):
        if equation.primitive in CUSTOM_RULES and communicates(equation):
            # A rule that goes forward need not go backward, such as that of a root found by iterations.
            goes_back = equation.primitive is _jax.jax_primitives.custom_vjp_call_p
            raise ModeError(
                f"`{name}` has a custom derivative rule around communication "
                f"({_jax.user_line(equation)}); mixed mode would pass it by. Use mode="
                f"{'reverse' if goes_back else 'forward'!r}."
            )


class _Mixed(Evaluator):
    """Evaluates a program with every active sum replaced by one that brings its own derivative.

    Client values carry no derivative here: what of them matters to a sum is in its slice.
    """

    def __init__(
        self,
        slicer: Slicer,
        placed: Placed,
        summing: Callable[[str, Slice, Sum], Callable],
        wanted: set[Var] | None,
        around: Mapping[Var, Any] = MappingProxyType({}),
    ):
        """Makes an evaluator of one program, given the values of those `around` it.

        `wanted` is what leads to a result that is differentiated; None if everything may.
        """
        self.slicer = slicer
        self.placed = placed
        self.summing = summing
        self.wanted = wanted
        self.around = around
        self.name, self.active = slicer.name, slicer.active

    def equations(self, jaxpr: Jaxpr, env: MutableMapping[Var, Any]) -> None:
        """Evaluates the equations of the program."""
        active, placed = self.active, self.placed
        assert jaxpr is placed.jaxpr
        # Values of the programs around are in reach: a slice may begin there.
        scope = ChainMap(env, self.around)  # type: ignore[arg-type]
        for step in placed.steps:
            inside = [is_in(v, active) for v in step.inputs]
            if isinstance(step, Sum) and any(inside):
                results = self._summed(step, scope)
            else:
                values = [read(env, v) for v in step.inputs]
                results = self._inner(step, inside, scope).equation(step.equation, values)
            if isinstance(step, Broadcast):
                # Those that are not active may be what a derivative of this derivative is for.
                received = zip(step.outputs, results)
                results = [jax.lax.stop_gradient(x) if v in active else x for v, x in received]
            env.update(zip(step.outputs, results))
        for result in placed.results:
            if is_in(result, active) and placed.placement(result) is CLIENTS:
                raise ModeError(
                    f"`{self.name}` returns a client value that depends on the differentiated "
                    "argument; mixed mode has no derivative for it. Use mode='forward'."
                )

    def _inner(self, step: View, inside: Sequence[int], scope: Mapping[Var, Any]) -> Evaluator:
        """The evaluator of a step, and so of its bodies."""
        if not self.placed.is_driven(step) or not isinstance(step, Scan | While):
            return Evaluator()
        if isinstance(step, While):
            if any(inside):
                raise ModeError(
                    f"`{self.name}` communicates under a data-dependent loop ({step.line}); "
                    "its Jacobians have no fixed number. "
                    "Use mode='forward', or mode='reverse' if it is a linear solver's."
                )
            return Evaluator()
        body = self.placed.inside(step.body)
        self._require_no_client_state(step, body)
        return _Mixed(self.slicer, body, self.summing, self.wanted, scope)

    def _require_no_client_state(self, step: Scan, body: Placed) -> None:
        """Refuses a loop into or out of which a differentiated client value goes by iterations."""
        moving = (*body.inputs[len(step.consts) :], *body.results)
        if any(is_in(v, self.active) and body.placement(v) is CLIENTS for v in moving):
            raise ModeError(
                f"`{self.name}` has a loop through which clients carry a value that depends on the "
                f"differentiated argument ({step.line}); mixed mode has no derivative "
                "for it. Use mode='reverse' or mode='forward'."
            )

    def _summed(self, step: Sum, scope: Mapping[Var, Any]) -> list[Any]:
        local = self.slicer.slice(
            step, [self.wanted is None or v in self.wanted for v in step.outputs]
        )
        sources = [read(scope, v) for v in local.sources]
        constants = [read(scope, v) for v in local.constants]
        return self.summing(self.name, local, step)(sources, constants)


def _active(placed: Placed, marks: Sequence[int]) -> set[Var]:
    """The variables at every depth whose derivatives depend on marked inputs."""
    found = ACTIVITY.variables(placed.jaxpr, marks)
    active = {v for v, mark in found.items() if mark}
    for step in placed.steps:
        if isinstance(step, Scan) and placed.is_driven(step):
            given = [int(is_in(v, active)) for v in step.inputs]
            active |= _active(placed.inside(step.body), ACTIVITY.entering(step, given))
    return active
