"""Stages: the separate programs of server and clients, and the messages between them.

A block is cut at its communication. What the server does between two answers is one program, what a
client does between a download and an upload is another; an engine runs them with only the listed
messages in between, so that a mistake of a checker shows as a missing input, never as a leak.

What a client computed or received in one round and needs in a later one is its *state*: the same
client must be contacted again. State is explicit, with its size.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from secfad import _jax
from secfad._jax import Jaxpr, Var
from secfad.blocks import (
    Atom,
    Block,
    Branch,
    Broadcast,
    Local,
    Loop,
    Structured,
    Sum,
    While,
    inner_blocks,
)
from secfad.placements import CLIENTS, SERVER, Placement
from secfad.scheduling import Tick, timetable


def _function(jaxpr: Jaxpr, constants: tuple[Any, ...]) -> Callable:
    # Refers to no stage: a compiled function inside a cycle of references may outlive its key in
    # JAX's caches, which know functions by identity.
    def evaluate(*values: Any) -> list[Any]:
        return _jax.eval_jaxpr(jaxpr, constants, *values)

    return evaluate


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A program at one place.

    Attributes:
      placement: Who runs it.
      jaxpr: Over the variables of the block; its inputs are `inputs`.
      inputs: Values that must be known before.
      outputs: Values that are needed after.
      constants: Values of the captured constants, in the order of `jaxpr.constvars`.
    """

    placement: Placement | None
    jaxpr: Jaxpr
    inputs: tuple[Var, ...]
    outputs: tuple[Var, ...]
    constants: tuple[Any, ...]

    def __call__(self, *values: Any) -> list[Any]:
        """Evaluates the stage on one set of inputs."""
        return _jax.eval_jaxpr(self.jaxpr, self.constants, *values)

    @functools.cached_property
    def compiled(self) -> Callable:
        """The stage, compiled."""
        return jax.jit(_function(self.jaxpr, self.constants))

    @functools.cached_property
    def _over_clients(self) -> dict[tuple[bool, ...], Callable]:
        return {}

    def compiled_over_clients(self, mapped: tuple[bool, ...]) -> Callable:
        """The stage for all clients at once; `mapped` says which inputs differ between clients."""
        if mapped not in self._over_clients:
            axes = tuple(0 if m else None for m in mapped)
            over = jax.vmap(_function(self.jaxpr, self.constants), in_axes=axes)
            self._over_clients[mapped] = jax.jit(over)
        return self._over_clients[mapped]


