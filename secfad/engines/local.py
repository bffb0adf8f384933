"""`execute`: runs a program message by message, in this process.

Server stages and client stages are separate programs. A client's values stay in the clients'
environment; what the server gets is what an aggregator makes of the uploads, and nothing else. The
aggregator is an argument: plain addition here, secure aggregation with noise in
`privacy.execution.execution`. All clients' copies of a stage run as one batch.

Source: docs/semantics.md, "The projection is what runs".
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad._jax import Literal, Var, spec
from secfad.engines.arguments import checked_arguments, cohort_size
from secfad.engines.sharding import without_types
from secfad.errors import ArgumentError, CohortError
from secfad.placements import CLIENTS, SERVER, Placement
from secfad.programs.blocks import Atom, Block, Branch, Loop, Sum, While
from secfad.programs.programs import Program
from secfad.programs.stages import Nested, Round, Schedule, Stage


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


def sum_of(survivors: Sequence[Sequence[int]]) -> Aggregator:
    """An aggregator in which the given clients answer in round 0, 1, ...; the last entry repeats."""

    if not survivors:
        raise ArgumentError(
            "Expected the survivors of at least one round, got none. Write [[0, 2]]."
        )

    def aggregate(upload: Upload) -> Aggregate:
        chosen = np.asarray(survivors[min(upload.round, len(survivors) - 1)], int)
        # JAX would take the last client in place of one that does not exist.
        if len(set(chosen.tolist()) & set(range(upload.clients))) < max(len(chosen), 1):
            raise CohortError(
                f"Expected survivors of round {upload.round}, different ones of the {upload.clients} "
                f"clients that were asked, counted from 0, got {chosen.tolist()}."
            )
        values = [jnp.sum(v[chosen], axis=0, dtype=v.dtype) for v in upload.values]
        return Aggregate(values, len(chosen))

    return aggregate


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
    run = _Run(clients, aggregate, clients if public_size is None else public_size)
    with without_types(leaves) as free:
        inputs = [
            Held(_padded(leaf, run.rows), shared=False) if place is CLIENTS else leaf
            for leaf, place in zip(free, program.in_placements)
        ]
        results = run.block(program.schedule, inputs)
        whole = [
            run.stacked(value) if place is CLIENTS else jnp.asarray(value)
            for value, place in zip(results, program.out_placements)
        ]
    return jax.tree.unflatten(program.out_tree, whole)


@dataclasses.dataclass(frozen=True)
class Held:
    """A value at the clients: one per client on the leading axis, or one that all hold alike."""

    value: Any
    shared: bool


class _Run:
    """One evaluation: the cohort, its aggregator, and how many answered last."""

    def __init__(self, clients: int | None, aggregate: Aggregator, size: float | None):
        self.clients = clients
        # Cohorts vary in size; stages are compiled for a few sizes only. The rows that fill up
        # repeat the first client and are never sent.
        self.rows = None if clients is None else _rounded_up(clients)
        self.aggregate = aggregate
        self.answered = size
        self.rounds = 0

    def block(self, plan: Schedule, inputs: Sequence[Any]) -> list[Any]:
        env = _Environment(plan.block, inputs)
        if plan.constants is not None:
            known = plan.constants.compiled(*(env.at_server(v) for v in plan.constants.inputs))
            env.values.update(zip(plan.constants.outputs, known))
        for step in plan.sizes:
            self._sizes(step, env)
        for item in plan.items:
            match item:
                case Stage():
                    results = item.compiled(*(env.at_server(v) for v in item.inputs))
                    env.values.update(zip(item.outputs, results))
                case Round():
                    self._round(item, env)
                case Nested():
                    self._nested(item, env)
        return [env.at_place(v, plan.block.placement(v)) for v in plan.block.results]

    def _sizes(self, step: Sum, env: "_Environment") -> None:
        if self.answered is None:
            raise CohortError(
                f"`sum` named {step.name!r} asks for the number of clients, but no argument is placed "
                "at the clients. Give the computation a client argument."
            )
        for operand, result in zip(step.inputs, step.outputs):
            env.values[result] = _times(self.answered, env.at_server(operand), result)

    def _round(self, item: Round, env: "_Environment") -> None:
        for message in item.downloads:
            for source, target in zip(message.inputs, message.outputs):
                env.values[target] = Held(env.at_server(source), shared=True)
        if item.client.outputs:
            self._client_stage(item.client, env)
        if item.uploads:
            self._upload(item, env)

    def _client_stage(self, stage: Stage, env: "_Environment") -> None:
        held = [env.at_client(v) for v in stage.inputs]
        mapped = tuple(not h.shared for h in held)
        if any(mapped):
            results = stage.compiled_over_clients(mapped)(*(h.value for h in held))
        else:
            results = stage.compiled(*(h.value for h in held))
        for variable, value in zip(stage.outputs, results):
            env.values[variable] = Held(value, shared=not any(mapped))

    def _upload(self, item: Round, env: "_Environment") -> None:
        pairs = [(m.name, v, r) for m in item.uploads for v, r in zip(m.inputs, m.outputs)]
        sent = [pair for pair in pairs if env.block.placement(pair[1]) is CLIENTS]
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
            env.values[result] = jnp.asarray(value, spec(result.aval).dtype)
        for _, operand, result in pairs:
            if env.block.placement(operand) is not CLIENTS:
                env.values[result] = _times(answer.clients, env.at_server(operand), result)

    def stacked(self, held: Held) -> Any:
        """A client value with its axis of clients."""
        return (
            self._repeated(held, self.clients) if held.shared else _first(held.value, self.clients)
        )

    def _repeated(self, held: Held, rows: int | None) -> Any:
        return jnp.broadcast_to(held.value, (rows, *jnp.shape(held.value)))

    def _nested(self, item: Nested, env: "_Environment") -> None:
        inputs = [env.raw(v) for v in item.step.inputs]
        match item.step:
            case Loop():
                results = self._loop(item.step, item.bodies[0], inputs)
            case While():
                results = self._while(item.step, item.bodies, inputs)
            case Branch():
                # JAX clamps the index of a switch into range.
                index = min(max(int(inputs[0]), 0), len(item.bodies) - 1)
                results = self.block(item.bodies[index], inputs[1:])
        for variable, value in zip(item.step.outputs, results):
            env.values[variable] = _at_place(value, env.block.placements[variable])

    def _loop(self, step: Loop, body: Schedule, inputs: Sequence[Any]) -> list[Any]:
        split = step.constants + step.carries
        constants, carries, sequences = (
            inputs[: step.constants],
            inputs[step.constants : split],
            inputs[split:],
        )
        order = range(step.length)[:: -1 if step.reverse else 1]
        rows: list[list[Any]] = []
        for index in order:
            slices = [_slice(x, index) for x in sequences]
            out = self.block(body, [*constants, *carries, *slices])
            carries = out[: step.carries]
            rows.append(out[step.carries :])
        columns = zip(*rows[:: -1 if step.reverse else 1])
        if not rows:
            columns = ([] for _ in step.body.results[step.carries :])
        results = step.body.results[step.carries :]
        collected = [self._collected(list(c), r, step.body) for c, r in zip(columns, results)]
        return [*carries, *collected]

    def _collected(self, column: list[Any], result: Atom, body: Block) -> Any:
        at_clients = body.placement(result) is CLIENTS
        if not column:
            empty = jnp.zeros((0, *spec(result.aval).shape), spec(result.aval).dtype)
            return Held(empty, shared=True) if at_clients else empty
        if not at_clients:
            return jnp.stack([jnp.asarray(v) for v in column])
        if all(h.shared for h in column):
            return Held(jnp.stack([jnp.asarray(h.value) for h in column]), shared=True)
        rows = [self._repeated(h, self.rows) if h.shared else h.value for h in column]
        return Held(jnp.stack(rows, axis=1), shared=False)

    def _while(self, step: While, bodies: Sequence[Schedule], inputs: Sequence[Any]) -> list[Any]:
        first, second = step.predicate_constants, step.body_constants
        carries = list(inputs[first + second :])
        while bool(self.block(bodies[0], [*inputs[:first], *carries])[0]):
            carries = self.block(bodies[1], [*inputs[first : first + second], *carries])
        return carries


class _Environment:
    """Values of a block's variables, and who may read them."""

    def __init__(self, block: Block, inputs: Sequence[Any]):
        self.block = block
        self.values: dict[Var, Any] = dict(block.constants)
        for variable, value in zip(block.inputs, inputs):
            self.values[variable] = _at_place(value, block.placements[variable])

    def raw(self, atom: Atom) -> Any:
        """A value as it is kept."""
        return atom.val if isinstance(atom, Literal) else self.values[atom]

    def at_place(self, atom: Atom, place: Placement | None) -> Any:
        """A value for a reader at the given place."""
        return _at_place(self.raw(atom), place)

    def at_client(self, atom: Atom) -> Held:
        """A value for a client stage: the client's own, a broadcast, or a constant."""
        if self.block.placement(atom) is SERVER:
            raise AssertionError("A client stage asked for a server value; please report this.")
        return _at_place(self.raw(atom), CLIENTS)

    def at_server(self, atom: Atom) -> Any:
        """A value for a server stage: never one that a client holds."""
        value = self.raw(atom)
        if isinstance(value, Held):
            raise AssertionError("A server stage asked for a client value; please report this.")
        return value


