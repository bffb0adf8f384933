"""Running: the one interpreter of schedules, from which both engines are made.

A schedule says what must be known before what. The runner keeps the values of every program, with who may
read them, and walks through stages, rounds and control flow. How many clients are computed at a time,
and whether control flow runs in Python or is traced, is said by a subclass: all of them as one batch
(`secfad.engines.local`), or a chunk after the other (`secfad.engines.chunked`).

Source: docs/semantics.md, "The projection is what runs".
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax import Literal, Var
from secfad.errors import CohortError
from secfad.jaxprs.equations import Atom, Cond, Scan, While
from secfad.placements import CLIENTS, SERVER, Placement
from secfad.programs.placed import Placed
from secfad.programs.stages import Nested, Round, Schedule, Stage

Values = list[Any]
Places = list[Placement | None]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["replicated"]
)
@dataclasses.dataclass(frozen=True)
class ClientValue:
    """A value at the clients: one per client on the leading axis, or one that all of them hold."""

    value: Any
    replicated: bool


def differs(value: Any) -> bool:
    """True for what may differ between clients."""
    return isinstance(value, ClientValue) and not value.replicated


class Environment:
    """Values of a program's variables, and who may read them."""

    def __init__(self, placed: Placed, inputs: Sequence[Any]):
        self.placed = placed
        self.values: dict[Var, Any] = placed.captured
        self.define(placed.inputs, inputs)

    def define(self, variables: Iterable[Var], values: Iterable[Any]) -> None:
        """Keeps values at the places of their variables."""
        for variable, value in zip(variables, values):
            self.values[variable] = _at(self.placed.places[variable], value)

    def read(self, atom: Atom) -> Any:
        """A value as it is kept."""
        return atom.val if isinstance(atom, Literal) else self.values[atom]

    def at_client(self, atom: Atom) -> ClientValue:
        """A value for a client stage: the client's own, a broadcast, or a constant."""
        if self.placed.placement(atom) is SERVER:
            raise AssertionError("A client stage asked for a server value; please report this.")
        return _at(CLIENTS, self.read(atom))

    def at_server(self, atom: Atom) -> Any:
        """A value for a server stage: never one that a client holds."""
        value = self.read(atom)
        if isinstance(value, ClientValue):
            raise AssertionError("A server stage asked for a client value; please report this.")
        return value


