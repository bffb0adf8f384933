"""Tables: what a program sends, round by round, as text.

>>> import jax.numpy as jnp, secfad as fad
>>> @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
... def loss(w, x):
...     return fad.sum(jnp.vdot(fad.broadcast(w, name="model"), x), name="loss")
>>> print(table(loss.name, fad.trace(loss, jnp.zeros(3), jnp.zeros(3)).schedule))
loss
round 1
  down    model  float32[3]  12 B
  client  1 equation
  up      loss   float32     4 B
contacts 1, rounds 1, down 12 B, up 4 B, client state 0 B, same clients again: no
"""

from collections.abc import Iterable, Iterator, Sequence

from secfad import _jax
from secfad.jaxprs.equations import Atom, Cond, Scan, Sum
from secfad.placements import CLIENTS
from secfad.programs.costs import Costs, costs, nbytes
from secfad.programs.stages import Nested, Round, Schedule, Stage

Row = tuple[str, ...]
Payload = tuple[str, Sequence[Atom]]


def table(name: str, plan: Schedule) -> str:
    """The messages and stages of a schedule, with the costs of one evaluation as the last line."""
    lines = [name, *_lines(plan, 0, _Counter()), summary(costs(plan))]
    return "\n".join(lines)


def summary(cost: Costs) -> str:
    """Costs of one evaluation in one line."""
    return (
        f"contacts {count(cost.contacts)}, rounds {count(cost.rounds)}, "
        f"down {size(cost.down_bytes)}, up {size(cost.up_bytes)}, "
        f"client state {size(cost.state_bytes)}, "
        f"same clients again: {'yes' if cost.readdressed else 'no'}"
    )


def count(number: float) -> str:
    """A count that a while loop may leave open."""
    return "unbounded" if number == float("inf") else f"{int(number):,}"


def size(number: float) -> str:
    """A number of bytes."""
    return "unbounded" if number == float("inf") else f"{int(number):,} B"


def shape(atoms: Iterable[Atom]) -> str:
    """Dtypes and shapes of values, such as `float32[3] float32`."""
    words = []
    for atom in atoms:
        spec = _jax.spec(atom.aval)
        axes = ",".join(map(str, spec.shape))
        words.append(f"{spec.dtype}[{axes}]" if axes else f"{spec.dtype}")
    return " ".join(words)


def sent(message: Sum, plan: Schedule) -> list[Atom]:
    """The operands of a sum that clients really send; constants need no bytes."""
    return [v for v in message.inputs if plan.placed.placement(v) is CLIENTS]


def payloads(item: Round, plan: Schedule) -> tuple[Sequence[Payload], Sequence[Payload]]:
    """Downloads and uploads of a round, as names and the values that travel."""
    down = [(m.name, m.outputs) for m in item.downloads]
    up = [(m.name, sent(m, plan)) for m in item.uploads if sent(m, plan)]
    return down, up


def silent(item: Round) -> str:
    """What happens at clients that send nothing."""
    return "download" if item.downloads else "clients alone"


def title(item: Nested) -> str:
    """What the server drives, such as `repeat 4 times`."""
    match item.step:
        case Scan():
            return f"repeat {item.step.length:,} times"
        case Cond():
            return f"one of {len(item.bodies)} branches"
    return "repeat while the server says so"


class _Counter:
    """Numbers the rounds in the order in which they are written."""

    def __init__(self) -> None:
        self.rounds = 0

    def next(self) -> int:
        self.rounds += 1
        return self.rounds


def _lines(plan: Schedule, depth: int, counter: _Counter) -> Iterator[str]:
    margin = "  " * depth
    for item in plan.items:
        match item:
            case Stage():
                yield f"{margin}server  {equations(item)}"
            case Round():
                down, up = payloads(item, plan)
                yield margin + (f"round {counter.next()}" if up else silent(item))
                rows: list[Row] = [("down", n, shape(v), size(nbytes(v))) for n, v in down]
                if item.client.jaxpr.eqns:
                    rows.append(("client", equations(item.client)))
                rows += [("up", n, shape(v), size(nbytes(v))) for n, v in up]
                if item.kept:
                    rows.append(("kept", f"{size(nbytes(item.kept))} at every client"))
                yield from (f"{margin}  {line}" for line in aligned(rows))
            case Nested():
                yield f"{margin}{title(item)}"
                for number, body in enumerate(item.bodies):
                    if len(item.bodies) > 1 and isinstance(item.step, Cond):
                        yield f"{margin}  branch {number}"
                    yield from _lines(body, depth + 2, counter)
                if item.kept:
                    yield f"{margin}  kept  {size(nbytes(item.kept))} at every client"


def equations(stage: Stage) -> str:
    """How much a stage computes."""
    number = len(stage.jaxpr.eqns)
    return f"{number:,} equation{'s' if number != 1 else ''}"


def aligned(rows: Sequence[Row]) -> list[str]:
    """Rows as lines with columns of equal width; a row of two words is not padded."""
    widths = [0, 0, 0, 0]
    for row in rows:
        for i, word in enumerate(row if len(row) > 2 else row[:1]):
            widths[i] = max(widths[i], len(word))
    return ["  ".join(w.ljust(widths[i]) for i, w in enumerate(row)).rstrip() for row in rows]
