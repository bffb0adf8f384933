"""Chunked clients: a schedule over many clients, traced, a chunk of clients at a time.

In each round a loop over chunks computes the client stage for one chunk, adds the chunk's messages to
running sums and forgets the chunk, so that memory does not depend on the number of clients. What
clients keep from one round to the next is stored for all of them, unless it is the same at all: that is
client state.

Data that does not fit at once is best made inside the computation, from a key per client
(`secfad.cohorts.client_keys`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr
from secfad.engines.contacts import Contact, contact, read_later
from secfad.engines.contractions import over_clients
from secfad.engines.running import ClientValue, Environment, Places, Runner, Values, differs
from secfad.engines.sharding import Layout
from secfad.jaxprs.equations import Scan
from secfad.placements import CLIENTS
from secfad.programs.stages import Round, Schedule, Stage


def stream(
    plan: Schedule, clients: int, chunk_size: int, layout: Layout | None
) -> Callable[..., Values]:
    """The schedule of a program as a function of all clients' data that works chunk by chunk."""
    runner = _Chunked(_Chunks(clients, chunk_size, layout))
    return lambda *leaves: runner(plan, leaves)


class _Chunked(Runner):
    """A chunk of clients at a time; control flow is traced."""

    def __init__(self, chunks: "_Chunks"):
        super().__init__(chunks.clients, chunks.clients, chunks.clients)
        self.chunks = chunks
        self._read_later = functools.cache(read_later)

    def compute(self, stage: Stage, values: Values) -> Values:
        return stage(*values)

    def contact(self, item: Round, env: Environment, plan: Schedule) -> None:
        differing = {v for v, x in env.values.items() if differs(x)}
        parts = contact(item, differing, self._read_later(plan)[item])

        def values(stage: Stage) -> Values:
            return [env.at_client(v).value for v in stage.inputs]

        # What clients compute alike may be a constant, which the server computes for itself too.
        env.define(parts.replicated.outputs, parts.replicated(*values(parts.replicated)))
        for value, result in parts.multiples:
            env.define([result], [self.multiple(env.at_client(value).value, result)])
        if parts.per_client.outputs:
            mapped = [v in differing for v in parts.per_client.inputs]
            totals, kept = self._over_chunks(parts, mapped, values(parts.per_client))
            env.define(parts.sums, totals)
            env.define(parts.kept, (ClientValue(v, replicated=False) for v in kept))

    def _over_chunks(
        self, parts: Contact, mapped: Sequence[bool], values: Sequence[Any]
    ) -> tuple[Values, Values]:
        """The sums over all clients, and what all of them keep."""
        count = len(parts.sums)
        program = ClosedJaxpr(parts.per_client.jaxpr, parts.per_client.constants)
        fused = over_clients(program, mapped, [False] * count + [True] * len(parts.kept))
        stacks = [x for x, m in zip(values, mapped) if m]

        def step(totals, chunk):
            own = map(self.chunks.placed, chunk)
            made = fused(*(next(own) if m else x for x, m in zip(values, mapped)))
            return [t + s.astype(t.dtype) for t, s in zip(totals, made[:count])], made[count:]

        specs = [_jax.spec(v.aval) for v in parts.sums]
        zeros = [jnp.zeros(s.shape, _running(s.dtype)) for s in specs]
        totals, rows = jax.lax.scan(step, zeros, [self.chunks.rows(x) for x in stacks])
        state = [rows]
        if self.chunks.left:
            totals, rest = step(totals, [self.chunks.rest(x) for x in stacks])
            state.append(rest)
        totals = [t.astype(s.dtype) for t, s in zip(totals, specs)]
        return totals, [self.chunks.joined(*pieces) for pieces in zip(*state)]

    def scan(self, step: Scan, iteration: Callable, carries: Values, columns: Values) -> Values:
        def uniform(carries: Values, slices: Values) -> tuple[Values, Values]:
            carries, rows = iteration(carries, slices)
            return self._uniform(carries), rows

        columns = [*map(_swapped, columns)]
        carries, rows = jax.lax.scan(
            uniform, self._uniform(carries), columns, step.length, step.reverse
        )
        return [*carries, *map(_swapped, rows)]

    def while_loop(self, goes_on: Callable, iteration: Callable, carries: Values) -> Values:
        return jax.lax.while_loop(
            goes_on, lambda carries: self._uniform(iteration(carries)), self._uniform(carries)
        )

    def switch(self, index: Any, branches: list, operands: Values, places: Places) -> Values:
        """What no branch makes different between clients stays as it is: branches agree on a form."""
        differing = [False] * len(places)
        if CLIENTS in places:
            forms = [jax.eval_shape(branch, *operands) for branch in branches]
            differing = [any(map(differs, column)) for column in zip(*forms)]

        def in_one_form(branch: Callable, *operands: Any) -> Values:
            made = branch(*operands)
            return [self.per_client(v) if d else v for v, d in zip(made, differing)]

        return jax.lax.switch(
            index, [functools.partial(in_one_form, b) for b in branches], *operands
        )

    def _uniform(self, carries: Values) -> Values:
        """Carries, which have one form in all iterations: that of clients has its axis of them."""
        return [self.per_client(v) if isinstance(v, ClientValue) else v for v in carries]


