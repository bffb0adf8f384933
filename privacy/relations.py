"""Neighbouring relations: the pairs of populations that a guarantee compares.

One ledger has one relation, fixed when it is created. `ADD_OR_REMOVE_ONE` compares populations
that differ by one client; `REPLACE_SPECIAL` replaces a client by one that contributes zero (the
same numbers, and meaningful when the population size is public); `REPLACE_ONE` swaps a client for
another. Contributions clipped to C move a sum by C under the first two and by 2 C under the last.

>>> Relation.parse("REPLACE_ONE").sensitivity_factor
2

Sources: Dwork & Roth (2014), section 2.3; the reporting guide of Ponomareva et al. (2023), 2.1.3.
"""

import enum

from privacy.errors import InvalidEvent


class Relation(enum.StrEnum):
    """A neighbouring relation between populations of clients."""

    ADD_OR_REMOVE_ONE = "ADD_OR_REMOVE_ONE"
    REPLACE_ONE = "REPLACE_ONE"
    REPLACE_SPECIAL = "REPLACE_SPECIAL"

    @property
    def sensitivity_factor(self) -> int:
        """The change of a clipped sum by one client, in clip norms."""
        return 2 if self is Relation.REPLACE_ONE else 1

    @classmethod
    def parse(cls, name: "str | Relation") -> "Relation":
        """Returns the relation of that name; `InvalidEvent` for an unknown one."""
        try:
            return cls(name)
        except ValueError:
            known = ", ".join(cls)
            raise InvalidEvent(
                f"Expected a neighbouring relation among {known}; got {name!r}."
                " Pass relation='ADD_OR_REMOVE_ONE' unless the population size is part of the"
                " claim."
            ) from None
