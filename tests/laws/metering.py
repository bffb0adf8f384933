"""What an evaluation really sends and keeps, found without the modules for costs and retention.

`Metered` is an engine's run with a scale at each of its messages. `Walk` plays a schedule from
contact to contact, iteration by iteration, and writes down when every received value was made and
when a client last read it; a value that was read in a later contact was kept until then.
"""

import dataclasses

import numpy as np

from secfad._jax import Var, new_jaxpr
from secfad._jax_interpreters import dce
from secfad.engines.arguments import checked_arguments, cohort_size
from secfad.engines.local import _Batched, plain_sum
from secfad.jaxprs.equations import Cond, Scan, While
from secfad.placements import CLIENTS
from secfad.programs.costs import nbytes
from secfad.programs.stages import Nested, Round


class Metered(_Batched):
    """One evaluation on real arrays, with what each client received and sent."""

    def __init__(self, program, args):
        self.contacts = self.uploads = self.down_bytes = self.up_bytes = self.released = 0
        leaves = checked_arguments(program, args)
        clients = cohort_size(program, leaves)
        super().__init__(clients, self.weighed, clients)
        self(program.schedule, leaves)

    def weighed(self, upload):
        self.uploads += 1
        self.up_bytes += sum(v[0].nbytes for v in upload.values)
        self.released += sum(v[0].size for v in upload.values)
        return plain_sum(upload)

    def contact(self, item, env, plan):
        self.contacts += bool(item.downloads or item.uploads)
        sent = [env.at_server(v) for m in item.downloads for v in m.inputs]
        self.down_bytes += sum(np.asarray(v).nbytes for v in sent)
        super().contact(item, env, plan)


@dataclasses.dataclass(eq=False)
class Made:
    """A value that depends on what the server sent."""

    contact: int
    nbytes: int
    read: int = 0


class Walk:
    """One evaluation without numbers; the given branch of every choice, iterations of every while."""

    def __init__(self, program, branch=0, iterations=3):
        self.branch, self.iterations, self.contact, self.made = branch, iterations, 0, []
        self.play(program.schedule, {})

    @property
    def state_bytes(self):
        """Most that a client kept from one contact to a later one."""
        between = range(1, self.contact)
        return max(
            (sum(m.nbytes for m in self.made if m.contact <= t < m.read) for t in between),
            default=0,
        )

    def make(self, variable):
        made = Made(self.contact, nbytes([variable]))
        self.made.append(made)
        return [made]

    def read(self, env, atoms):
        """Everything received that these values hold; it is read now."""
        found = [m for v in atoms for m in _flat(env.get(_key(v), []))]
        for made in found:
            made.read = max(made.read, self.contact)
        return found

    def play(self, plan, env):
        for item in plan.items:
            if isinstance(item, Round):
                self.round(item, env)
            elif isinstance(item, Nested):
                self.nested(item, env, plan.placed)

    def round(self, item, env):
        self.contact += bool(item.downloads or item.uploads)
        env.update((v, self.make(v)) for m in item.downloads for v in m.outputs)
        depends = self.depends(item.client, env)
        env.update((v, self.make(v)) for v in item.client.outputs if v in depends)
        self.read(env, [v for m in item.uploads for v in m.inputs])

    def depends(self, stage, env):
        """Which variables of a client stage depend on what was received; reads its inputs."""
        known = {v for v in stage.inputs if self.read(env, [v])}
        for equation in stage.jaxpr.eqns:
            if any(v in known for v in map(_key, equation.invars)):
                known.update(v for v in equation.outvars if _needs(equation, v) & known)
        return known

    def nested(self, item, env, placed):
        step, body = item.step, item.bodies[0]
        given = [env.get(_key(v), []) for v in step.inputs]
        match step:
            case Scan():
                results = self.iterate(step, body, given)
            case Cond():
                body = item.bodies[min(self.branch, len(item.bodies) - 1)]
                inner = dict(zip(body.placed.inputs, given[1:]))
                self.play(body, inner)
                results = [inner.get(_key(v), []) for v in body.placed.results]
            case While():
                results = self.repeat(step, item.bodies, given, placed)
        env.update(zip(step.outputs, results))
        if isinstance(step, Cond):
            # Which branch it was is what the server said.
            chosen = [v for v in step.outputs if placed.places[v] is CLIENTS]
            env.update((v, env[v] or self.make(v)) for v in chosen)

    def repeat(self, step, bodies, given, placed):
        """A while loop, as often as it is said to run; clients learn from the server how often."""
        *heads, carries = step.split(given)
        for _ in range(self.iterations):
            for body, head in zip(bodies, heads):
                inner = dict(zip(body.placed.inputs, [*head, *carries]))
                self.play(body, inner)
            before, carries = carries, [inner.get(_key(v), []) for v in body.placed.results]
        at_clients = [placed.places[v] is CLIENTS for v in step.outputs]
        rows = zip(step.outputs, at_clients, before, carries)
        return [now or (self.make(v) if at and now is not was else []) for v, at, was, now in rows]

    def iterate(self, step, body, given):
        constants, carries, sequences = step.split(given)
        rows = {}
        for i in range(step.length)[:: -1 if step.reverse else 1]:
            slices = [x[i] if isinstance(x, Rows) else x for x in sequences]
            inner = dict(zip(body.placed.inputs, [*constants, *carries, *slices]))
            self.play(body, inner)
            results = [inner.get(_key(v), []) for v in body.placed.results]
            carries, rows[i] = step.split_out(results)
        columns = zip(*(rows[i] for i in range(step.length)))
        return [*carries, *map(Rows, columns)]


def _needs(equation, output):
    """The inputs without which JAX cannot compute one output of an equation."""
    used = [v is output for v in equation.outvars]
    live = dce(new_jaxpr([], equation.outvars, [equation]), used).eqns
    return {v for e in live for v in e.invars if isinstance(v, Var)}


class Rows(list):
    """What a loop collected: one entry per iteration."""


def _flat(entry):
    return [m for row in entry for m in _flat(row)] if isinstance(entry, Rows) else entry


def _key(atom):
    return atom if isinstance(atom, Var) else None
