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
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax

from secfad import _jax
from secfad._jax import Jaxpr, Var
from secfad.computations import Computation
from secfad.derivatives.jacobians import sum_with_jacobians
from secfad.derivatives.slicing import Slice, Slicer
from secfad.errors import ModeError
from secfad.jaxprs.activity import active_outputs, active_variables, loop_carries
from secfad.jaxprs.dependence import union
from secfad.jaxprs.equations import CUSTOM_RULES, communicates, every_equation
from secfad.jaxprs.interpreting import Interpreter, read
from secfad.placements import CLIENTS
from secfad.programs.blocks import Atom, Block, Broadcast, Loop, Step, Sum, While
from secfad.programs.inference import place
from secfad.programs.normalization import normalise
from secfad.programs.tracing import flat_placements


def surrogate(
    computation: Computation,
    specs: tuple,
    argnums: Sequence[int],
    summing: Callable[[str, Slice, Sum], Callable] = sum_with_jacobians,
    has_aux: bool = False,
) -> Callable:
    """The computation as a function whose derivative at the server needs no further communication.

    Args:
      computation: What will be differentiated.
      specs: Shapes of its arguments, as the server or one client holds them.
      argnums: The arguments that will be differentiated.
      summing: What becomes of an active sum, given its slice; by default one that brings its Jacobian.
      has_aux: Whether only the first of two results will be differentiated.

    Raises:
      ModeError: The program communicates where mixed mode is not defined; names a mode that is.
    """
    source, out_tree = computation.traced(specs)
    _require_no_communicating_rules(computation.name, source.jaxpr)
    placements, origins = flat_placements(computation, specs)
    normal = normalise(source, erase_rules=False, open_calls=True)
    active = [i in argnums for i, spec in enumerate(specs) for _ in jax.tree.leaves(spec)]
    block = place(normal, placements, origins, keep_rules=True)
    wanted = None
    if has_aux and out_tree.children():
        wanted = _leading_to(block, block.results[: out_tree.children()[0].num_leaves])

    def fun(*args: Any) -> Any:
        mixed = _Mixed(computation.name, active, summing, wanted=wanted)
        results = mixed.run(block, jax.tree.leaves(args))
        return jax.tree.unflatten(out_tree, results)

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


