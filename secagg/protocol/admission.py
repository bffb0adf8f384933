"""Cohort ledger: what one party remembers between rounds so that sums cannot be compared.

A secure sum hides a client among the others of its cohort. Two sums over nearly the same cohort
undo that: their difference is the sum over the few clients by which they differ. The ledger
refuses a cohort whose difference from an earlier one of the same family is smaller than the
least cohort. It also refuses a round context that was used before.

>>> ledger = CohortLedger(min_difference=3)
>>> ledger.admit([0, 1, 2, 3, 4])
>>> ledger.admit([0, 1, 2, 3])
Traceback (most recent call last):
    ...
secagg.errors.CohortRefused: Expected a cohort that equals every earlier one or differs ...

Sources: So et al. (2021), arXiv 2106.03328 (partial aggregates over rounds).
"""

import threading
from collections.abc import Hashable, Iterable

from secagg.errors import CohortRefused


class CohortLedger:
    """Contexts and cohorts seen so far; safe to share between threads.

    Guarantees:
      Among admitted cohorts of one family, the symmetric difference of any two is empty or has at
      least `min_difference` clients, so no difference of two sums isolates fewer. It compares
      pairs; combinations of three or more sums are not examined.

    Args:
      min_difference: Least number of clients by which two cohorts may differ.
    """

    def __init__(self, *, min_difference: int = 3):
        self.min_difference = min_difference
        self._contexts: set[bytes] = set()
        self._cohorts: dict[bytes, set[frozenset[Hashable]]] = {}
        self._lock = threading.Lock()

    def claim(self, context: bytes) -> None:
        """Takes a round context; each can be taken once."""
        with self._lock:
            if context in self._contexts:
                raise CohortRefused(
                    "Expected a fresh round context, got one that was used before. "
                    "Pass another context=, for example a new round id."
                )
            self._contexts.add(context)

    def admit(self, cohort: Iterable[Hashable], *, family: bytes = b"") -> None:
        """Records the survivors of a sum, or refuses them before they are summed.

        Args:
          cohort: Clients of the sum, by names that last from round to round.
          family: Sums that can be compared, for example those on one model.
        """
        members = frozenset(cohort)
        with self._lock:
            seen = self._cohorts.setdefault(family, set())
            for earlier in seen:
                difference = len(members ^ earlier)
                if 0 < difference < self.min_difference:
                    raise CohortRefused(
                        "Expected a cohort that equals every earlier one or differs from it by "
                        f"at least {self.min_difference} clients, got a difference of "
                        f"{difference}. Wait, or use the same cohort."
                    )
            seen.add(members)
