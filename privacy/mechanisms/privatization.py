"""`privatize`: inserts a clip before every sum of a computation or derivative.

`privatize` traces the computation, which may be a derivative in any mode, and rebuilds it with one
clip per round. All contributions of a client in a round are scaled together, so the round is one
Gaussian release. Clips are inserted into the *derived* program, because the derivative of a clip is
not clipped.

The denominator of a `mean` is not a release: when the program runs, a sum of constants is replaced
by the public expected size of the cohort; see `privacy.execution.execution`.

Sources: McMahan et al. (2018), section 3; docs/privacy-model.md.
"""

import dataclasses
import math
from collections.abc import MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from privacy.checking import expect, expect_choice
from privacy.errors import MechanismError
from privacy.mechanisms.mechanisms import PURPOSES, Mechanism
from secfad import CLIENTS, Computation, Program, clip, trace
from secfad.inner import (
    Evaluator,
    Jaxpr,
    Nested,
    Placed,
    Round,
    Schedule,
    at_line,
    equations,
    read,
    spec,
    sum_p,
    timetable,
)

Sum = equations.Sum
View = equations.View


@dataclasses.dataclass(frozen=True)
class PlannedSum:
    """One sum of a planned release, of `size` numbers; its name is unique within the release."""

    name: str
    clip_norm: float
    size: int


@dataclasses.dataclass(frozen=True)
class PlannedRelease:
    """The releases of one round of an evaluation: its sums, in the order in which they are sent."""

    sums: tuple[PlannedSum, ...]

    @property
    def name(self) -> str:
        """Names of the sums, joined."""
        return "+".join(s.name for s in self.sums)


@dataclasses.dataclass(frozen=True, eq=False)
class PrivateProgram:
    """A program with clipped sums, and its mechanism.

    Attributes:
      program: The clipped program.
      mechanism: Clip norms and noise.
      purpose: Whose budget pays.
      releases: One per round of an evaluation, in order.
    """

    program: Program
    mechanism: Mechanism
    purpose: str
    releases: tuple[PlannedRelease, ...]

    @property
    def name(self) -> str:
        """Of the computation."""
        return self.program.name


def privatize(
    computation: Computation, *specs: Any, mechanism: Mechanism, purpose: str = "training"
) -> PrivateProgram:
    """Clips every sum of a computation.

    Guarantees:
      In every round, and for every input, one client's contributions x_k satisfy
      sum_k ||x_k||^2 / C_k^2 <= 1 (jointly clipped), or ||x_k|| <= C_k for each k.

    Args:
      computation: Any computation, for example a derivative by `secfad.grad`.
      *specs: One per argument, as the server or one client holds it.
      mechanism: Clip norms and noise.
      purpose: "training", "hypergradient" or "evaluation".

    Raises:
      MechanismError: A sum has no clip norm or is not floating point, the purpose is unknown, or
        the number of releases is not bounded before the run.
      PlacementError: A value is used at another placement than its own.
    """
    expect_choice(purpose, PURPOSES, "purpose", error=MechanismError)
    advice = "Pass privacy.Gaussian(noise_multiplier=..., clip_norm=...) or privacy.Skellam(...)."
    expected = "a mechanism of this package"
    expect(mechanism, Mechanism, "mechanism", expected, advice, MechanismError)
    plain = trace(computation, *specs)
    releases = tuple(_releases(plain.schedule, mechanism))
    if not releases:
        raise MechanismError(
            f"`{computation.name}` sends nothing from clients to the server, so there is nothing "
            "to privatize. Run it with secfad.execute."
        )

    def clipped(*args: Any) -> Any:
        results = _Clipped(plain.placed, mechanism).run(plain.placed.closed, jax.tree.leaves(args))
        return jax.tree.unflatten(plain.out_tree, results)

    rebuilt = Computation(
        clipped, MappingProxyType(dict(computation.placements)), f"{computation.name}.private"
    )
    return PrivateProgram(trace(rebuilt, *specs), mechanism, purpose, releases)


