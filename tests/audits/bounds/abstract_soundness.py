"""The second walk against reality: every fact it states holds in every concrete run.

`walk` runs the prover over a program and keeps the facts of every variable, loops and branches
included. `contradictions` runs the program with concrete values, equation by equation or jitted, and
returns each fact that is not true of the value it is about.
"""

import contextlib
import functools

import jax
import numpy as np
from concretisation import World, broken, is_key, wide

from audits.bounds.proving import Prover
from audits.transfer.interpreter import Checker
from audits.transfer.styles import STYLES
from audits.transfer.transfer import TRANSFER
from secfad._jax import ClosedJaxpr, Literal, evaluate, sub_jaxprs

MESSAGES = frozenset({"federated_sum", "federated_broadcast"})
LONGEST = 100


class Refused(Exception):
    """The communication check rejects the program."""


class Ended(Exception):
    """The server has a value that is not finite: from here on, facts say nothing."""


class Recorder(Prover):
    """A prover that keeps the facts of all variables."""

    def __init__(self, checker):
        super().__init__(checker)
        self.made, self.given = {}, {}

    def _apply(self, site, path):
        made = super()._apply(site, path)
        self.made[path] = list(made)
        return made

    def _visit(self, *args):
        self._visits.clear()  # so that the facts kept last are those that hold in every iteration
        return super()._visit(*args)

    def jaxpr(self, jaxpr, constants, facts, path):
        self.given[path] = [*constants, *facts]
        return super().jaxpr(jaxpr, constants, facts, path)


def checked(closed, labels, *, style="native", mode="primal"):
    """The communication check of a program.

    Raises:
      Refused: It rejects the program.
    """
    checker = Checker(STYLES[style], TRANSFER, public=frozenset(), mode=mode)
    outs = checker.run(closed, list(labels), [f"x{k}" for k in range(len(labels))])
    if checker.poisoned or any(label.poisoned for label in outs):
        raise Refused(checker.findings)
    return checker, outs


def walk(closed, labels, facts=None, *, style="native"):
    """Facts of all variables of a program, from given facts of its arguments or those of any data."""
    checker, _ = checked(closed, labels, style=style)
    prover = Recorder(checker)
    if facts is None:
        prover.run(closed, [f"x{k}" for k in range(len(labels))], [False] * len(labels))
    else:
        prover.closed(closed, list(facts), ())
    return prover


