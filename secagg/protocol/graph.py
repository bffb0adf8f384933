"""Communication graph: whose shares a client holds and with whom it exchanges masks.

On the complete graph everybody is everybody's neighbour. On the ring the members of the round
are put in an order that is a hash of the round context, so of the announced (in the active
model: signed) keys, and each is joined to the k/2 before and the k/2 after it. Every client
recomputes the order; the server cannot pick the graph, it only influences who is a member.

>>> graph = Graph.complete([3, 5, 9])
>>> graph.neighbours(5), graph.holders(5)
((3, 9), (3, 5, 9))

Sources: Bell et al. (2020), section 3.1 (Harary graph on a random ring).
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from secagg.crypto.context import Purpose, label
from secagg.protocol.parameters import Parameters


@dataclass(frozen=True)
class Graph:
    """An undirected graph on the members of a round.

    Attributes:
      members: Indices of the members, increasing.
      ring: The members in ring order, or None for the complete graph.
      reach: k/2, how far on the ring a neighbour can be.
    """

    members: tuple[int, ...]
    ring: tuple[int, ...] | None = None
    reach: int = 0
    _position: dict[int, int] = field(init=False, repr=False, compare=False)
    _known: dict[int, tuple[int, ...]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _places: dict[int, dict[int, int]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self):
        order = self.members if self.ring is None else self.ring
        object.__setattr__(self, "_position", {member: i for i, member in enumerate(order)})

    @classmethod
    def complete(cls, members: Iterable[int]) -> "Graph":
        """The complete graph."""
        return cls(tuple(sorted(members)))

    @classmethod
    def derived(cls, members: Iterable[int], parameters: Parameters, context: bytes) -> "Graph":
        """The graph of a round, recomputable by everyone who knows the round context.

        Args:
          members: Clients whose keys were announced.
          parameters: Whether complete or ring, and k.
          context: Round digest; keys the order of the ring.
        """
        members = tuple(sorted(members))
        if parameters.neighbours is None:
            return cls(members)
        prefix = label(Purpose.GRAPH, context)
        rank = {m: hashlib.sha256(prefix + m.to_bytes(4, "little")).digest() for m in members}
        return cls(
            members, tuple(sorted(members, key=rank.__getitem__)), parameters.neighbours // 2
        )

    def neighbours(self, member: int) -> tuple[int, ...]:
        """The other ends of a member's edges, increasing."""
        if self.ring is None:
            return tuple(other for other in self.members if other != member)
        known = self._known.get(member)
        if known is None:
            here, size = self._position[member], len(self.ring)
            steps = range(-self.reach, self.reach + 1)
            found = {self.ring[(here + step) % size] for step in steps} - {member}
            known = self._known[member] = tuple(sorted(found))
        return known

    def holders(self, member: int) -> tuple[int, ...]:
        """Who holds shares of a member's secrets, in the order of the share points 1, 2, ....

        On the complete graph the owner keeps a share as well, so exactly t live clients are
        enough. On the ring it must not: the active threshold counts k shares.
        """
        return self.members if self.ring is None else self.neighbours(member)

    def places(self, member: int) -> Mapping[int, int]:
        """Position of every holder among the holders of a member, from 0."""
        if self.ring is None:
            return self._position
        known = self._places.get(member)
        if known is None:
            known = self._places[member] = {h: i for i, h in enumerate(self.neighbours(member))}
        return known

    def held(self, holder: int) -> tuple[int, ...]:
        """Whose shares a client holds: holding is symmetric on both graphs."""
        return self.holders(holder)

    def pairs(self) -> np.ndarray:
        """Every edge once, as rows (lower index, higher index)."""
        if self.ring is None:
            members = np.array(self.members, dtype=np.int64)
            low, high = np.triu_indices(len(members), 1)
            return np.stack([members[low], members[high]], axis=1)
        order = np.array(self.ring, dtype=np.int64)
        edges = [np.stack([order, np.roll(order, -step)], 1) for step in range(1, self.reach + 1)]
        return np.unique(np.sort(np.concatenate(edges), axis=1), axis=0)

    def connected(self, alive: Collection[int]) -> bool:
        """Whether the graph stays connected when only some members are left.

        On the ring it does unless two runs of at least k/2 consecutive members are missing.
        """
        if self.ring is None:
            return True
        return wide_gaps([member in alive for member in self.ring], self.reach) < 2


def wide_gaps(alive: Sequence[bool], reach: int) -> int:
    """Number of cyclic runs of at least `reach` dead positions."""
    places = np.flatnonzero(np.asarray(alive, dtype=bool))
    if len(places) < 2:
        return 0
    following = np.append(places[1:], places[0] + len(alive))
    return int(np.count_nonzero(following - places > reach))
