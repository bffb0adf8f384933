"""The records of the second walk: the sums, noise and keys that judging uses.

Every visit of a loop's body has separate records. They count only if the initial facts of the visit
hold in every iteration, so the visit that confirms this is the last one.
"""

import dataclasses
from typing import Any

from audits.bounds.domains.contributions import Operand
from audits.bounds.domains.key_relations import Carry
from audits.bounds.domains.releases import NoiseSite
from audits.bounds.values.keys import NOTHING, Key, Keys, mixed
from audits.bounds.values.sets import NONE, Sums, united


@dataclasses.dataclass(frozen=True)
class KeyUse:
    """A draw from keys.

    Attributes:
      draw: Number of the drawn value.
      rows: The keys: one row, or one for each client that has its own.
      loops: The loops around the draw.
      raw: Sums without noise on which the keys depend.
      generator: Dtype of the keys.
    """

    draw: int
    rows: tuple[tuple[Key, ...], ...]
    loops: tuple[int, ...]
    raw: Sums
    generator: str


@dataclasses.dataclass
class Records:
    """The records of a walk, in program order.

    Attributes:
      operands: Facts about the contribution to each sum.
      noise: The places where noise is added to sums.
      uses: The draws.
      carries: The keys that loops carry.
      sent: The keys behind the values that clients receive.
      shown: Sums without noise behind the values that clients receive.
      undefined: Lines of derivatives that are zero times infinity at norm zero.
    """

    operands: dict[int, Operand] = dataclasses.field(default_factory=dict)
    noise: list[NoiseSite] = dataclasses.field(default_factory=list)
    uses: list[KeyUse] = dataclasses.field(default_factory=list)
    carries: dict[Any, Carry] = dataclasses.field(default_factory=dict)
    sent: Keys = NOTHING
    shown: Sums = NONE
    undefined: list[str] = dataclasses.field(default_factory=list)

    def add(self, later: "Records") -> None:
        """Appends later records."""
        self.operands.update(later.operands)
        self.noise += later.noise
        self.uses += later.uses
        self.carries.update(later.carries)
        self.sent = mixed([self.sent, later.sent])
        self.shown = united(self.shown, later.shown)
        self.undefined += later.undefined