class _Chunks:
    """A cohort as chunks of one size, and a smaller one of those that are left.

    On a mesh every device holds its own clients, and every chunk takes as many of each device's as of
    any other's, so that nothing of a client moves to another device. Without one, a chunk is a row of
    neighbours.

    Attributes:
      clients: How many there are.
      size: How many are computed together; all of them at most.
      whole: The number of chunks of this size.
      left: How many clients are in none of them.
    """

    def __init__(self, clients: int, size: int, layout: Layout | None):
        self.clients = clients
        self.size = min(size, clients)
        self.whole, self.left = divmod(clients, self.size)
        self._layout = layout
        self._devices = 1 if layout is None else layout.devices
        # Clients of one device in one chunk, and in all chunks of the one size.
        self._part = self.size // self._devices
        self._parts = self.whole * self._part

    def placed(self, chunk: Any) -> Any:
        """Values of clients, on the devices that hold them."""
        return chunk if self._layout is None else self._layout.at_clients(chunk)

    def rows(self, stack: Any) -> Any:
        """The chunks of the one size of a stack of client values: shape `(whole, size, ...)`."""
        tail = stack.shape[1:]
        own = self._by_device(stack)[:, : self._parts]
        own = own.reshape(self._devices, self.whole, self._part, *tail)
        return jnp.moveaxis(own, 0, 1).reshape(self.whole, self.size, *tail)

    def rest(self, stack: Any) -> Any:
        """The last chunk of a stack: shape `(left, ...)`."""
        return self._by_device(stack)[:, self._parts :].reshape(self.left, *stack.shape[1:])

    def joined(self, rows: Any, *rest: Any) -> Any:
        """The stack whose chunks these are; the last one only if there is one."""
        tail = rows.shape[2:]
        own = rows.reshape(self.whole, self._devices, self._part, *tail)
        pieces = [jnp.moveaxis(own, 0, 1).reshape(self._devices, self._parts, *tail)]
        pieces += [x.reshape(self._devices, self.left // self._devices, *tail) for x in rest]
        return jnp.concatenate(pieces, axis=1).reshape(self.clients, *tail)

    def _by_device(self, stack: Any) -> Any:
        own = self.clients // self._devices
        return self.placed(stack).reshape(self._devices, own, *stack.shape[1:])


def _running(dtype: Any) -> Any:
    """The dtype in which chunks are added up: where one sum would not round after every chunk."""
    short = jnp.issubdtype(dtype, np.floating) and jnp.finfo(dtype).bits < 32
    return jnp.float32 if short else dtype


def _swapped(value: Any) -> Any:
    """A sequence over iterations, with the axis of clients where the other one was."""
    return ClientValue(jnp.swapaxes(value.value, 0, 1), False) if differs(value) else value
