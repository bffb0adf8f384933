"""The records of the second walk: the sums, noise and keys that judging uses.

Every visit of a loop's body has separate records. They count only if the initial facts of the visit
hold in every iteration, so the visit that confirms this is the last one.
"""

import dataclasses

from audits.bounds.domains.contributions import Operand
from audits.bounds.domains.releases import NoiseSite
from audits.bounds.domains.sets import NONE, Sums, united
from audits.transfer.interpreter import Path


@dataclasses.dataclass(frozen=True)
class KeyUse:
    """A key is consumed, by a draw or by a split."""

    key: int
    path: Path
    count: int
    loops: tuple[int, ...]
    identities: frozenset[int] = frozenset()


@dataclasses.dataclass
class Records:
    """The records of a walk, in program order.

    Attributes:
      operands: Facts about the contribution to each sum.
      noise: The places where noise is added to sums.
      uses: The places where keys are consumed.
      sent: Values that clients receive, and the keys that they reveal.
      shown: Sums without noise behind the values that clients receive.
      shown_draws: Keys whose draws are in the values that clients receive.
      lineages: Keys that determine a consumed key, including the key itself.
      identities: The keys that a consumed key may be.
      generators: Dtype of a consumed key.
      undefined: Lines of derivatives that are zero times infinity at norm zero.
    """

    operands: dict[int, Operand] = dataclasses.field(default_factory=dict)
    noise: list[NoiseSite] = dataclasses.field(default_factory=list)
    uses: list[KeyUse] = dataclasses.field(default_factory=list)
    sent: set[int] = dataclasses.field(default_factory=set)
    shown: Sums = NONE
    shown_draws: frozenset[int] = frozenset()
    lineages: dict[int, frozenset[int]] = dataclasses.field(default_factory=dict)
    identities: dict[int, frozenset[int]] = dataclasses.field(default_factory=dict)
    generators: dict[int, str] = dataclasses.field(default_factory=dict)
    undefined: list[str] = dataclasses.field(default_factory=list)

    def add(self, later: "Records") -> None:
        """Appends later records."""
        self.operands.update(later.operands)
        self.noise += later.noise
        self.uses += later.uses
        self.sent |= later.sent
        self.shown = united(self.shown, later.shown)
        self.shown_draws = united(self.shown_draws, later.shown_draws)
        self.lineages.update(later.lineages)
        self.identities.update(later.identities)
        self.generators.update(later.generators)
        self.undefined += later.undefined
