"""What the second walk has seen: the sums, noise and keys that judging asks about.

Every visit of a loop's body has records of its own. They count only if the facts it started from turn
out to hold in every iteration, so a body needs no further visit after the one that shows this.
"""

import dataclasses

from audits.bounds.domains.contributions import Operand
from audits.bounds.domains.releases import NoiseSite
from audits.bounds.domains.sets import NONE, Sums, united
from audits.transfer.interpreter import Path


@dataclasses.dataclass(frozen=True)
class KeyUse:
    """A key is consumed: by a draw or by a split."""

    key: int
    path: Path
    count: int
    loops: tuple[int, ...]
    identities: frozenset[int] = frozenset()


@dataclasses.dataclass
class Records:
    """What was seen on the way, in the order of the program.

    Attributes:
      operands: What is known of the contribution to each sum.
      noise: Where noise meets sums.
      uses: Where keys are consumed.
      sent: Values that clients receive, and keys that these reveal.
      shown: Un-noised sums behind what clients receive.
      shown_draws: Keys whose draws are in what clients receive.
      lineages: Keys that determine a consumed key, itself included.
      identities: Which keys a consumed key may be.
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
        """Appends what was seen afterwards."""
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
