"""Choices: a `cond` of the server whose branches communicate, before it is differentiated.

JAX's reverse mode keeps what the branch taken computed, in slots that branches share by shape: a slot
could hold a server value after one branch and a client value after another. So the branches are not
chosen here but their results: every branch is computed, and `select_n` takes each result from the
right one, as `jax.vmap` does with a `cond` whose index is mapped. Where a result is at the clients,
the index is broadcast to them. The price is that all branches are computed and that all of their
messages are sent. Where the branches send the same messages, their operands are selected instead,
and each message is sent once.

Source: docs/decisions/0042-branches-are-selected.md.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn, Var
from secfad.jaxprs.equations import Cond, Message, Sum, view, views
from secfad.jaxprs.evaluation import Evaluator, read
from secfad.jaxprs.inside import communicates
from secfad.placements import CLIENTS
from secfad.primitives import broadcast_p
from secfad.programs.placed import Control, Placed
from secfad.programs.programs import Program
from secfad.programs.tracing import with_rules

# What the message is called that tells the clients which branch counts.
INDEX = "branch"


def with_selected_branches(program: Program, mode: str) -> Callable:
    """The program as a function in which results of branches are selected.

    Args:
      program: What will be differentiated.
      mode: "forward" selects only where a result is at the clients: its tangent may be a constant,
        which the server would choose without telling them. Other modes select everywhere.
    """
    placed = with_rules(program, keep_rules=True)

    def fun(*args: Any) -> Any:
        selecting = _Selecting(placed, only_at_clients=mode == "forward")
        results = selecting.run(placed.closed, jax.tree.leaves(args))
        return jax.tree.unflatten(program.out_tree, results)

    return fun


class _Selecting(Evaluator):
    """Evaluates programs with every branch computed and each result selected."""

    def __init__(self, placed: Placed, only_at_clients: bool):
        self.placed = placed
        self.only_at_clients = only_at_clients

    def enters(self, equation: JaxprEqn) -> bool:
        """Whether it is control flow of the server."""
        return self.placed.is_driven(view(equation))

    def cond(self, cond: Cond, values: Sequence[Any]) -> list[Any]:
        """Evaluates all branches and selects among their results."""
        columns = zip(*(self.placed.inside(branch).results for branch in cond.branches))
        at_clients = [CLIENTS in map(self.placed.placement, column) for column in columns]
        if self.only_at_clients and not any(at_clients):
            return super().cond(cond, values)
        index, operands = cond.split(values)
        select = _Selection(index, len(cond.branches))
        rows = self._results(cond.branches, select, operands)
        return [select(c, v, at) for *c, v, at in zip(*rows, cond.outputs, at_clients)]

    def _results(
        self, branches: Sequence[ClosedJaxpr], select: "_Selection", operands: Sequence[Any]
    ) -> list[list[Any]]:
        """The results of every branch."""
        messages = {_messages(branch) for branch in branches}
        if len(messages) > 1 or None in messages:
            return [self.run(body, operands) for body in branches]
        placed = [self.placed.inside(branch) for branch in branches]
        envs = [b.captured | dict(zip(b.inputs, operands)) for b in placed]
        walks = [self._between_messages(b, env) for b, env in zip(placed, envs)]
        for steps in zip(*walks, strict=True):
            columns = zip(*([read(env, v) for v in m.inputs] for m, env in zip(steps, envs)))
            sent = [
                select(column, v, isinstance(steps[0], Sum))
                for column, v in zip(columns, steps[0].inputs)
            ]
            with _jax.at_line(steps[0].equation):
                received = steps[0].equation.primitive.bind(*sent, name=steps[0].name)
            for message, env in zip(steps, envs):
                env.update(zip(message.outputs, received))
        return [[read(env, v) for v in b.results] for b, env in zip(placed, envs)]

    def _between_messages(self, placed: Placed, env: MutableMapping[Var, Any]) -> Iterator[Message]:
        """Evaluates a program; stops at each message, whose results the caller has to provide."""
        for step in placed.steps:
            if isinstance(step, Message):
                yield step
            else:
                values = [read(env, v) for v in step.inputs]
                env.update(zip(step.outputs, self.equation(step.equation, values)))


def _messages(branch: ClosedJaxpr) -> tuple | None:
    """The messages of a branch in order, as far as two must agree to be one; None inside of loops."""
    steps = [step for step in views(branch.jaxpr) if communicates(step.equation)]
    if any(isinstance(step, Control) for step in steps):
        return None
    return tuple(_form(step) for step in steps if isinstance(step, Message))


def _form(step: Message) -> tuple:
    kinds = [_jax.spec(v.aval) for v in step.inputs]
    return type(step), step.name, tuple((kind.shape, kind.dtype) for kind in kinds)


class _Selection:
    """Selects one of several values by the index of a `cond`."""

    def __init__(self, index: Any, branches: int):
        self.index = jnp.clip(index, 0, branches - 1)
        self.received: Any = None

    def __call__(self, values: Sequence[Any], like: Any, at_clients: bool) -> Any:
        """The value of the branch that counts; clients who select have to know the index."""
        if all(_is_same(value, values[0]) for value in values):
            return values[0]
        if at_clients and self.received is None:
            (self.received,) = broadcast_p.bind(self.index, name=INDEX)
        dtype = _jax.spec(like.aval).dtype
        cases = [v if isinstance(v, jax.Array) else jnp.asarray(v, dtype) for v in values]
        return jax.lax.select_n(self.received if at_clients else self.index, *cases)


def _is_same(one: Any, other: Any) -> bool:
    """True for two values that are certainly equal."""
    if one is other:
        return True
    if any(isinstance(v, jax.Array) for v in (one, other)):
        return False
    return np.array_equal(one, other)
