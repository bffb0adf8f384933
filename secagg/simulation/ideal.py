"""Ideal fidelity: masks that cancel, without the protocol that would agree on them.

For experiments with many clients. The survivors' vectors get masks that are uniform but for
having sum zero, which is how the protocol's masked vectors look to the server when nobody drops
out, at O(n d) cost: one keystream per client. The masked vectors are still what is added up, and
byte counts follow from the wire format and the graph. Not a way to aggregate for real: one party
knows all masks.

>>> x = np.arange(6, dtype=np.uint32).reshape(3, 2)
>>> masked_sum(x, SecureStream(), modulus_bits=32)
array([6, 9], dtype=uint32)

Sources: docs/secagg-spec.md, section "Simulation".
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from secagg.crypto import primitives, ring
from secagg.crypto.context import Purpose, digest
from secagg.crypto.primitives import SIGNATURE_BYTES
from secagg.crypto.streams import SecureStream
from secagg.errors import BelowThreshold
from secagg.protocol.codec import (
    COUNT,
    HEADER,
    KEY_SHARE_BYTES,
    SEALED_BYTES,
    SEED_SHARE_BYTES,
    Codec,
)
from secagg.protocol.graph import Graph
from secagg.protocol.parameters import Parameters
from secagg.protocol.rounds import Phase, phases
from secagg.protocol.server import check_survivors
from secagg.simulation.faults import Script

BLOCK_BYTES = 1 << 18


def masked_sum(
    vectors: np.ndarray,
    stream: SecureStream,
    *,
    modulus_bits: int,
    view: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Masks vectors with masks of sum zero and adds them up.

    Guarantees:
      The masked vectors are uniform subject to their sum; any n - 1 of them are independent.

    Args:
      vectors: [clients, length] words of the ring.
      stream: Source of the masks.
      modulus_bits: b.
      view: Array of the same shape that receives the masked vectors, or None to drop them.
      threads: Ranges of coordinates that are worked on at the same time.
    """
    length = vectors.shape[1]
    total = np.zeros(length, dtype=vectors.dtype)
    step = max(-(-length // threads), 1)
    with ThreadPoolExecutor(threads) as pool:
        jobs = []
        for start in range(0, length, step):
            columns = slice(start, start + step)
            part = None if view is None else view[:, columns]
            source = SecureStream(stream.bytes(primitives.KEY_BYTES))
            jobs.append(pool.submit(_add_masked, vectors[:, columns], source, total[columns], part))
        for job in jobs:
            job.result()
    for masked in () if view is None else view:
        ring.reduce(masked, modulus_bits)
    return ring.reduce(total, modulus_bits)


def _add_masked(
    vectors: np.ndarray, stream: SecureStream, total: np.ndarray, view: np.ndarray | None
) -> None:
    """Adds masked columns to a total that is zero, block by block in the cache.

    A masked block is the block XOR keystream, so its mask, in the ring, is their difference. The
    last client's masked block is what all blocks add up to less what was added so far.
    """
    clients, length = vectors.shape
    step = BLOCK_BYTES // vectors.itemsize
    buffers = [np.empty(min(step, length), dtype=vectors.dtype) for _ in range(2)]
    for start in range(0, length, step):
        columns = slice(start, min(start + step, length))
        part = total[columns]
        masked, last = (buffer[: part.size] for buffer in buffers)
        last[:] = vectors[-1, columns]
        for client in range(clients - 1):
            stream.cover(vectors[client, columns], masked)
            part += masked
            last += vectors[client, columns]
            if view is not None:
                view[client, columns] = masked
        last -= part
        part += last
        if view is not None:
            view[-1, columns] = last


class Census:
    """Who is heard from in each phase of a round without misbehaviour, and what that costs."""

    def __init__(self, parameters: Parameters, script: Script, stream: SecureStream, pinned):
        self.parameters = parameters
        self.codec = Codec(parameters)
        self.phases = phases(parameters.active)
        self.heard: dict[Phase, frozenset[int]] = {}
        for phase in self.phases:
            gone = script.gone(phase)
            heard = frozenset(range(parameters.clients)) - gone
            needed = parameters.shares_needed if phase is Phase.UNMASK else parameters.quorum
            if len(heard) < needed:
                raise BelowThreshold(
                    phase.value, f"expected at least {needed} clients, got {len(heard)}."
                )
            self.heard[phase] = heard
        context = digest(Purpose.IDEAL, stream.bytes(32))
        self.graph = Graph.derived(self.heard[Phase.ADVERTISE], parameters, context)
        self.survivors = tuple(sorted(self.heard[Phase.MASK]))
        sharers = self.heard[Phase.SHARE]
        check_survivors(self.survivors, sharers, self.graph, parameters, pinned)

    def bytes_up(self) -> list[int]:
        """Bytes each client sends."""
        return [
            sum(self._up(phase, i) for phase in self.phases if i in self.heard[phase])
            for i in range(self.parameters.clients)
        ]

    def bytes_down(self) -> list[int]:
        """Bytes the server sends to each client that was heard from in the phase before."""
        return [
            sum(
                self._down(after, i)
                for before, after in zip(self.phases, self.phases[1:])
                if i in self.heard[before]
            )
            for i in range(self.parameters.clients)
        ]

    def _around(self, client: int, phase: Phase) -> int:
        heard = self.heard[phase]
        if self.graph.ring is None:
            return len(heard) - (client in heard)
        return sum(neighbour in heard for neighbour in self.graph.neighbours(client))

    def _up(self, phase: Phase, client: int) -> int:
        codec, row = self.codec, COUNT.size
        if phase is Phase.ADVERTISE:
            return HEADER.size + codec.advertisement_bytes
        if phase is Phase.SHARE:
            others = self._around(client, Phase.ADVERTISE)
            return HEADER.size + COUNT.size + others * (row + SEALED_BYTES)
        if phase is Phase.MASK:
            return HEADER.size + codec.vector_bytes
        if phase is Phase.CONFIRM:
            return HEADER.size + SIGNATURE_BYTES
        own = self.graph.ring is None
        alive = self._around(client, Phase.MASK) + own
        dropped = self._around(client, Phase.SHARE) + own - alive
        shares = alive * (row + SEED_SHARE_BYTES) + dropped * (row + KEY_SHARE_BYTES)
        return HEADER.size + 2 * COUNT.size + shares

    def _down(self, phase: Phase, client: int) -> int:
        codec, row = self.codec, COUNT.size
        if phase is Phase.SHARE:
            members = len(self.heard[Phase.ADVERTISE])
            return HEADER.size + COUNT.size + members * (row + codec.advertisement_bytes)
        if phase is Phase.MASK:
            sealed = self._around(client, Phase.SHARE) * (row + SEALED_BYTES)
            return HEADER.size + codec.bitmap_bytes + COUNT.size + sealed
        if phase is Phase.CONFIRM or not self.parameters.active:
            return HEADER.size + codec.bitmap_bytes
        signers = len(self.heard[Phase.CONFIRM])
        return HEADER.size + COUNT.size + signers * (row + SIGNATURE_BYTES)
