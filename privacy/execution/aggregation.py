"""The DP aggregator: turns the uploads of one round into noisy sums by secure aggregation.

Every client flattens its contributions, each in units of its clip norm, and rotates them if
requested. It rounds them randomly to an integer grid and re-checks the integer norm. The integers
are sent in one SecAgg vector. The server adds discrete Gaussian noise to the decoded integer sum,
or every client adds its share to its integers before masking; clients always add Skellam noise. The
charged sensitivity is that of the *integers*: rounding is part of the mechanism.

    contribution x_k -> x_k / C_k (-> rotated) -> integers, norm <= bound (-> + share of noise) -> ring
    -> SecAgg -> integer sum (-> + noise) (-> rotated back) -> times C_k / grid

Sources: Kairouz, Liu, Steinke (2021), section 3, for conditional rounding; Canonne, Kamath, Steinke
(2020) for the discrete Gaussian; Agarwal, Kairouz, Liu (2021) for Skellam; docs/privacy-model.md.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

import secagg
from privacy.accounting.slots import Release, charged_std
from privacy.execution.secure_sums import SecureSums
from privacy.mechanisms.mechanisms import Mechanism
from privacy.mechanisms.privatization import PlannedRelease
from privacy.noise.capacity import Load, ring_bits
from privacy.noise.quantization import integer_l1_bound, integer_norm_bound, round_within
from privacy.noise.rotation import Rotation, padded_size
from privacy.noise.samplers import check_noise, discrete_gaussian, skellam
from secagg.crypto import ring
from secfad.inner import Aggregate, Upload

# The rounded norm exceeds the bound with at most this probability per client and is then redrawn.
_ROUNDING_BETA = 0.5
# Without rotation a ring of one machine word costs nothing extra but bytes, and packs fastest.
_WORD_BITS = 32
_SEED_BYTES = 16
# A clipped contribution in units of its clip norm, with room for 8-bit rounding.
_CLIPPED = 2.0
Faults = Callable[[int], Sequence[Any]]


@dataclass(frozen=True)
class Group:
    """Sums of one round that are clipped together.

    Attributes:
      release: The round's release.
      first, last: Index of the first sum of the group, and one past the last.
      bound: Largest L2 norm of one client's integers.
      noise_std: Standard deviation of the noise on the integer sum, in grid steps.
      rotated: Whether the integers are of rotated vectors, padded to a power of two.
    """

    release: PlannedRelease
    first: int
    last: int
    bound: float
    noise_std: float
    rotated: bool = False
    noise_kind: str = "discrete_gaussian"

    @property
    def size(self) -> int:
        """Numbers in the group."""
        return sum(s.size for s in self.release.sums[self.first : self.last])

    @property
    def width(self) -> int:
        """Integers sent for the group."""
        return padded_size(self.size) if self.rotated else self.size

    @property
    def charged_multiplier(self) -> float:
        """Noise over bound, as a ledger charges it under add-or-remove-one."""
        return charged_std(self.noise_std, self.noise_kind) / self.bound

    def share_std(self, mechanism: Mechanism, clients: int) -> float:
        """Standard deviation of one client's noise: the guaranteed survivors' shares sum to
        `noise_std`.
        """
        return self.noise_std / mechanism.guaranteed_survivors(clients) ** 0.5

    def load(self, mechanism: Mechanism, clients: int) -> Load:
        """The group's load on the ring, including the server's noise if a sum may wrap."""
        if not mechanism.by_clients and not self.rotated:
            return Load(clients, self.bound, self.width)
        total = self.noise_std**2 / clients
        share = self.share_std(mechanism, clients) ** 2 if mechanism.by_clients else total
        return Load(clients, self.bound, self.width, self.rotated, mechanism.noise_kind, share)


def groups(release: PlannedRelease, mechanism: Mechanism) -> tuple[Group, ...]:
    """The clip groups of a round: all sums jointly, or each sum separately."""
    count = len(release.sums)
    spans = [(0, count)] if mechanism.joint else [(i, i + 1) for i in range(count)]
    found = []
    for first, last in spans:
        size = sum(s.size for s in release.sums[first:last])
        width = padded_size(size) if mechanism.rotation else size
        bound = integer_norm_bound(1.0, mechanism.grid, width, beta=_ROUNDING_BETA)
        multiplier = mechanism.noise_multiplier_of(release.sums[first].name)
        std, kind = multiplier * bound, mechanism.noise_kind
        found.append(Group(release, first, last, bound, std, mechanism.rotation, kind))
    return tuple(found)


def modulus_bits(release: PlannedRelease, mechanism: Mechanism, clients: int) -> int:
    """The ring of one round: no sum of the cohort wraps, see `privacy.noise.capacity`.

    Raises:
      MechanismError: No ring is large enough.
    """
    loads = [group.load(mechanism, clients) for group in groups(release, mechanism)]
    return ring_bits(loads, least=1 if mechanism.rotation else _WORD_BITS)


def charged_releases(
    releases: Sequence[PlannedRelease], mechanism: Mechanism, clients: int, factor: int = 1
) -> list[Release]:
    """The releases of one evaluation for the ledger: every sum of every round, with its noise.

    One client changes a sum by `factor` clip norms under the ledger's relation.

    Raises:
      MechanismError: A round's sums and noise fit no ring.
      InvalidEvent: The noise is too small to be charged, or larger than can be drawn.
    """
    by_clients = mechanism.by_clients
    fewest = mechanism.guaranteed_survivors(clients) if by_clients else None
    skellam_noise = mechanism.noise_kind == "skellam"
    charged = []
    for index, release in enumerate(releases):
        modulus_bits(release, mechanism, clients)
        for group in groups(release, mechanism):
            share = group.share_std(mechanism, clients) if by_clients else group.noise_std
            check_noise(mechanism.noise_kind, share)
            l1 = factor * integer_l1_bound(group.bound, group.width) if skellam_noise else None
            for planned in release.sums[group.first : group.last]:
                charged.append(
                    Release(
                        name=f"{index}:{planned.name}",
                        clip_norm=planned.clip_norm,
                        sensitivity=factor * group.bound,
                        noise_std=group.noise_std,
                        noise_party="clients" if by_clients else "server",
                        min_survivors=fewest,
                        units="grid",
                        group=f"{index}:{group.first}",
                        noise_kind=mechanism.noise_kind,
                        l1_sensitivity=l1,
                    )
                )
    return charged


@dataclass
class SecureAggregator:
    """Aggregates the uploads of one evaluation; called by `secfad.execute`.

    Attributes:
      releases: The expected uploads of the program, by round.
      expected_size: Public number of clients, by which constants are multiplied.
      context: Bound into every round of the protocol.
      before_noise: Called once, before the first noise is drawn.
      stream: Secret randomness of rounding, of rotations and of noise.
      released: The noisy sums of every round so far.
      survivors: Clients in the sums so far; pinned after the first round.
      bytes_up, bytes_down: Serialised bytes per client and round, in the protocol.
      transcripts: Of every round, with distributed noise only: a transcript holds the decoded sum,
        to which the server has not yet added its noise.
    """

    releases: Sequence[PlannedRelease]
    mechanism: Mechanism
    expected_size: float
    context: bytes
    fidelity: Literal["protocol", "ideal"]
    faults: Faults
    before_noise: Callable[[], Any]
    sums: SecureSums = field(default_factory=SecureSums)
    stream: secagg.SecureStream = field(default_factory=secagg.SecureStream)
    released: list[list[np.ndarray]] = field(default_factory=list)
    survivors: tuple[int, ...] | None = None
    bytes_up: list[tuple[int, ...]] = field(default_factory=list)
    bytes_down: list[tuple[int, ...]] = field(default_factory=list)
    transcripts: list[Any] = field(default_factory=list)
    _noise_drawn: bool = False

    def __call__(self, upload: Upload) -> Aggregate:
        """Noisy sums of one upload."""
        release = self._planned(upload)
        parts = groups(release, self.mechanism)
        seed = self.stream.bytes(_SEED_BYTES) if self.mechanism.rotation else b""
        turns = [Rotation(part.size, seed) if part.rotated else None for part in parts]
        integers = self._rounded(upload, parts, turns)
        if self.distributed:
            self._once_before_noise()
            integers += self._shares(upload.clients, parts)
        total = self._summed(integers, release, upload.round, seed)
        if not self.distributed:
            self._once_before_noise()
            total = self._wrapped(total + self._noise(parts), release, upload.clients)
        values = self._decoded(total, parts, turns, upload)
        self.released.append(values)
        return Aggregate(values, self.expected_size)

    @property
    def distributed(self) -> bool:
        """Whether clients add the noise."""
        return self.mechanism.by_clients

    @property
    def mean_bytes(self) -> tuple[float, float]:
        """Bytes that one client sent and received in the protocol, on average over the cohort."""
        up, down = (np.mean(np.sum(sides, axis=0)) for sides in (self.bytes_up, self.bytes_down))
        return float(up), float(down)

    def _once_before_noise(self) -> None:
        if not self._noise_drawn:
            self._noise_drawn = True
            self.before_noise()

    def _planned(self, upload: Upload) -> PlannedRelease:
        sizes = [int(np.prod(v.shape[1:])) for v in upload.values]
        if upload.round < len(self.releases):
            release = self.releases[upload.round]
            if sum(s.size for s in release.sums) == sum(sizes):
                return release
        raise AssertionError(
            f"Upload {upload.round} of {sizes} numbers was not planned; please report this."
        )

    def _norms(self, release: PlannedRelease) -> np.ndarray:
        """The clip norm of every number of the flat upload."""
        return np.repeat([s.clip_norm for s in release.sums], [s.size for s in release.sums])

    def _rounded(
        self, upload: Upload, parts: Sequence[Group], turns: Sequence[Rotation | None]
    ) -> np.ndarray:
        flat = np.concatenate(
            [np.asarray(v, np.float64).reshape(upload.clients, -1) for v in upload.values], axis=1
        )
        flat /= self._norms(parts[0].release)
        columns, start = [], 0
        for part, turn in zip(parts, turns, strict=True):
            own = _bounded(flat[:, start : start + part.size])
            own = own if turn is None else turn.forward(own)
            columns.append(round_within(own, self.mechanism.grid, part.bound, self.stream))
            start += part.size
        return np.concatenate(columns, axis=1)

    def _summed(
        self, integers: np.ndarray, release: PlannedRelease, index: int, seed: bytes
    ) -> np.ndarray:
        """The integer sum, through secure aggregation in a round that is bound to the rotation."""
        clients, length = integers.shape
        bits = modulus_bits(release, self.mechanism, clients)
        outcome = secagg.simulate(
            np.stack([ring.wrapped(row, bits) for row in integers]),
            self.sums.parameters(self.mechanism, clients=clients, length=length, modulus_bits=bits),
            faults=self.faults(index),
            fidelity=self.fidelity,
            context=hashlib.sha256(self.context + index.to_bytes(8, "big") + seed).digest(),
            pinned=self.survivors,
        )
        self.survivors = outcome.survivors
        self.bytes_up.append(outcome.bytes.up)
        self.bytes_down.append(outcome.bytes.down)
        if self.distributed:
            self.transcripts.append(outcome.transcript)
        return ring.centred(outcome.sum, bits)

    def _shares(self, clients: int, parts: Sequence[Group]) -> np.ndarray:
        """Every client's noise."""
        return np.concatenate(
            [
                self._drawn(part.share_std(self.mechanism, clients), (clients, part.width))
                for part in parts
            ],
            axis=1,
        )

    def _noise(self, parts: Sequence[Group]) -> np.ndarray:
        """The server's noise."""
        return np.concatenate([self._drawn(part.noise_std, (part.width,)) for part in parts])

    def _wrapped(self, total: np.ndarray, release: PlannedRelease, clients: int) -> np.ndarray:
        """A noisy sum reduced to the ring of the sum, so that a wrap of a rotated sum is not
        visible.
        """
        if not self.mechanism.rotation:
            return total
        bits = modulus_bits(release, self.mechanism, clients)
        return ring.centred(ring.wrapped(total, bits), bits)

    def _drawn(self, std: float, shape: tuple[int, ...]) -> np.ndarray:
        if self.mechanism.noise_kind == "skellam":
            return skellam(std**2, shape, self.stream)
        return discrete_gaussian(std, shape, self.stream)

    def _decoded(
        self,
        total: np.ndarray,
        parts: Sequence[Group],
        turns: Sequence[Rotation | None],
        upload: Upload,
    ) -> list[np.ndarray]:
        pieces, start = [], 0
        for part, turn in zip(parts, turns, strict=True):
            own = total[start : start + part.width] / self.mechanism.grid
            pieces.append(own if turn is None else turn.backward(own))
            start += part.width
        flat = np.concatenate(pieces) * self._norms(parts[0].release)
        values, start = [], 0
        for array in upload.values:
            size = int(np.prod(array.shape[1:]))
            values.append(flat[start : start + size].reshape(array.shape[1:]))
            start += size
        return values


def _bounded(contributions: np.ndarray) -> np.ndarray:
    """Contributions in clip norms, zero for a client whose clip failed.

    A compiler may reorder the arithmetic before a clip, so an overflow can pass the clip. Refusing
    the round would reveal something about one client.
    """
    sound = np.all(np.abs(contributions) <= _CLIPPED, axis=1, keepdims=True)
    return np.where(sound, contributions, 0.0)
