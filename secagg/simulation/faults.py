"""Faults: what goes wrong in a simulated round, written as a list.

A fault names a client and a phase. Up to and including the phase before, everything is normal.
`Drop` is the only fault that honest parties cause and the only one the vectorised simulator
needs to know; all others make the simulation run one state machine per client.

>>> script = Script([Drop(3, "mask"), Delay(1, "share")])
>>> script.gone(Phase.UNMASK), script.only_drops
(frozenset({3}), False)

Sources: docs/secagg-spec.md, sections "Drop-outs" and "Refusals".
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from secagg.errors import ParameterError
from secagg.protocol.rounds import Phase

PhaseName = Literal["advertise", "share", "mask", "confirm", "unmask"]
ORDER = ("advertise", "share", "mask", "confirm", "unmask")


@dataclass(frozen=True)
class Drop:
    """The client's message of this phase, and all later ones, never arrive."""

    client: int
    phase: PhaseName


@dataclass(frozen=True)
class Delay:
    """The client's message of this phase arrives after the phase was closed."""

    client: int
    phase: PhaseName


@dataclass(frozen=True)
class Duplicate:
    """The client's message of this phase arrives twice."""

    client: int
    phase: PhaseName


@dataclass(frozen=True)
class Tamper:
    """The client's message of this phase is changed on the way to the server."""

    client: int
    phase: PhaseName
    change: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Lie:
    """The server's message that should start this phase is changed for one client.

    `change` gives the bytes to deliver, or None to deliver nothing.
    """

    client: int
    phase: PhaseName
    change: Callable[[bytes], bytes | None]


@dataclass(frozen=True)
class Reorder:
    """Messages of every phase arrive in an order drawn from the seed."""

    seed: int


@dataclass(frozen=True)
class Crash:
    """The server stops in this phase, after all messages came, and resumes from its saved state."""

    phase: PhaseName


Fault = Drop | Delay | Duplicate | Tamper | Lie | Reorder | Crash


class Script:
    """The faults of one round, asked for phase by phase."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = tuple(faults)
        for fault in self.faults:
            phase = getattr(fault, "phase", "advertise")
            if not isinstance(fault, Fault) or phase not in ORDER:
                raise ParameterError(
                    f"Expected a fault of secagg.simulation.faults in one of the phases {ORDER}, got "
                    f'{fault!r}. For example secagg.Drop(3, "mask").'
                )
        self._by_place: dict[tuple, list] = defaultdict(list)
        for fault in self.faults:
            place = (getattr(fault, "phase", None), getattr(fault, "client", None))
            self._by_place[(type(fault), *place)].append(fault)

    @property
    def only_drops(self) -> bool:
        """Whether every party is honest."""
        return all(isinstance(fault, Drop) for fault in self.faults)

    def gone(self, phase: Phase) -> frozenset[int]:
        """Clients that send nothing in this phase any more."""
        last = ORDER.index(phase.name.lower())
        drops = (fault for fault in self.faults if isinstance(fault, Drop))
        return frozenset(drop.client for drop in drops if ORDER.index(drop.phase) <= last)

    def arriving(self, phase: Phase, sent: Mapping[int, bytes]) -> tuple[list[bytes], list[bytes]]:
        """What the server gets of the clients' messages: in time, and too late."""
        in_time, late = [], []
        for client in sorted(sent):
            data = sent[client]
            for fault in self._of(phase, client, Tamper):
                data = fault.change(data)
            if self._of(phase, client, Delay):
                late.append(data)
                continue
            in_time += [data] * (1 + len(self._of(phase, client, Duplicate)))
        for fault in self.faults:
            if isinstance(fault, Reorder):
                random.Random(f"{fault.seed} {phase.name}").shuffle(in_time)
        return in_time, late

    def delivered(self, phase: Phase, answers: Mapping[int, bytes]) -> dict[int, bytes]:
        """What the clients get of the server's messages that start a phase."""
        result = {}
        for client, data in answers.items():
            for fault in self._of(phase, client, Lie):
                data = data if data is None else fault.change(data)
            if data is not None:
                result[client] = data
        return result

    def crashes(self, phase: Phase) -> bool:
        """Whether the server stops and resumes at the end of this phase."""
        return bool(self._of(phase, None, Crash))

    def _of(self, phase: Phase, client: int | None, kind: type) -> list:
        return self._by_place.get((kind, phase.name.lower(), client), [])
