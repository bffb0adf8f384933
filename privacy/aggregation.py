"""The DP aggregator: one round's uploads become noisy sums through secure aggregation.

Every client flattens what it sends, each sum in units of its clip norm, and rounds it to an integer
grid at random, re-checking the integer norm; the integers cross in one SecAgg vector. Discrete Gaussian
noise is added by the server to the decoded integer sum, or by every client to its integers before they
are masked. The sensitivity that is charged is that of the *integers*: rounding is part of the mechanism.

    contribution x_k -> x_k / C_k -> integers, norm <= bound -> (+ share of noise) -> ring -> SecAgg
    -> integer sum (+ noise) -> times C_k / grid

Sources: Kairouz, Liu, Steinke (2021), section 3, for conditional rounding; Canonne, Kamath, Steinke
(2020) for the discrete Gaussian; docs/privacy-model.md.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

import secagg
from privacy.mechanisms import Gaussian
from privacy.privatization import PlannedRelease
from privacy.quantization import integer_norm_bound, round_within
from privacy.samplers import discrete_gaussian
from privacy.slots import Release
from secfad.engines.local import Aggregate, Upload

# The rounded norm exceeds the bound with at most this probability per client and is then redrawn.
_ROUNDING_BETA = 0.5
# A share of noise beyond this many deviations (probability below 1e-56) would not fit the ring.
_TAIL = 16
# A clipped contribution in units of its clip norm, with room for 8-bit rounding.
_CLIPPED = 2.0
MIN_COHORT = 3
Faults = Callable[[int], Sequence[Any]]


@dataclass(frozen=True)
class Group:
    """Sums of one round that are clipped together.

    Attributes:
      release: The round's release.
      first: Index of the first sum of the group.
      last: One past the last.
      bound: Largest L2 norm of one client's integers.
      noise_std: Of the noise on the integer sum, in grid steps.
    """

    release: PlannedRelease
    first: int
    last: int
    bound: float
    noise_std: float

    @property
    def size(self) -> int:
        """Numbers in the group."""
        return sum(s.size for s in self.release.sums[self.first : self.last])


def groups(release: PlannedRelease, mechanism: Gaussian) -> tuple[Group, ...]:
    """How a round is clipped: all sums together, or each by itself."""
    count = len(release.sums)
    spans = [(0, count)] if mechanism.joint else [(i, i + 1) for i in range(count)]
    found = []
    for first, last in spans:
        size = sum(s.size for s in release.sums[first:last])
        bound = integer_norm_bound(1.0, mechanism.grid, size, beta=_ROUNDING_BETA)
        multiplier = mechanism.noise_multiplier_of(release.sums[first].name)
        found.append(Group(release, first, last, bound, multiplier * bound))
    return tuple(found)


def charged_releases(
    releases: Sequence[PlannedRelease], mechanism: Gaussian, clients: int, factor: int = 1
) -> list[Release]:
    """What a ledger is told about one evaluation: every sum of every round, with its noise.

    Args:
      releases: Of a private program.
      mechanism: Its mechanism.
      clients: Members of the cohort.
      factor: By how many clip norms one client can move a sum under the ledger's relation.
    """
    by_clients = mechanism.noise == "distributed"
    fewest = mechanism.guaranteed_survivors(clients) if by_clients else None
    charged = []
    for index, release in enumerate(releases):
        for group in groups(release, mechanism):
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
                        noise_kind="discrete_gaussian",
                    )
                )
    return charged


@dataclass
class SecureAggregator:
    """Aggregates the uploads of one evaluation; called by `secfad.execute`.

    Attributes:
      releases: What the program is expected to send, round by round.
      mechanism: Clip norms and noise.
      expected_size: Public number of clients, which constants are multiplied by.
      context: Bound into every round of the protocol.
      fidelity: "protocol", or "ideal" masks.
      faults: Round to scripted faults of clients.
      before_noise: Called once, before the first noise is drawn.
      released: The noisy sums of every round so far.
      survivors: Clients in the sums so far; pinned after the first round.
      bytes_up: Serialised bytes per client and round that clients sent.
      bytes_down: The same for what they received from the protocol.
      transcripts: Of every round, with distributed noise only: a transcript holds the decoded sum,
        which has no noise yet if the server adds it.
    """

    releases: Sequence[PlannedRelease]
    mechanism: Gaussian
    expected_size: float
    context: bytes
    fidelity: Literal["protocol", "ideal"]
    faults: Faults
    before_noise: Callable[[], Any]
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
        integers = self._rounded(upload, parts)
        if self.distributed:
            self._once_before_noise()
            integers += self._shares(upload.clients, parts)
        total = self._summed(integers, parts, upload.round)
        if not self.distributed:
            self._once_before_noise()
            total += self._noise(parts)
        values = self._decoded(total, parts[0].release, upload)
        self.released.append(values)
        return Aggregate(values, self.expected_size)

    @property
    def distributed(self) -> bool:
        """Whether clients add the noise."""
        return self.mechanism.noise == "distributed"

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

    def _norms(self, upload: Upload, release: PlannedRelease) -> np.ndarray:
        """The clip norm of every number of the flat upload."""
        return np.repeat([s.clip_norm for s in release.sums], [s.size for s in release.sums])

    def _rounded(self, upload: Upload, parts: Sequence[Group]) -> np.ndarray:
        flat = np.concatenate(
            [np.asarray(v, np.float64).reshape(upload.clients, -1) for v in upload.values], axis=1
        )
        flat /= self._norms(upload, parts[0].release)
        columns, start = [], 0
        for part in parts:
            own = _bounded(flat[:, start : start + part.size])
            columns.append(round_within(own, self.mechanism.grid, part.bound, self.stream))
            start += part.size
        return np.concatenate(columns, axis=1)

    def _summed(self, integers: np.ndarray, parts: Sequence[Group], index: int) -> np.ndarray:
        clients, length = integers.shape
        bound = max(part.bound for part in parts)
        fewest = MIN_COHORT
        if self.distributed:
            bound += _TAIL * max(self._share_std(clients, part) for part in parts)
            fewest = max(fewest, self.mechanism.guaranteed_survivors(clients))
        bits = _modulus_bits(bound, clients)
        encoding = secagg.Encoding(clip=bound, scale=1.0, clients=clients, modulus_bits=bits)
        parameters = secagg.Parameters(
            clients=clients, length=length, modulus_bits=bits, min_cohort=fewest
        )
        vectors = np.stack([encoding.encode_integers(row) for row in integers])
        outcome = secagg.simulate(
            vectors,
            parameters,
            faults=self.faults(index),
            fidelity=self.fidelity,
            context=hashlib.sha256(self.context + index.to_bytes(8, "big")).digest(),
            pinned=self.survivors,
        )
        self.survivors = outcome.survivors
        self.bytes_up.append(outcome.bytes.up)
        self.bytes_down.append(outcome.bytes.down)
        if self.distributed:
            self.transcripts.append(outcome.transcript)
        return encoding.decode_integers(outcome.sum)

    def _share_std(self, clients: int, part: Group) -> float:
        return part.noise_std / self.mechanism.guaranteed_survivors(clients) ** 0.5

    def _shares(self, clients: int, parts: Sequence[Group]) -> np.ndarray:
        """Every client's noise: the guaranteed survivors' shares add up to the charged noise."""
        columns = [
            discrete_gaussian(
                self._share_std(clients, part), clients * part.size, self.stream
            ).reshape(clients, part.size)
            for part in parts
        ]
        return np.concatenate(columns, axis=1)

    def _noise(self, parts: Sequence[Group]) -> np.ndarray:
        return np.concatenate(
            [discrete_gaussian(part.noise_std, part.size, self.stream) for part in parts]
        )

    def _decoded(
        self, total: np.ndarray, release: PlannedRelease, upload: Upload
    ) -> list[np.ndarray]:
        flat = total / self.mechanism.grid * self._norms(upload, release)
        values, start = [], 0
        for array in upload.values:
            size = int(np.prod(array.shape[1:]))
            values.append(flat[start : start + size].reshape(array.shape[1:]))
            start += size
        return values


def _bounded(contributions: np.ndarray) -> np.ndarray:
    """Contributions in clip norms, zero for a client whose clip failed.

    A compiler may reorder the arithmetic before a clip, so that an overflow gets past it. Refusing
    the round for it would say something about one client.
    """
    sound = np.all(np.abs(contributions) <= _CLIPPED, axis=1, keepdims=True)
    return np.where(sound, contributions, 0.0)


def _modulus_bits(bound: float, clients: int) -> int:
    """The smallest ring of 32 or more bits in which no sum of the cohort can wrap."""
    worst = clients * int(np.ceil(bound))
    return max(32, worst.bit_length() + 1)
