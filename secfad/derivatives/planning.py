"""Choosing a mode: what each mode of a derivative costs, side by side.

The model is a weighted sum. A contact of a real cohort takes minutes, and clients that must come
back drop out, so by default a contact, and needing the same clients again, weigh as much as 250 kB
sent. Uploads weigh four times as much as downloads: consumer links are asymmetric, and secure
aggregation and noise act on uploads. Where noise is what matters, the numbers that are released can
be priced too.

Source: Rush, Charles, Garrett (JMLR 2024), section 3.4, where these trade-offs are discussed.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence

from secfad.derivatives.jacobians import LargeJacobianWarning, NonlinearRuleWarning
from secfad.errors import ArgumentError, ModeError, SecfadError
from secfad.programs.costs import Costs, costs
from secfad.programs.programs import Program

MODES = ("mixed", "forward", "reverse", "factored", "blockwise")
_NOTED = (LargeJacobianWarning, NonlinearRuleWarning)


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Weights of a mode's costs; the smaller the total, the better.

    Attributes:
      contact: Of one contact with the cohort.
      state: Of needing the same clients again.
      up_byte: Of one byte sent by a client.
      down_byte: Of one byte received by a client.
      state_byte: Of one byte that a client keeps for a later contact.
      released_number: Of one number that a sum gives to the server. Under noise of fixed size per
        number, the error of a release grows with the root of their count.
      readdress: Whether the same clients can be contacted again at all.
      iterations: How often a while loop is taken to run.
    """

    contact: float = 1e6
    state: float = 1e6
    up_byte: float = 4.0
    down_byte: float = 1.0
    state_byte: float = 1.0
    released_number: float = 0.0
    readdress: bool = True
    iterations: float = 10.0

    def terms(self, cost: Costs) -> dict[str, float]:
        """What each kind of cost adds to the total."""
        priced = {
            "contacts": (self.contact, cost.contacts),
            "same clients": (self.state, cost.readdressed),
            "up": (self.up_byte, cost.up_bytes),
            "down": (self.down_byte, cost.down_bytes),
            "state": (self.state_byte, cost.state_bytes),
            "released": (self.released_number, cost.released),
        }
        return {name: weight * amount for name, (weight, amount) in priced.items() if weight}

    def total(self, cost: Costs) -> float:
        """Weighted sum; infinite where the same clients are needed and cannot be had."""
        if cost.readdressed and not self.readdress:
            return math.inf
        return sum(self.terms(cost).values())


STANDARD = CostModel()


@dataclasses.dataclass(frozen=True)
class Option:
    """One mode of a derivative.

    Attributes:
      mode: "mixed", "forward", "reverse", "factored" or "blockwise".
      program: The derivative in this mode; None if there is none.
      cost: Its total under the cost model; infinite where it cannot be used.
      usable: Whether the mode exists, gives the derivative, and the cost model allows it.
      note: Why the mode is refused, or a warning about it; empty if there is nothing to say.
    """

    mode: str
    program: Program | None
    cost: float
    usable: bool
    note: str = ""


def priced(program_in: Callable[[str], Program], model: CostModel) -> tuple[Option, ...]:
    """Every mode of a derivative, given what makes its program in a mode.

    Raises:
      ArgumentError: Arguments or results are none that have a derivative.
    """
    return tuple(_option(mode, program_in, model) for mode in MODES)


def _option(mode: str, program_in: Callable[[str], Program], model: CostModel) -> Option:
    with warnings.catch_warnings(record=True) as caught:
        for category in _NOTED:
            warnings.simplefilter("always", category)
        try:
            program = program_in(mode)
        except (ArgumentError, Warning, MemoryError):
            # No mode differentiates this, or the reason lies outside of the mode.
            raise
        except Exception as error:
            # What the value can do, JAX may refuse to differentiate, by errors of any type.
            return Option(mode, None, math.inf, False, _reason(error))
    noted = [w for w in caught if issubclass(w.category, _NOTED)]
    # A mode that would give other numbers than the rest is no candidate.
    exact = not any(issubclass(w.category, NonlinearRuleWarning) for w in noted)
    cost = model.total(costs(program.schedule, model.iterations))
    usable = exact and not math.isinf(cost)
    return Option(mode, program, cost, usable, "; ".join(str(w.message) for w in noted))


def _reason(error: Exception) -> str:
    """The first line of an error, with its type where the text is not ours."""
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, SecfadError) else f"{type(error).__name__}: {text}"


def cheapest(options: Sequence[Option], name: str) -> Option:
    """The option of the least cost; the first of equals.

    Raises:
      ModeError: There is no mode, or none that the cost model allows.
    """
    usable = [option for option in options if option.usable]
    if not usable:
        notes = " | ".join(f"{o.mode}: {o.note or 'needs the same clients again'}" for o in options)
        raise ModeError(f"No mode of the derivative of `{name}` can be used. {notes}")
    return min(usable, key=lambda option: option.cost)