class Runner(abc.ABC):
    """Evaluates schedules for one cohort; how its clients are computed is a subclass's.

    Control flow is what JAX's functions of the same names do; `iteration`, `goes_on` and `branches` are
    functions of values, some of them `ClientValue`s.

    Attributes:
      clients: How many there are, if any argument says so.
      rows: How many a `ClientValue` has; those that fill up repeat the first client.
      answered: What a sum of a constant is a multiple of.
    """

    def __init__(self, clients: int | None, rows: int, answered: float | None):
        self.clients = clients
        self.rows = rows
        self.answered = answered

    @abc.abstractmethod
    def compute(self, stage: Stage, values: Values) -> Sequence[Any]:
        """Evaluates a stage of the server, or of both places."""

    @abc.abstractmethod
    def contact(self, item: Round, env: Environment, plan: Schedule) -> None:
        """What clients compute after the download, and what the server gets of it."""

    @abc.abstractmethod
    def scan(self, step: Scan, iteration: Callable, carries: Values, columns: Values) -> Values:
        """The last carries, then what the iterations gave."""

    @abc.abstractmethod
    def while_loop(self, goes_on: Callable, iteration: Callable, carries: Values) -> Values:
        """The last carries."""

    @abc.abstractmethod
    def switch(self, index: Any, branches: list, operands: Values, places: Places) -> Values:
        """The results of the branch with this index, which live at these places."""

    def __call__(self, plan: Schedule, leaves: Iterable[Any]) -> Values:
        """The results for arguments in which client values have a leading axis of clients."""
        placed = plan.placed
        inputs = [
            ClientValue(self._filled_up(leaf), False) if placed.places[v] is CLIENTS else leaf
            for v, leaf in zip(placed.inputs, leaves)
        ]
        results = self._run(plan, inputs)
        return [self.stacked(v) if isinstance(v, ClientValue) else jnp.asarray(v) for v in results]

    def _filled_up(self, stack: Any) -> Any:
        missing = self.rows - len(stack)
        if not missing:
            return stack
        return _host_or_device(stack)[
            np.concatenate([np.arange(len(stack)), np.zeros(missing, np.int64)])
        ]

    def per_client(self, value: ClientValue) -> ClientValue:
        """A client value with its rows, be it replicated or not."""
        if not value.replicated:
            return value
        rows = jnp.broadcast_to(value.value, (self.rows, *jnp.shape(value.value)))
        return ClientValue(rows, replicated=False)

    def stacked(self, value: ClientValue) -> Any:
        """A client value with a leading axis of clients."""
        stack = self.per_client(value).value
        return stack if self.rows == self.clients else _host_or_device(stack)[: self.clients]

    def multiple(self, value: Any, result: Var) -> jax.Array:
        """The sum of a value that is the same at every client."""
        total = jnp.asarray(value) * np.asarray(self.answered)
        return jnp.asarray(total, _jax.spec(result.aval).dtype)

    def _run(self, plan: Schedule, inputs: Sequence[Any]) -> Values:
        env = Environment(plan.placed, inputs)
        if plan.constants is not None:
            self._compute(plan.constants, env)
        for step in plan.sizes:
            if self.answered is None:
                raise CohortError(
                    f"`sum` named {step.name!r} asks for the number of clients, but no argument is "
                    "placed at the clients. Give the computation a client argument."
                )
            values = map(self.multiple, map(env.at_server, step.inputs), step.outputs)
            env.define(step.outputs, values)
        for item in plan.items:
            match item:
                case Stage():
                    self._compute(item, env)
                case Round():
                    for message in item.downloads:
                        env.define(message.outputs, map(env.at_server, message.inputs))
                    self.contact(item, env, plan)
                case Nested():
                    env.define(item.step.outputs, self._nested(item, env))
        return [_at(plan.placed.placement(v), env.read(v)) for v in plan.placed.results]

    def _compute(self, stage: Stage, env: Environment) -> None:
        env.define(stage.outputs, self.compute(stage, [*map(env.at_server, stage.inputs)]))

    def _nested(self, item: Nested, env: Environment) -> Values:
        step, values = item.step, [env.read(v) for v in item.step.inputs]
        match step:
            case Scan():
                return self._loop(step, item.bodies[0], values)
            case While():
                return self._while(step, item.bodies, values)
            case Cond():
                places = [env.placed.places[v] for v in step.outputs]

                def branch(body: Schedule, *operands: Any) -> Values:
                    return [*map(_at, places, self._run(body, operands))]

                branches = [functools.partial(branch, body) for body in item.bodies]
                index, operands = step.split(values)
                return self.switch(index, branches, operands, places)

    def _loop(self, step: Scan, body: Schedule, values: Values) -> Values:
        consts, carry, xs = step.split([*map(_at, _places(body), values)])
        places = step.split(_places(body))[1]

        def iteration(carry: Values, row: Values) -> tuple[Values, Values]:
            out, made = step.split_out(self._run(body, [*consts, *carry, *row]))
            return [*map(_at, places, out)], made

        return self.scan(step, iteration, carry, xs)

    def _while(self, step: While, bodies: Sequence[Schedule], values: Values) -> Values:
        predicate, body = bodies
        head, consts, carry = step.split(values)
        places = _places(body)[len(consts) :]

        def goes_on(carry: Values) -> Any:
            return self._run(predicate, [*head, *carry])[0]

        def iteration(carry: Values) -> Values:
            return [*map(_at, places, self._run(body, [*consts, *carry]))]

        return self.while_loop(goes_on, iteration, [*map(_at, places, carry)])


def _host_or_device(value: Any) -> Any:
    """As a NumPy array, whose indexing needs no compilation; keys stay with JAX."""
    is_key = jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return value if is_key else np.asarray(value)


def _places(body: Schedule) -> Places:
    return [body.placed.places[v] for v in body.placed.inputs]


def _at(place: Placement | None, value: Any) -> Any:
    """A value for readers at a place: what comes from the server or is constant, all clients hold."""
    if place is CLIENTS and not isinstance(value, ClientValue):
        return ClientValue(value, replicated=True)
    return value
