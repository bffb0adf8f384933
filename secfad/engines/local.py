"""`execute`: runs a program message by message, in this process.

Server stages and client stages are separate programs. A client's values stay in the clients'
environment; what the server gets is what an aggregator makes of the uploads, and nothing else. The
aggregator is an argument: plain addition here, secure aggregation with noise in
`privacy.execution.execution`. All clients' copies of a stage run as one vmapped batch, and control flow
runs in Python.

Source: docs/semantics.md, "The projection is what runs".
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from secfad._jax import spec
from secfad.engines.arguments import checked_arguments, cohort_size
from secfad.engines.running import ClientValue, Environment, Places, Runner, Values, differs
from secfad.engines.sharding import without_types
from secfad.errors import ArgumentError
from secfad.jaxprs.equations import Atom, Scan
from secfad.placements import CLIENTS
from secfad.programs.programs import Program
from secfad.programs.stages import Round, Schedule, Stage


@dataclasses.dataclass(frozen=True)
class Upload:
    """What the clients of one round send, before anybody has added it.

    Attributes:
      round: Counts the uploads of this evaluation from 0.
      names: The name of the sum that each value belongs to.
      values: Arrays with a leading axis of clients.
    """

    round: int
    names: tuple[str, ...]
    values: tuple[jax.Array, ...]

    @property
    def clients(self) -> int:
        """Number of clients that were asked."""
        return self.values[0].shape[0]


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """What the server learns from one upload.

    Attributes:
      values: The sum of each value over the clients that answered.
      clients: The number by which constants are multiplied: how many answered, or a public number
        in its place.
    """

    values: Sequence[Any]
    clients: float


Aggregator = Callable[[Upload], Aggregate]


def plain_sum(upload: Upload) -> Aggregate:
    """Adds everything up in the clear: every client answers, nothing is hidden."""
    values = [jnp.sum(v, axis=0, dtype=v.dtype) for v in upload.values]
    return Aggregate(values, upload.clients)


def execute(
    program: Program,
    *args: Any,
    aggregate: Aggregator = plain_sum,
    public_size: float | None = None,
) -> Any:
    """Runs a program stage by stage, with real messages between server and clients.

    Guarantees:
      A server stage reads server arguments, constants and aggregates only; a client stage reads its
      own arguments, its own earlier values, broadcasts and constants only.

    Args:
      program: What `trace` returned.
      *args: The computation's arguments. Server arguments as traced; client arguments with a leading
        axis of clients.
      aggregate: What becomes of an upload; called once per round in which clients send.
      public_size: What a sum of constants is a multiple of before anyone has answered; the number of
        clients by default. A private run passes a number that does not depend on who takes part.

    Returns:
      The computation's result; client-placed parts with a leading axis of clients.

    Raises:
      ArgumentError: An argument has another structure, shape or dtype than the traced one.
      CohortError: Client arguments disagree on the number of clients, or there is none.
    """
    if not isinstance(program, Program):
        raise ArgumentError(
            f"Expected a Program, got {type(program).__name__}. Trace the computation first: "
            "secfad.trace(computation, *specs)."
        )
    leaves = checked_arguments(program, args)
    clients = cohort_size(program, leaves)
    run = _Batched(clients, aggregate, clients if public_size is None else public_size)
    with without_types(leaves) as free:
        return jax.tree.unflatten(program.out_tree, run(program.schedule, free))


class _Batched(Runner):
    """All clients in one batch; control flow runs in Python."""

    def __init__(self, clients: int | None, aggregate: Aggregator, size: float | None):
        # Cohorts vary in size; stages are compiled for a few sizes only.
        super().__init__(clients, _rounded_up(clients or 0), size)
        self.aggregate = aggregate
        self.rounds = 0

    def compute(self, stage: Stage, values: Values) -> Sequence[Any]:
        return stage.compiled(*values)

    def contact(self, item: Round, env: Environment, plan: Schedule) -> None:
        if item.client.outputs:
            self._client_stage(item.client, env)
        if item.uploads:
            self._upload(item, env)

    def _client_stage(self, stage: Stage, env: Environment) -> None:
        held = [env.at_client(v) for v in stage.inputs]
        mapped = tuple(map(differs, held))
        compiled = stage.compiled_over_clients(mapped) if any(mapped) else stage.compiled
        results = compiled(*(h.value for h in held))
        env.define(stage.outputs, (ClientValue(v, replicated=not any(mapped)) for v in results))

    def _upload(self, item: Round, env: Environment) -> None:
        pairs = [(m.name, v, r) for m in item.uploads for v, r in zip(m.inputs, m.outputs)]
        sent = [pair for pair in pairs if env.placed.placement(pair[1]) is CLIENTS]
        values = tuple(self.stacked(env.at_client(v)) for _, v, _ in sent)
        answer = self.aggregate(Upload(self.rounds, tuple(name for name, _, _ in sent), values))
        expected = [spec(result.aval).shape for _, _, result in sent]
        got = [jnp.shape(value) for value in answer.values]
        if got != expected:
            names = ", ".join(name for name, _, _ in sent)
            raise ArgumentError(
                f"Expected the aggregate of round {self.rounds} ({names}) to have the shapes {expected}, "
                f"got {got}. Return the sum over the first axis of each value of the upload."
            )
        self.rounds += 1
        self.answered = answer.clients
        for (_, _, result), value in zip(sent, answer.values):
            env.define([result], [jnp.asarray(value, spec(result.aval).dtype)])
        for _, operand, result in pairs:
            if env.placed.placement(operand) is not CLIENTS:
                env.define([result], [self.multiple(env.at_server(operand), result)])

    def scan(self, step: Scan, iteration: Callable, carries: Values, columns: Values) -> Values:
        rows = {}
        for index in range(step.length)[:: -1 if step.reverse else 1]:
            slices = [_slice(x, index) for x in columns]
            carries, rows[index] = iteration(carries, slices)
        made = enumerate(step.split_out(step.body.jaxpr.outvars)[1])
        order = range(step.length)
        return [*carries, *(self._collected([rows[i][k] for i in order], r) for k, r in made)]

    def _collected(self, column: Values, result: Atom) -> Any:
        if not column:
            return jnp.zeros((0, *spec(result.aval).shape), spec(result.aval).dtype)
        if not isinstance(column[0], ClientValue):
            return jnp.stack([jnp.asarray(v) for v in column])
        if not any(map(differs, column)):
            return ClientValue(jnp.stack([jnp.asarray(v.value) for v in column]), replicated=True)
        rows = [self.per_client(v).value for v in column]
        return ClientValue(jnp.stack(rows, axis=1), replicated=False)

    def while_loop(self, goes_on: Callable, iteration: Callable, carries: Values) -> Values:
        while bool(goes_on(carries)):
            carries = iteration(carries)
        return carries

    def switch(self, index: Any, branches: list, operands: Values, places: Places) -> Values:
        # JAX clamps the index of a switch into range.
        return branches[min(max(int(index), 0), len(branches) - 1)](*operands)


def _rounded_up(clients: int) -> int:
    """The next size with at most four significant bits: at most an eighth is wasted."""
    step = 1 << max(clients.bit_length() - 4, 0)
    return -(-clients // step) * step


def _slice(value: Any, index: int) -> Any:
    if not isinstance(value, ClientValue):
        return value[index]
    row = value.value[index] if value.replicated else value.value[:, index]
    return ClientValue(row, value.replicated)