class _Mixed(Interpreter):
    """Evaluates blocks with every active sum replaced by one that brings its own derivative.

    Client values carry no derivative here: what of them matters to a sum is in its slice.
    """

    def __init__(
        self,
        name: str,
        active_inputs: Sequence[int],
        summing: Callable[[str, Slice, Sum], Callable],
        outer: "tuple[Slicer, Mapping[Var, Any]] | None" = None,
        atoms: Sequence[Atom] = (),
        wanted: set[Var] | None = None,
    ):
        """Makes an interpreter of one block.

        Args:
          name: Of the computation, for errors.
          active_inputs: Which inputs of the block are active.
          summing: What becomes of an active sum.
          outer: The slicer and the values of the block around it.
          atoms: The leading inputs of the block, as atoms of the block around it.
          wanted: What leads to a result that is differentiated; None if everything may.
        """
        self.name = name
        self.flags = active_inputs
        self.summing = summing
        self.outer = outer
        self.atoms = atoms
        self.wanted = wanted

    def steps(self, block: Block, env: dict[Var, Any]) -> None:
        """Evaluates the steps of a block."""
        active = active_variables(block, self.flags)
        entering = {
            v: atom
            for v, atom in zip(block.inputs, self.atoms)
            if v in active and block.placements[v] is CLIENTS
        }
        slicer = Slicer(block, active, self.name, self.outer[0] if self.outer else None, entering)
        # Values of the blocks around are in reach: a slice may begin there.
        scope = ChainMap(env, self.outer[1]) if self.outer else env  # type: ignore[arg-type]
        for step in block.steps:
            if isinstance(step, Sum) and any(_member(v, active) for v in step.inputs):
                results = self._summed(step, slicer, scope)
                env.update(zip(step.outputs, results))
                continue
            inside = [_member(v, active) for v in step.inputs]
            self._inner(step, inside, slicer, scope).step(step, block, env)
            if isinstance(step, Broadcast):
                # Those that are not active may be what a derivative of this derivative is for.
                moving = [v for v in step.outputs if v in active]
                env.update((v, jax.lax.stop_gradient(env[v])) for v in moving)
        for result in block.results:
            if _member(result, active) and block.placement(result) is CLIENTS:
                raise ModeError(
                    f"`{self.name}` returns a client value that depends on the differentiated "
                    "argument; mixed mode has no derivative for it. Use mode='forward'."
                )

    def _inner(
        self, step: Step, inside: Sequence[int], slicer: Slicer, scope: Mapping[Var, Any]
    ) -> Interpreter:
        """The interpreter of the bodies of a step."""
        if isinstance(step, While) and any(inside):
            raise ModeError(
                f"`{self.name}` communicates under a data-dependent loop "
                f"({_jax.user_line(step.equation)}); its Jacobians have no fixed number. "
                "Use mode='forward', or mode='reverse' if it is a linear solver's."
            )
        if not isinstance(step, Loop):
            return Interpreter()
        split = step.constants + step.carries
        carries = loop_carries(step, inside)
        flags = [*inside[: step.constants], *carries, *inside[split:]]
        _require_no_client_state(self.name, step, flags)
        wanted = None if self.wanted is None else _wanted_inside(step, self.wanted)
        atoms = step.inputs[: step.constants]
        return _Mixed(self.name, flags, self.summing, (slicer, scope), atoms, wanted)

    def _summed(self, step: Sum, slicer: Slicer, scope: Mapping[Var, Any]) -> list[Any]:
        local = slicer.slice(step, [self.wanted is None or v in self.wanted for v in step.outputs])
        sources = [read(scope, v) for v in local.sources]
        constants = [read(scope, v) for v in local.constants]
        return self.summing(self.name, local, step)(sources, constants)


def _require_no_client_state(name: str, step: Loop, flags: Sequence[int]) -> None:
    """Refuses a loop into or out of which a differentiated client value goes by iterations."""
    body, active = step.body, active_variables(step.body, flags)
    entering = body.inputs[step.constants :]
    if any(_member(v, active) and body.placement(v) is CLIENTS for v in (*entering, *body.results)):
        raise ModeError(
            f"`{name}` has a loop through which clients carry a value that depends on the "
            f"differentiated argument ({_jax.user_line(step.equation)}); mixed mode has no derivative "
            "for it. Use mode='reverse' or mode='forward'."
        )


def _leading_to(block: Block, results: Sequence[Atom]) -> set[Var]:
    """The variables of a block that the derivatives of some of its results depend on."""
    found = {v for v in results if isinstance(v, Var)}
    for step in reversed(block.steps):
        if any(v in found for v in step.outputs):
            bits = [1 << i for i in range(len(step.inputs))]
            reads = active_outputs(step, bits)
            read = union(m for v, m in zip(step.outputs, reads) if v in found)
            found.update(
                v for v, bit in zip(step.inputs, bits) if read & bit and isinstance(v, Var)
            )
    return found


def _wanted_inside(step: Loop, wanted: set[Var]) -> set[Var]:
    """What leads to the wanted outputs of a loop, in its body."""
    outputs = [v in wanted for v in step.outputs]
    carries = step.body.inputs[step.constants :][: step.carries]
    while True:
        found = _leading_to(step.body, [v for v, w in zip(step.body.results, outputs) if w])
        # A later iteration wants what an earlier one carries to it.
        later = [w or v in found for v, w in zip(carries, outputs)]
        if later == outputs[: step.carries]:
            return found
        outputs[: step.carries] = later


def _member(atom: Atom, variables: Container[Var]) -> bool:
    return isinstance(atom, Var) and atom in variables
