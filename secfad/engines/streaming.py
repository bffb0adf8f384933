"""Streaming: a program over many clients, a chunk of clients at a time.

The rounds of a program's schedule say exactly what must be known before what. In each round a loop
over chunks computes the client stage for one chunk, adds the chunk's messages to running sums and
forgets the chunk, so that memory does not depend on the number of clients. What clients keep from one
round to the next is stored for all of them, unless it is the same at all: that is client state.

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
from secfad.engines.chunking import Chunks
from secfad.engines.contacts import Contact, contact
from secfad.engines.fusing import over_clients
from secfad.placements import CLIENTS
from secfad.primitives import repeated
from secfad.programs.blocks import Atom, Block, Branch, Loop, While
from secfad.programs.stages import Nested, Round, Schedule, Stage

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
        return [_unwrapped(runner.stacked(v)) for v in results]

    return streamed


class _Runner:
    """Evaluates schedules for one cohort."""

    def __init__(self, chunks: Chunks):
        self.chunks = chunks
        self.clients = chunks.clients

    def run(self, plan: Schedule, inputs: Sequence[Any]) -> list[Any]:
        block = plan.block
        env: dict[Var, Any] = dict(block.constants)
        env.update(zip(block.inputs, _at_places(inputs, block, block.inputs)))
        if plan.constants is not None:
            known = plan.constants(*(env[v] for v in plan.constants.inputs))
            env.update(zip(plan.constants.outputs, known))
        for step in plan.sizes:
            for operand, result in zip(step.inputs, step.outputs):
                env[result] = _multiple(_read(env, operand), result, self.clients)
        later = _later_uses(plan)
        for item, needed in zip(plan.items, later):
            match item:
                case Stage():
                    values = [_read(env, v) for v in item.inputs]
                    env.update(zip(item.outputs, item(*values)))
                case Round():
                    self._round(item, block, env, needed)
                case Nested():
                    values = [_read(env, v) for v in item.step.inputs]
                    values = _at_places(values, block, item.step.inputs)
                    results = self._nested(item, block, values)
                    outputs = item.step.outputs
                    env.update(zip(outputs, _at_places(results, block, outputs)))
        return _at_places([_read(env, v) for v in block.results], block, block.results)

    def stacked(self, value: Any) -> Any:
        """A value in the one form in which all can be: that of clients has its axis of them."""
        if not isinstance(value, Held) or not value.shared:
            return value
        shape = (self.clients, *jnp.shape(value.value))
        return Held(jnp.broadcast_to(value.value, shape), shared=False)

    def _round(self, item: Round, block: Block, env: dict[Var, Any], needed: set[Var]) -> None:
        for message in item.downloads:
            for source, target in zip(message.inputs, message.outputs):
                env[target] = Held(_read(env, source), shared=True)
        differing = {v for v, x in env.items() if _differs(x)}
        parts = contact(item, differing, needed)
        known = parts.alike(*(_unwrapped(env[v]) for v in parts.alike.inputs))
        # What clients compute alike may be a constant, which the server computes for itself too.
        alike = parts.alike.outputs
        env.update(zip(alike, _at_places(known, block, alike)))
        for value, result in parts.multiples:
            env[result] = _multiple(_unwrapped(_read(env, value)), result, self.clients)
        if parts.own.outputs:
            mapped = [v in differing for v in parts.own.inputs]
            values = [_unwrapped(env[v]) for v in parts.own.inputs]
            totals, state = self._over_chunks(parts, mapped, values)
            env.update(zip(parts.sums, totals))
            env.update((v, Held(x, shared=False)) for v, x in zip(parts.kept, state))

    def _over_chunks(
        self, parts: Contact, mapped: Sequence[bool], values: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """The sums over all clients, and what all of them keep."""
        count = len(parts.sums)
        program = ClosedJaxpr(parts.own.jaxpr, parts.own.constants)
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

    def _nested(self, item: Nested, block: Block, values: list[Any]) -> list[Any]:
        step = item.step
        match step:
            case Loop():
                return self._loop(step, item.bodies[0], values)
            case While():
                return self._while(step, item.bodies, values)
            case Branch():
                return self._branch(step, item.bodies, block, values)

    def _branch(
        self, step: Branch, bodies: Sequence[Schedule], block: Block, values: list[Any]
    ) -> list[Any]:
        """What no branch makes different between clients stays as it is: branches agree on a form."""

        def results(body: Schedule, *args: Any) -> list[Any]:
            return _at_places(self.run(body, args), block, step.outputs)

        def in_one_form(body: Schedule, *args: Any) -> list[Any]:
            made = results(body, *args)
            return [self.stacked(v) if d else v for v, d in zip(made, differing)]

        differing = [block.placement(v) is CLIENTS for v in step.outputs]
        if any(differing):
            kinds = [jax.eval_shape(functools.partial(results, b), *values[1:]) for b in bodies]
            differing = [any(map(_differs, column)) for column in zip(*kinds)]
        return jax.lax.switch(
            values[0], [functools.partial(in_one_form, b) for b in bodies], *values[1:]
        )

    def _while(self, step: While, bodies: Sequence[Schedule], values: list[Any]) -> list[Any]:
        first, split = step.predicate_constants, step.predicate_constants + step.body_constants
        atoms = step.body.inputs[step.body_constants :]
        return jax.lax.while_loop(
            lambda carry: self.run(bodies[0], [*values[:first], *carry])[0],
            lambda carry: self._carries(
                self.run(bodies[1], [*values[first:split], *carry]), step.body, atoms
            ),
            self._carries(values[split:], step.body, atoms),
        )

    def _loop(self, step: Loop, body: Schedule, values: list[Any]) -> list[Any]:
        split = step.constants + step.carries
        constants, tail = values[: step.constants], values[split:]
        columns = [_swapped(v) for v in tail]
        atoms = step.body.inputs[step.constants : split]

        def iteration(carry, slices):
            out = self.run(body, [*constants, *carry, *slices])
            return self._carries(out[: step.carries], step.body, atoms), out[step.carries :]

        carry, collected = jax.lax.scan(
            iteration,
            self._carries(values[step.constants : split], step.body, atoms),
            columns,
            length=step.length,
            reverse=step.reverse,
        )
        return [*carry, *map(_swapped, collected)]

    def _carries(self, values: Sequence[Any], block: Block, atoms: Sequence[Atom]) -> list[Any]:
        """Carries, which have one form in all iterations."""
        return [self.stacked(v) for v in _at_places(values, block, atoms)]


def _multiple(value: Any, result: Atom, clients: int) -> jax.Array:
    return repeated(jnp.asarray(value, _jax.spec(result.aval).dtype), clients)


def _running(dtype: Any) -> Any:
    """The dtype in which chunks are added up: where one sum would not round after every chunk."""
    short = jnp.issubdtype(dtype, np.floating) and jnp.finfo(dtype).bits < 32
    return jnp.float32 if short else dtype


def _atoms(atoms: Iterable[Atom]) -> Iterable[Var]:
    return (v for v in atoms if isinstance(v, Var))


def _read(env: dict[Var, Any], atom: Atom) -> Any:
    return atom.val if isinstance(atom, Literal) else env[atom]


def _unwrapped(value: Any) -> Any:
    return value.value if isinstance(value, Held) else value


def _differs(value: Any) -> bool:
    return isinstance(value, Held) and not value.shared


def _swapped(value: Any) -> Any:
    """A sequence over iterations, with the axis of clients where the other one was."""
    return Held(jnp.swapaxes(value.value, 0, 1), shared=False) if _differs(value) else value


def _at_places(values: Iterable[Any], block: Block, atoms: Iterable[Atom]) -> list[Any]:
    """The values, with what clients hold alike marked so."""
    return [
        Held(v, shared=True) if block.placement(a) is CLIENTS and not isinstance(v, Held) else v
        for v, a in zip(values, atoms)
    ]


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