def _at_place(value: Any, place: Placement | None) -> Any:
    if place is CLIENTS and not isinstance(value, Held):
        return Held(value, shared=True)
    return value


def _rounded_up(clients: int) -> int:
    """The next size with at most four significant bits: at most an eighth is wasted."""
    step = 1 << max(clients.bit_length() - 4, 0)
    return -(-clients // step) * step


def _padded(leaf: Any, rows: int | None) -> Any:
    missing = rows - leaf.shape[0] if rows is not None else 0
    if not missing:
        return leaf
    return _host_or_device(leaf)[_padding_index(leaf.shape[0], missing)]


def _padding_index(clients: int, missing: int) -> np.ndarray:
    return np.concatenate([np.arange(clients), np.zeros(missing, np.int64)])


def _first(value: Any, rows: int | None) -> Any:
    return value if value.shape[0] == rows else _host_or_device(value)[:rows]


def _host_or_device(value: Any) -> Any:
    """As a NumPy array, whose indexing needs no compilation; keys stay with JAX."""
    is_key = jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return value if is_key else np.asarray(value)


def _slice(value: Any, index: int) -> Any:
    if isinstance(value, Held):
        row = value.value[index] if value.shared else value.value[:, index]
        return Held(row, value.shared)
    return value[index]


def _times(count: float, constant: Any, result: Atom) -> jax.Array:
    return jnp.asarray(jnp.asarray(constant) * np.asarray(count), spec(result.aval).dtype)
