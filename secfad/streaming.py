"""Streaming: a program over many clients, a chunk of clients at a time.

The rounds of a program's schedule say exactly what must be known before what. In each round a loop
over chunks computes the client stage for one chunk, adds the chunk's messages to running sums and
forgets the chunk, so that memory does not depend on the number of clients. What clients keep from one
round to the next is stored for all of them: that is what client state means.

Data that does not fit at once is best made inside the computation, from a key per client
(`secfad.cohorts.client_keys`).
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from secfad import _jax
from secfad._jax import ClosedJaxpr, Literal, Var
from secfad.blocks import Atom, Block, Branch, Loop, While
from secfad.chunking import Chunks
from secfad.fusing import contact, over_clients
from secfad.placements import CLIENTS
from secfad.stages import Nested, Round, Schedule, Stage

_jax.hide_file_from_tracebacks(__file__)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["shared"])
class Held:
    """A value at the clients: stacked on a leading axis, or one that all hold alike."""

    def __init__(self, value: Any, shared: bool):
        self.value = value
        self.shared = shared


def stream(plan: Schedule, chunks: Chunks) -> Callable[..., list[Any]]:
    """The schedule of a program as a function of all clients' data that works chunk by chunk."""
    runner = _Runner(chunks)

    def streamed(*leaves: Any) -> list[Any]:
        inputs = [
            Held(leaf, shared=False) if plan.block.placements[v] is CLIENTS else leaf
            for v, leaf in zip(plan.block.inputs, leaves)
        ]
        results = runner.run(plan, inputs)
        return [runner.stacked(v) if isinstance(v, Held) else v for v in results]

    return streamed


