"""Which random programs are drawn, and which modes of each may be refused.

A program is of one flavour: most flavours allow one kind of instruction for which a mode does not
exist, so that every mode is held to most programs.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator

from random_operations import LOCAL, PAIR
from random_programs import Step


@dataclasses.dataclass(frozen=True)
class Flavour:
    """What a program may contain beyond what every program may.

    Attributes:
      refused: Modes that may be refused.
      local: Further operations of the server or of a client.
      kinds: Further instructions, as kind and operation.
      dtype: Of the arguments.
      choices: Whether the server may choose between communicating branches.
    """

    refused: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()
    dtype: str = "float64"
    choices: bool = True


PLAIN = Flavour()
FLAVOURS = {
    "plain": PLAIN,
    "while": Flavour(
        ("reverse", "factored", "mixed"),
        ("while",),
        (("while", ""), ("while", "stateful"), ("while", "asking")),
    ),
    "vjp": Flavour(("forward",), ("vjp",)),
    "solver": Flavour(("mixed",), kinds=(("solver", ""),)),
    "rule": Flavour(("mixed",), kinds=(("sum", "rule"),)),
    "choice": Flavour(kinds=(("cond", "stateful"), ("switch", "stateful"))),
    "single": Flavour(local=("single",)),
    "float32": Flavour(dtype="float32"),
}
CHOICES = ("cond", "switch")
_DRAWN = ("plain",) * 4 + tuple(FLAVOURS)
# Of four clients; always as many, so that JAX's compilations of single operations are shared.
SURVIVORS = ([0, 2, 3], [3, 1, 0], [2, 1, 3])
# The differentiated arguments: the model, the hyperparameters, which may be unused, or both.
ARGUMENTS = (0, 0, 1, (1, 0))


@dataclasses.dataclass(frozen=True)
class Program:
    """A drawn program and how it is examined.

    Attributes:
      steps: Its instructions.
      flavour: A key of `FLAVOURS`.
      wrt: What is differentiated.
      survivors: Which of four clients answer.
    """

    steps: tuple[Step, ...]
    flavour: str
    wrt: int | tuple[int, ...]
    survivors: list[int]

    @property
    def refused(self) -> tuple[str, ...]:
        """Modes that may be refused: those of the flavour, and what is in docs/limitations.md.

        Backwards, no linear solver or custom rule may communicate inside a choice.
        """
        inside = (
            inner
            for step, _ in instructions(self.steps)
            if step.kind in CHOICES
            for body in step.bodies
            for inner, _ in instructions(body)
        )
        repeats = any(step.kind == "solver" or step.op == "rule" for step in inside)
        return FLAVOURS[self.flavour].refused + (("reverse", "factored") if repeats else ())

    @property
    def dtype(self) -> str:
        """Number type of the arguments."""
        return FLAVOURS[self.flavour].dtype

    @property
    def tolerance(self) -> float:
        """Values are of order one; programs have up to a few hundred operations."""
        return 1e-3 if self.flavour in ("single", "float32") else 1e-9


_BODIES = {
    "scan": (["", "collected", "once", "stateful"], 1),
    "fori": (["", "stateful"], 1),
    "cond": ([""], 2),
    "switch": ([""], 3),
    "wrapped": (["call", "checkpoint", "jit", "saving"], 1),
    "mapped": ([""], 1),
    "derived": (["client", "grad", "jvp", "vjp"], 1),
    "while": ([], 1),
}


def _operations(flavour: Flavour) -> dict[str, list[str]]:
    """Operations of every instruction that a flavour allows."""
    own = [*sorted(LOCAL), *flavour.local * 9]
    operations = {
        "server": own,
        "server_pair": sorted(PAIR),
        "client": own,
        "client_pair": sorted(PAIR),
        "constant": ["client", "server"],
        "broadcast": ["", "matrix", "tree"],
        "sum": ["", "constant", "one", "tree"],
        "mean": ["", "counted", "tree", "weighted"],
    } | {kind: list(ops) for kind, (ops, _) in _BODIES.items()}
    for kind, op in flavour.kinds:
        operations.setdefault(kind, []).append(op)
    refused = () if flavour.choices else CHOICES
    return {kind: ops for kind, ops in operations.items() if ops and kind not in refused}


def _step(draw: random.Random, flavour: Flavour, depth: int) -> Step:
    operations = _operations(flavour)
    nested = depth > 0 and draw.random() < 0.35
    special = [kind for kind, _ in flavour.kinds]
    kinds = [k for k in (*operations, *special) if (k in _BODIES) == nested and k in operations]
    kind = draw.choice(kinds)
    op = draw.choice(operations[kind])
    if not nested:
        return Step(kind, op, -draw.randint(1, 8), -draw.randint(1, 8))
    inside = flavour
    if kind == "derived":
        # What has no derivative in a direction is not differentiated inside, nor by JAX a choice.
        inside = dataclasses.replace(PLAIN, choices=False)
    if kind == "mapped":
        # A server's choice that differs between the mapped values is refused.
        inside = dataclasses.replace(inside, choices=False)
    count = _BODIES[kind][1]
    return Step(kind, op, bodies=tuple(_steps(draw, inside, depth - 1, 4) for _ in range(count)))


def _steps(draw: random.Random, flavour: Flavour, depth: int, most: int) -> tuple[Step, ...]:
    return tuple(_step(draw, flavour, depth) for _ in range(draw.randint(1, most)))


def program(seed: int, depth: int, most: int) -> Program:
    """The program of a seed, with crossings in both directions at the start and the end.

    Args:
      seed: Decides everything that is drawn.
      depth: Of control flow in control flow.
      most: Instructions at the top level.
    """
    draw = random.Random(seed)
    flavour = draw.choice(_DRAWN)
    first = Step("broadcast", "", -1)
    mixing = Step("client_pair", "dot", -1, -2)
    end = (mixing, Step("mean", "", -1), Step("server_pair", "add", -1, -2))
    steps = (first, mixing, *_steps(draw, FLAVOURS[flavour], depth, most), *end)
    return Program(steps, flavour, draw.choice(ARGUMENTS), draw.choice(SURVIVORS))


def every_instruction() -> set[tuple[str, str]]:
    """Kind and operation of everything that may be drawn."""
    allowed = [_operations(flavour) for flavour in FLAVOURS.values()]
    return {(kind, op) for operations in allowed for kind, ops in operations.items() for op in ops}


def instructions(steps: tuple[Step, ...], depth: int = 0) -> Iterator[tuple[Step, int]]:
    """Every instruction at any depth, and how many loops, branches or calls are around it."""
    for step in steps:
        yield step, depth
        for body in step.bodies:
            yield from instructions(body, depth + 1)


def smaller(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    """Programs with one instruction less, or with one replaced by what is inside of it."""
    for i, step in enumerate(steps):
        before, after = steps[:i], steps[i + 1 :]
        if len(steps) > 1:
            yield before + after
        for j, body in enumerate(step.bodies):
            yield before + body + after
            for less in smaller(body):
                bodies = (*step.bodies[:j], less, *step.bodies[j + 1 :])
                yield (*before, dataclasses.replace(step, bodies=bodies), *after)


def reduced(drawn: Program, fails: Callable[[Program], bool]) -> Program:
    """A smallest program that still fails."""
    for steps in smaller(drawn.steps):
        less = dataclasses.replace(drawn, steps=steps)
        if fails(less):
            return reduced(less, fails)
    return drawn