@dataclasses.dataclass(frozen=True, eq=False)
class Round:
    """One contact with the cohort: download, client stage, upload.

    Attributes:
      downloads: Messages from the server.
      client: What every client computes.
      uploads: Messages from every client, added up.
      kept: Client values from here or before that a later round needs.
    """

    downloads: tuple[Broadcast, ...]
    client: Stage
    uploads: tuple[Sum, ...]
    kept: tuple[Var, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Nested:
    """Control flow that the server drives, with the schedules of its bodies."""

    step: Structured
    bodies: "tuple[Schedule, ...]"


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Everything that happens in one evaluation, in order.

    Attributes:
      block: The placed program.
      sizes: Sums of constants only; the number of clients times the constant.
      items: Server stages, rounds and nested control flow.
      constants: What is computed first, from no argument; both sides can.
    """

    block: Block
    sizes: tuple[Sum, ...]
    items: tuple[Stage | Round | Nested, ...]
    constants: Stage | None = None


def schedule(block: Block) -> Schedule:
    """Cuts a block into stages and rounds, with the fewest rounds."""
    return _Cutter(block).schedule()


class _Cutter:
    def __init__(self, block: Block):
        self.block = block
        self.table = timetable(block)
        self.inputs = set(block.inputs)
        self.constant_step = {v: step for step in self.table.constants for v in step.outputs}
        self.order = {id(step): i for i, step in enumerate(self.table.constants)}
        self.readers, self.last_client_use = self._uses()

    def schedule(self) -> Schedule:
        items: list[Stage | Round | Nested] = []
        shared = self._shared_constants()
        constants = self.stage(None, (), shared) if shared else None
        held: dict[Var, None] = {}
        for index, tick in enumerate(self.table.ticks):
            if tick.server:
                items.append(self.stage(SERVER, tick.server, self._needed(tick.server)))
            if tick.downloads or tick.client or tick.uploads:
                items.append(self._round(tick, index, held))
            for step in tick.structured:
                items.append(Nested(step, tuple(schedule(b) for b in inner_blocks(step))))
        return Schedule(self.block, self.table.sizes, tuple(items), constants)

    def _round(self, tick: Tick, index: int, held: dict[Var, None]) -> Round:
        stage = self.stage(CLIENTS, tick.client, self._needed(tick.client))
        held.update((v, None) for step in (*tick.downloads, *tick.client) for v in step.outputs)
        for variable in [v for v in held if self.last_client_use.get(v, -1) <= index]:
            del held[variable]
        return Round(tick.downloads, stage, tick.uploads, tuple(held))

    def _uses(self) -> tuple[dict[Var, set[int]], dict[Var, int]]:
        """Who reads each variable, as ids of groups of steps, and when a client last does."""
        readers: dict[Var, set[int]] = {v: {-1} for v in self.block.results if isinstance(v, Var)}
        last: dict[Var, int] = {}
        for index, tick in enumerate(self.table.ticks):
            for field in dataclasses.fields(tick):
                group = getattr(tick, field.name)
                for variable in _variables(v for step in group for v in step.inputs):
                    readers.setdefault(variable, set()).add(id(group))
                    if field.name in ("client", "uploads", "structured"):
                        last[variable] = index
        return readers, last

    def _needed(self, group: tuple[Local, ...]) -> list[Var]:
        """Results of these steps that anything else reads."""
        own = {id(group)}
        return [v for s in group for v in s.outputs if self.readers.get(v, own) - own]

    def _shared_constants(self) -> list[Var]:
        """Constants that a message, a loop or the result needs by themselves."""
        atoms = [*self.block.results, *(v for step in self.table.sizes for v in step.inputs)]
        for tick in self.table.ticks:
            atoms += [v for step in (*tick.uploads, *tick.structured) for v in step.inputs]
        wanted = dict.fromkeys(v for v in _variables(atoms) if v in self.constant_step)
        return list(wanted)

    def stage(
        self, placement: Placement | None, steps: Sequence[Local], outputs: Sequence[Var]
    ) -> Stage:
        steps = [*self._constant_closure(steps, outputs), *steps]
        defined = {v for step in steps for v in step.outputs}
        inputs: dict[Var, None] = {}
        captured: dict[Var, None] = {}
        for atom in _variables([*(v for step in steps for v in step.inputs), *outputs]):
            if atom not in defined:
                (captured if atom in self.block.constants else inputs)[atom] = None
        jaxpr = _jax.new_jaxpr(list(inputs), outputs, [s.equation for s in steps], list(captured))
        constants = tuple(self.block.constants[v] for v in captured)
        return Stage(placement, jaxpr, tuple(inputs), tuple(outputs), constants)

    def _constant_closure(self, steps: Sequence[Local], outputs: Sequence[Var]) -> list[Local]:
        """The constant steps that these steps and outputs read, directly or not, in order."""
        wanted: dict[int, Local] = {}
        stack: list[Atom] = [*outputs, *(v for step in steps for v in step.inputs)]
        while stack:
            atom = stack.pop()
            step = self.constant_step.get(atom) if isinstance(atom, Var) else None
            if step is not None and id(step) not in wanted:
                wanted[id(step)] = step
                stack += step.inputs
        return sorted(wanted.values(), key=lambda step: self.order[id(step)])


def _variables(atoms: Iterable[Atom]) -> Iterable[Var]:
    return (v for v in atoms if isinstance(v, Var))


def walk(plan: Schedule) -> Iterable[tuple[Schedule, Stage | Round | Nested]]:
    """Every item of a schedule, at any depth."""
    for item in plan.items:
        yield plan, item
        if isinstance(item, Nested):
            for body in item.bodies:
                yield from walk(body)


def repetitions(step: Structured) -> float:
    """How often the body of a structured step runs at most; infinite for a while loop."""
    match step:
        case Loop():
            return step.length
        case While():
            return float("inf")
        case Branch():
            return 1
