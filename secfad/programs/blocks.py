"""`Block`: a placed program, as a list of steps that each happen at one place.

Placement inference turns a jaxpr into a block; staging, drawing, costs and mixed mode read blocks.

    Local       an ordinary equation, at the server, at every client, or (constants) on both sides
    Broadcast   server values become values that every client holds
    Sum         one message from every client; constant operands need no bytes
    Loop        a `scan` whose body communicates or mixes places: driven by the server
    While       a `while` whose body communicates: driven by the server
    Branch      a `cond` on a server value whose branches communicate or mix places

Control flow that stays at one place is a `Local` step.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from secfad._jax import JaxprEqn, Literal, Var, user_line
from secfad.placements import Placement

Atom = Var | Literal
Inputs = tuple[Atom, ...]
Outputs = tuple[Var, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Local:
    """An equation at one place; `placement` None means that both sides can compute it."""

    equation: JaxprEqn
    placement: Placement | None

    @property
    def inputs(self) -> Inputs:
        """What the equation reads."""
        return tuple(self.equation.invars)

    @property
    def outputs(self) -> Outputs:
        """What the equation defines."""
        return tuple(self.equation.outvars)


@dataclasses.dataclass(frozen=True, eq=False)
class Broadcast:
    """One message from the server to every client; `equation` says where it was written."""

    name: str
    inputs: Inputs
    outputs: Outputs
    equation: JaxprEqn

    @property
    def line(self) -> str:
        """The user's line."""
        return user_line(self.equation)


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """One message from every client to the server, added up; `equation` says where it was written."""

    name: str
    inputs: Inputs
    outputs: Outputs
    equation: JaxprEqn

    @property
    def line(self) -> str:
        """The user's line."""
        return user_line(self.equation)


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """A scan driven by the server: inputs are constants, carries, then sequences."""

    body: "Block"
    constants: int
    carries: int
    length: int
    reverse: bool
    inputs: Inputs
    outputs: Outputs
    equation: JaxprEqn


@dataclasses.dataclass(frozen=True, eq=False)
class While:
    """A while loop driven by the server: inputs are the predicate's constants, the body's, carries."""

    predicate: "Block"
    body: "Block"
    predicate_constants: int
    body_constants: int
    inputs: Inputs
    outputs: Outputs
    equation: JaxprEqn


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """A choice by the server: the first input is the index of the branch."""

    branches: "tuple[Block, ...]"
    inputs: Inputs
    outputs: Outputs
    equation: JaxprEqn


Step = Local | Broadcast | Sum | Loop | While | Branch
Structured = Loop | While | Branch


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A placed program.

    Attributes:
      inputs: Variables of the arguments.
      results: What the program returns.
      steps: In an order in which every step reads only what was defined before.
      placements: Of every variable; None for values that depend on no placed argument.
      constants: Values of the variables that the program captures.
    """

    inputs: Outputs
    results: Inputs
    steps: tuple[Step, ...]
    placements: Mapping[Var, Placement | None]
    constants: Mapping[Var, Any]

    def placement(self, atom: Atom) -> Placement | None:
        """Where a value lives."""
        return None if isinstance(atom, Literal) else self.placements[atom]


def inner_blocks(step: Step) -> tuple[Block, ...]:
    """The blocks inside a structured step."""
    match step:
        case Loop():
            return (step.body,)
        case While():
            return (step.predicate, step.body)
        case Branch():
            return step.branches
    return ()


def communicates(block: Block) -> bool:
    """True if any step of the block, at any depth, is a message."""
    return any(
        isinstance(step, Broadcast | Sum) or any(communicates(b) for b in inner_blocks(step))
        for step in block.steps
    )


def has_branches(block: Block) -> bool:
    """True if the server chooses between branches, at any depth."""
    return any(
        isinstance(step, Branch) or any(has_branches(b) for b in inner_blocks(step))
        for step in block.steps
    )