class _Runner:
    """Evaluates schedules for one cohort."""

    def __init__(self, chunks: Chunks):
        self.chunks = chunks
        self.clients = chunks.clients

    def run(self, plan: Schedule, inputs: Sequence[Any]) -> list[Any]:
        block = plan.block
        env: dict[Var, Any] = dict(block.constants)
        for variable, value in zip(block.inputs, inputs):
            env[variable] = _at_place(value, block, variable)
        if plan.constants is not None:
            known = plan.constants(*(env[v] for v in plan.constants.inputs))
            env.update(zip(plan.constants.outputs, known))
        for step in plan.sizes:
            for operand, result in zip(step.inputs, step.outputs):
                env[result] = self._times(_read(env, operand), result)
        later = _later_uses(plan)
        for item, needed in zip(plan.items, later):
            match item:
                case Stage():
                    values = [_read(env, v) for v in item.inputs]
                    env.update(zip(item.outputs, item(*values)))
                case Round():
                    self._round(item, block, env, needed)
                case Nested():
                    values = [_at_place(_read(env, v), block, v) for v in item.step.inputs]
                    results = self._nested(item, block, values)
                    for variable, value in zip(item.step.outputs, results):
                        env[variable] = _at_place(value, block, variable)
        return [_at_place(_read(env, v), block, v) for v in block.results]

    def stacked(self, held: Held) -> Any:
        """A client value with its axis of clients."""
        if not held.shared:
            return held.value
        return jnp.broadcast_to(held.value, (self.clients, *jnp.shape(held.value)))

    def _times(self, value: Any, result: Atom) -> Any:
        dtype = _jax.spec(result.aval).dtype
        return jnp.asarray(value, dtype) * np.asarray(self.clients, dtype)

    def _round(self, item: Round, block: Block, env: dict[Var, Any], needed: set[Var]) -> None:
        for message in item.downloads:
            for source, target in zip(message.inputs, message.outputs):
                env[target] = Held(_read(env, source), shared=True)
        kept = [v for v in item.client.outputs if v in needed]
        program = contact(item, kept)
        held = [env[v] for v in program.jaxpr.invars]
        mapped = [isinstance(h, Held) and not h.shared for h in held]
        values = [h.value if isinstance(h, Held) else h for h in held]
        sums = program.jaxpr.outvars[: -len(kept) or None]
        if any(mapped):
            totals, state = self._over_chunks(program, len(sums), mapped, values)
        else:
            alike = [False] * len(program.jaxpr.outvars)
            results = over_clients(program, mapped, alike, self.clients)(*values)
            totals, state = results[: len(sums)], results[len(sums) :]
        env.update(zip(sums, totals))
        env.update((v, Held(x, shared=not any(mapped))) for v, x in zip(kept, state))

    def _over_chunks(
        self, program: ClosedJaxpr, sums: int, mapped: Sequence[bool], values: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Sums over all clients, which are the first results, and all clients' further results."""
        results = program.jaxpr.outvars
        fused = over_clients(program, mapped, [i >= sums for i in range(len(results))])
        stacks = [x for x, m in zip(values, mapped) if m]

        def step(totals, chunk):
            own = map(self.chunks.placed, chunk)
            made = fused(*(next(own) if m else x for x, m in zip(values, mapped)))
            return [t + s.astype(t.dtype) for t, s in zip(totals, made[:sums])], made[sums:]

        zeros = [jnp.zeros(v.aval.shape, _running(v.aval.dtype)) for v in results[:sums]]
        totals, rows = jax.lax.scan(step, zeros, [self.chunks.rows(x) for x in stacks])
        state = [rows]
        if self.chunks.left:
            totals, rest = step(totals, [self.chunks.rest(x) for x in stacks])
            state.append(rest)
        totals = [t.astype(v.aval.dtype) for t, v in zip(totals, results)]
        return totals, [self.chunks.joined(*pieces) for pieces in zip(*state)]

    def _nested(self, item: Nested, block: Block, values: list[Any]) -> list[Any]:
        step = item.step
        match step:
            case Loop():
                return self._loop(step, item.bodies[0], values)
            case While():
                return self._while(step, item.bodies, values)
            case Branch():
                branches = [
                    lambda *args, b=body: self._own(self.run(b, args), block, step.outputs)
                    for body in item.bodies
                ]
                return jax.lax.switch(values[0], branches, *values[1:])

    def _while(self, step: While, bodies: Sequence[Schedule], values: list[Any]) -> list[Any]:
        first, split = step.predicate_constants, step.predicate_constants + step.body_constants
        atoms = step.body.inputs[step.body_constants :]
        return jax.lax.while_loop(
            lambda carry: self.run(bodies[0], [*values[:first], *carry])[0],
            lambda carry: self._own(
                self.run(bodies[1], [*values[first:split], *carry]), step.body, atoms
            ),
            self._own(values[split:], step.body, atoms),
        )

    def _loop(self, step: Loop, body: Schedule, values: list[Any]) -> list[Any]:
        split = step.constants + step.carries
        constants, tail = values[: step.constants], values[split:]
        columns = [
            Held(jnp.moveaxis(v.value, 1, 0), shared=False)
            if isinstance(v, Held) and not v.shared
            else v
            for v in tail
        ]

        atoms = step.body.inputs[step.constants : split]

        def iteration(carry, slices):
            out = self.run(body, [*constants, *carry, *slices])
            rows = self._own(out[step.carries :], step.body, step.body.results[step.carries :])
            return self._own(out[: step.carries], step.body, atoms), rows

        carry, collected = jax.lax.scan(
            iteration,
            self._own(values[step.constants : split], step.body, atoms),
            columns,
            length=step.length,
            reverse=step.reverse,
        )
        collected = [
            Held(jnp.moveaxis(v.value, 0, 1), shared=False) if isinstance(v, Held) else v
            for v in collected
        ]
        return [*carry, *collected]

    def _own(self, values: Sequence[Any], block: Block, atoms: Sequence[Atom]) -> list[Any]:
        """Values in the one form in which they pass through control flow: client values stacked."""
        placed = [_at_place(v, block, atom) for v, atom in zip(values, atoms)]
        return [Held(self.stacked(v), shared=False) if isinstance(v, Held) else v for v in placed]


def _running(dtype: Any) -> Any:
    """The dtype in which chunks are added up: where one sum would not round after every chunk."""
    short = jnp.issubdtype(dtype, np.floating) and jnp.finfo(dtype).bits < 32
    return jnp.float32 if short else dtype


def _atoms(atoms: Iterable[Atom]) -> Iterable[Var]:
    return (v for v in atoms if isinstance(v, Var))


def _read(env: dict[Var, Any], atom: Atom) -> Any:
    return atom.val if isinstance(atom, Literal) else env[atom]


def _at_place(value: Any, block: Block, atom: Atom) -> Any:
    if block.placement(atom) is CLIENTS and not isinstance(value, Held):
        return Held(value, shared=True)
    return value


def _later_uses(plan: Schedule) -> list[set[Var]]:
    """For every item of a schedule, the variables that something after it reads."""
    known: set[Var] = set(_atoms(plan.block.results))
    rows = []
    for item in reversed(plan.items):
        rows.append(set(known))
        match item:
            case Stage():
                known.update(item.inputs)
            case Round():
                known.update(item.client.inputs)
                for message in (*item.downloads, *item.uploads):
                    known.update(_atoms(message.inputs))
            case Nested():
                known.update(_atoms(item.step.inputs))
    return rows[::-1]
