"""Scheduling: which steps can happen before the first round, in it, after it, and so on.

Time is counted in ticks. In tick t the server computes, sends what clients need, every client
computes and answers, and all answers that can travel together do; then loops that communicate run.
A sum made in tick t is known to the server in tick t + 1. Every message goes as early as its data
allow, which gives the fewest rounds; only a sum of tangents waits for that of the values, so that both
come from the same clients. Client work that nobody needs yet waits until its first use, so that
clients keep as little as possible from one round to the next.

Source: Rush, Charles, Garrett (JMLR 2024), Figs. 3-5: the parallel form of Fig. 5 falls out.
"""

import dataclasses
import itertools

from secfad._jax import Var
from secfad.jaxprs.equations import Atom, Broadcast, Sum, View
from secfad.placements import CLIENTS
from secfad.primitives import TANGENT
from secfad.programs.placed import Control, Placed


@dataclasses.dataclass(frozen=True, eq=False)
class Tick:
    """What happens between two answers of the cohort, in this order."""

    server: tuple[View, ...]
    downloads: tuple[Broadcast, ...]
    client: tuple[View, ...]
    uploads: tuple[Sum, ...]
    driven: tuple[Control, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Timetable:
    """The steps of a placed program in the order in which they happen.

    Attributes:
      constants: Steps that depend on no argument and on no loop; both sides can do them at any time.
      sizes: Sums of constants only: the size of the cohort, known without a round.
      ticks: The rest.
    """

    constants: tuple[View, ...]
    sizes: tuple[Sum, ...]
    ticks: tuple[Tick, ...]


def timetable(placed: Placed) -> Timetable:
    """Schedules a program into the fewest rounds that its data dependences allow."""
    earliest, constants, sizes = _earliest(placed)
    columns = {step: _column(placed, step) for step in earliest}
    when = _postponed(placed, earliest, columns)
    last = max(when.values(), default=0)
    rows: list[dict[str, list]] = [
        {field.name: [] for field in dataclasses.fields(Tick)} for _ in range(last + 1)
    ]
    for step in placed.steps:
        if step in when:
            rows[when[step]][columns[step]].append(step)
    ticks = (Tick(**{name: tuple(steps) for name, steps in row.items()}) for row in rows)
    return Timetable(tuple(constants), tuple(sizes), tuple(ticks))


def one_contact(placed: Placed) -> bool:
    """True if server and clients exchange one message each way, outside of any loop."""
    ticks = timetable(placed).ticks
    return len([t for t in ticks if t.downloads or t.uploads or t.driven]) == 1 and not any(
        t.driven for t in ticks
    )


def _column(placed: Placed, step: View) -> str:
    match step:
        case Broadcast():
            return "downloads"
        case Sum():
            return "uploads"
    if placed.is_driven(step):
        return "driven"
    # What both sides know only after a loop is computed by the server, for both.
    return "client" if placed.place_of(step) is CLIENTS else "server"


def _earliest(placed: Placed) -> tuple[dict[View, int], list[View], list[Sum]]:
    """The first tick of every placed step; constants and cohort sizes apart."""
    ready: dict[Var, int] = dict.fromkeys(placed.inputs, 0)
    earliest: dict[View, int] = {}
    constants: list[View] = []
    sizes: list[Sum] = []

    def time(atoms: list[Atom]) -> int:
        return max((ready.get(v, 0) for v in atoms if isinstance(v, Var)), default=0)

    values = _values_of_tangents(placed)
    for step in placed.steps:
        now = time(step.inputs)
        later = now
        if isinstance(step, Sum) and step in values:
            # Which clients answer decides about both.
            now = max(now, earliest.get(values[step], 0))
        if isinstance(step, Sum) and all(placed.placement(v) is None for v in step.inputs):
            sizes.append(step)
        elif isinstance(step, Sum) or placed.is_driven(step):
            earliest[step] = now
            later = now + 1
        elif now or placed.place_of(step) is not None:
            earliest[step] = now
        else:
            constants.append(step)
        ready.update(dict.fromkeys(step.outputs, later))
    return earliest, constants, sizes


def _values_of_tangents(placed: Placed) -> dict[Sum, Sum]:
    """The sum of values that each sum of tangents is taken to belong to, if it comes first.

    Both have the same name. Forward mode adds them up one right after the other. Elsewhere they belong
    together in order, or, if some values have no tangents, a tangent to the latest value before it; where
    that may be another one, the same clients have to answer again (`secfad.programs.pairing`).
    """
    sums = [step for step in placed.steps if isinstance(step, Sum)]
    if not any(step.name.endswith(TANGENT) for step in sums):
        return {}
    position = {step: i for i, step in enumerate(sums)}
    named: dict[str, list[Sum]] = {}
    for step in sums:
        named.setdefault(step.name, []).append(step)
    found = {
        tangent: value
        for value, tangent in itertools.pairwise(placed.steps)
        if isinstance(value, Sum)
        and isinstance(tangent, Sum)
        and tangent.name == value.name + TANGENT
    }
    for name, tangents in named.items():
        values = named.get(name.removesuffix(TANGENT), [])
        if not name.endswith(TANGENT) or not values:
            continue
        for number, tangent in enumerate(tangents):
            before = [v for v in values if position[v] < position[tangent]]
            if before and tangent not in found:
                in_order = len(values) == len(tangents) and values[number] in before
                found[tangent] = values[number] if in_order else before[-1]
    return found


def _postponed(
    placed: Placed, earliest: dict[View, int], columns: dict[View, str]
) -> dict[View, int]:
    """Moves client work and downloads to the tick of their first use."""
    first_use: dict[Var, int] = {}
    when = dict(earliest)
    for step in reversed(placed.steps):
        if step not in earliest:
            continue
        if columns[step] in ("downloads", "client"):
            uses = [first_use[v] for v in step.outputs if v in first_use]
            when[step] = max(min(uses, default=earliest[step]), earliest[step])
        for variable in step.inputs:
            if isinstance(variable, Var):
                first_use[variable] = min(first_use.get(variable, when[step]), when[step])
    return when