def _releases(plan: Schedule, mechanism: Mechanism) -> list[PlannedRelease]:
    """The releases of one evaluation, with loops unrolled."""
    found: list[PlannedRelease] = []
    for item in plan.items:
        if isinstance(item, Round):
            release = _release(item.uploads, plan.placed, mechanism)
            found += [release] if release.sums else []
        elif isinstance(item, Nested):
            found += _nested_releases(item, mechanism)
    return found


def _nested_releases(item: Nested, mechanism: Mechanism) -> list[PlannedRelease]:
    bodies = [_releases(body, mechanism) for body in item.bodies]
    match item.step:
        case equations.Scan():
            return bodies[0] * item.step.length
        case equations.While():
            if any(bodies):
                raise MechanismError(
                    "Expected a number of releases that is known before the run, got sums inside a "
                    "while loop. Use jax.lax.scan with a fixed length, or fori_loop with constants."
                )
            return []
    if any(body != bodies[0] for body in bodies):
        raise MechanismError(
            "Expected branches that release the same sums, got different ones. The branch depends "
            "on the data of the run, and the budget is reserved before the run."
        )
    return bodies[0]


def _release(uploads: Sequence[Sum], placed: Placed, mechanism: Mechanism) -> PlannedRelease:
    sums = []
    for step, name in zip(uploads, unique_names([step.name for step in uploads])):
        sent = _sent(step, placed)
        if sent:
            size = sum(math.prod(spec(step.inputs[i].aval).shape) for i in sent)
            sums.append(PlannedSum(name, mechanism.clip_norm_of(step.name), size))
    return PlannedRelease(tuple(sums))


def unique_names(names: Sequence[str]) -> list[str]:
    """The names of a round's sums, with numbers for duplicates."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


def _sent(step: Sum, placed: Placed) -> list[int]:
    """The positions of the inputs that clients send."""
    sent = [i for i, v in enumerate(step.inputs) if placed.placement(v) is CLIENTS]
    for dtype in (spec(step.inputs[i].aval).dtype for i in sent):
        if not jnp.issubdtype(dtype, jnp.floating):
            raise MechanismError(
                f"Expected floating-point contributions to the sum {step.name!r}, got "
                f"{dtype} ({step.line}). Convert with .astype(jnp.float32)."
            )
    return sent


class _Clipped(Evaluator):
    """Evaluates a program tick by tick, with a clip before the uploads of each tick."""

    def __init__(self, placed: Placed, mechanism: Mechanism):
        self.placed = placed
        self.mechanism = mechanism

    def equations(self, jaxpr: Jaxpr, env: MutableMapping) -> None:
        table = timetable(self.placed.inside(jaxpr))
        self._steps([*table.constants, *table.sizes], env)
        for tick in table.ticks:
            self._steps([*tick.server, *tick.downloads, *tick.client], env)
            self._uploads(tick.uploads, env)
            self._steps(tick.driven, env)

    def _steps(self, steps: Sequence[View], env: MutableMapping) -> None:
        for step in steps:
            results = self.equation(step.equation, [read(env, v) for v in step.inputs])
            env.update(zip(step.outputs, results))

    def _uploads(self, uploads: Sequence[Sum], env: MutableMapping) -> None:
        sent = [(step, i) for step in uploads for i in _sent(step, self.placed)]
        values = [read(env, step.inputs[i]) for step, i in sent]
        norms = [self.mechanism.clip_norm_of(step.name) for step, _ in sent]
        if self.mechanism.joint:
            bounded = clip(values, 1.0, norms=norms)
        else:
            bounded = self._separately(uploads, sent, values)
        clipped = dict(zip(((id(step), i) for step, i in sent), bounded))
        for step in uploads:
            operands = [clipped.get((id(step), i), read(env, v)) for i, v in enumerate(step.inputs)]
            with at_line(step.equation):
                env.update(zip(step.outputs, sum_p.bind(*operands, name=step.name)))

    def _separately(self, uploads: Sequence[Sum], sent: list, values: list) -> list:
        bounded: list[Any] = []
        for step in uploads:
            own = [value for (owner, _), value in zip(sent, values) if owner is step]
            bounded += clip(own, 1.0, norms=self.mechanism.clip_norm_of(step.name))
        return bounded