class Replay:
    """One concrete run with the facts that were stated about it."""

    def __init__(self, prover, world, *, steps=4):
        self.prover, self.world, self.steps = prover, world, steps
        self.found, self.where, self.checks = [], {}, 0

    def run(self, closed, values, path=()):
        """Runs a program equation by equation and checks every fact."""
        jaxpr = closed.jaxpr
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *values]))
        for fact, value in zip(self.prover.given[path], [*closed.consts, *values]):
            self.check(fact, value, (*path, "given"), "argument")
        for position, equation in enumerate(jaxpr.eqns):
            here = (*path, position)
            inputs = [self.read(env, a) for a in equation.invars]
            outs = self.results(equation, inputs, here)
            if equation.primitive.name == "federated_sum" and not np.all(
                np.isfinite(wide(outs[0]))
            ):
                raise Ended
            for fact, value in zip(self.prover.made[here], outs):
                self.check(fact, value, here, equation.primitive.name)
            env.update(zip(equation.outvars, outs))
        return [self.read(env, a) for a in jaxpr.outvars]

    def read(self, env, atom):
        """The value of a variable; a literal is checked against its own fact."""
        if not isinstance(atom, Literal):
            return env[atom]
        self.check(self.prover._constant(atom.val), atom.val, (), "literal")
        return atom.val

    def check(self, fact, value, path, name):
        """Notes what a concrete value contradicts."""
        if is_key(value):
            return
        value = np.asarray(value)
        self.checks += 1
        known = self.world.values.get(fact.number)
        if known is None or self.where.get(fact.number) == path:
            self.world.values[fact.number] = wide(value)
            self.where[fact.number] = path
        elif known.shape != value.shape or not np.array_equal(known, wide(value), equal_nan=True):
            self.found.append((path, name, f"number {fact.number} is another value", fact, value))
        for text in broken(fact, value, self.world, steps=self.steps):
            self.found.append((path, name, text, fact, value))

    def results(self, equation, inputs, here):
        """The results of one equation; nested programs are entered."""
        name, params = equation.primitive.name, equation.params
        if name == "cond":
            index = int(np.clip(int(inputs[0]), 0, len(params["branches"]) - 1))
            return self.run(params["branches"][index], inputs[1:], (*here, f"branch{index}"))
        if name == "scan":
            return self.scan(params, inputs, here)
        if name == "while":
            return self.while_loop(params, inputs, here)
        if name in ("custom_linear_solve", "linear_solve"):
            return evaluate(equation, inputs)
        bodies = [b for v in params.values() for b in sub_jaxprs(v)]
        if bodies and (*here, 0) in self.prover.made:
            body = bodies[0]
            closed = body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())
            return self.run(closed, inputs, here)
        return one_client(equation, inputs)

    def scan(self, params, inputs, here):
        """Every iteration of a loop."""
        consts, carries = params["num_consts"], params["num_carry"]
        fixed, carry = inputs[:consts], list(inputs[consts : consts + carries])
        rows, kept = inputs[consts + carries :], []
        inner = next(p for p in ((*here, "body"), (*here, "row")) if p in self.prover.given)
        order = range(params["length"])
        for k in reversed(order) if params["reverse"] else order:
            outs = self.run(params["jaxpr"], [*fixed, *carry, *(r[k] for r in rows)], inner)
            carry, ys = outs[:carries], outs[carries:]
            kept.append(ys)
        if params["reverse"]:
            kept.reverse()
        return [*carry, *(jax.numpy.stack(column) for column in zip(*kept))]

    def while_loop(self, params, inputs, here):
        """Every iteration of a loop; a loop that is too long is left to JAX."""
        conds, bodies = params["cond_nconsts"], params["body_nconsts"]
        tested, fixed = inputs[:conds], inputs[conds : conds + bodies]
        carry = list(inputs[conds + bodies :])
        for _ in range(LONGEST):
            (go,) = self.run(params["cond_jaxpr"], [*tested, *carry], (*here, "test"))
            if not bool(go):
                break
            carry = self.run(params["body_jaxpr"], [*fixed, *carry], (*here, "body"))
        return carry


def contradictions(prover, closed, values, *, names=None, hidden=None, jitted=False, steps=4):
    """The facts that do not hold in one run: path, primitive, text, fact and value of each.

    Args:
      prover: The result of `walk`.
      closed: The program.
      values: Concrete arguments.
      names: Magnitudes of the symbols in given facts.
      hidden: Values by number that given facts speak of and that are not arguments.
      jitted: The whole program is compiled at once, and its outer values are checked.
      steps: Roundings that may separate a value from its bound.
    """
    known = {k: wide(v) for k, v in (hidden or {}).items()}
    replay = Replay(prover, World(known, dict(names or {})), steps=steps)
    if not jitted:
        with np.errstate(all="ignore"), contextlib.suppress(Ended):
            replay.run(closed, list(values))
        return replay
    jaxpr = closed.jaxpr
    for fact, value in zip(prover.given[()], [*closed.consts, *values]):
        replay.check(fact, value, ("given",), "argument")
    everything = compiled(closed)(*values)
    for position, (equation, outs) in enumerate(zip(jaxpr.eqns, everything)):
        if equation.primitive.name == "federated_sum" and not np.all(np.isfinite(wide(outs[0]))):
            break
        for fact, value in zip(prover.made[(position,)], outs):
            replay.check(fact, value, (position,), equation.primitive.name)
    return replay


def one_client(equation, inputs):
    """The results of an equation in a cohort of one client."""
    return list(inputs) if equation.primitive.name in MESSAGES else evaluate(equation, inputs)


@functools.lru_cache(maxsize=64)
def compiled(closed):
    """A jitted function that returns the results of all outer equations."""

    def run(*values):
        jaxpr, found = closed.jaxpr, []
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *values]))
        for equation in jaxpr.eqns:
            inputs = [a.val if isinstance(a, Literal) else env[a] for a in equation.invars]
            outs = one_client(equation, inputs)
            env.update(zip(equation.outvars, outs))
            found.append(outs)
        return found

    return jax.jit(run)
