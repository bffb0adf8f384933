"""Choosing a mode: what each mode of a derivative costs, side by side.

The model: fewest contacts first, because a round of a real cohort takes minutes; then no client
state, because clients drop out; then the fewest weighted bytes, uploads counting more than downloads
(consumer links are asymmetric, and secure aggregation and noise act on uploads). Where noise is what
matters, the numbers that are released can be priced too.

Source: Rush, Charles, Garrett (JMLR 2024), section 3.4, where these trade-offs are discussed.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

from secfad.costs import Costs
from secfad.errors import ArgumentError, ModeError, SecfadError
from secfad.jacobians import LargeJacobianWarning, NonlinearRuleWarning
from secfad.tracing import trace_flat

MODES = ("mixed", "forward", "reverse", "factored")


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
    """

    contact: float = 1e6
    state: float = 1e6
    up_byte: float = 4.0
    down_byte: float = 1.0
    state_byte: float = 1.0
    released_number: float = 0.0
    readdress: bool = True

    def total(self, cost: Costs) -> float:
        """Weighted sum; infinite where the same clients are needed and cannot be had."""
        if cost.readdressed and not self.readdress:
            return float("inf")
        priced = (
            (self.contact, cost.contacts),
            (self.state, cost.readdressed),
            (self.up_byte, cost.up_bytes),
            (self.down_byte, cost.down_bytes),
            (self.state_byte, cost.state_bytes),
            (self.released_number, cost.released),
        )
        return sum(weight * amount for weight, amount in priced if weight)


STANDARD = CostModel()


def choose_mode(derive: Callable[[str], Any], specs: tuple, model: CostModel = STANDARD) -> str:
    """The cheapest mode for a derivative at arguments of these shapes.

    Raises:
      ModeError: No mode exists for the program.
      ArgumentError: Arguments or results are none that have a derivative.
    """
    totals, refusals = {}, []
    for mode in MODES:
        try:
            with warnings.catch_warnings():
                # A mode that would give other numbers than the rest is no candidate.
                warnings.simplefilter("error", NonlinearRuleWarning)
                warnings.simplefilter("ignore", LargeJacobianWarning)
                totals[mode] = model.total(trace_flat(derive(mode), specs).costs)
        except ArgumentError:
            # No mode differentiates this.
            raise
        except (SecfadError, NonlinearRuleWarning) as error:
            refusals.append(f"{mode}: {str(error).splitlines()[0]}")
    if not totals:
        raise ModeError("No mode exists for this derivative. " + " | ".join(refusals))
    return min(totals, key=totals.__getitem__)
