"""Simulation: a whole round in memory, with faults by script.

`simulate` is how the other packages use SecAgg. With `protocol` fidelity every message of every
client is made, counted and given to a real `Server`; if the only faults are drop-outs the
clients are a `Fleet`, else they are one `Client` each, with the same bytes for the same entropy.
With `ideal` fidelity masks are only drawn.

>>> x = np.arange(8, dtype=np.uint32).reshape(4, 2)
>>> outcome = simulate(x, Parameters(clients=4, length=2), faults=[Drop(3, "mask")])
>>> outcome.sum, outcome.survivors
(array([6, 9], dtype=uint32), (0, 1, 2))

Sources: docs/secagg-spec.md, section "Simulation".
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from secagg.crypto import primitives, ring
from secagg.crypto.streams import Entropy, SecureStream
from secagg.errors import EncodingError, LocalProtocolError, RemoteProtocolError, SecAggError
from secagg.protocol.admission import CohortLedger
from secagg.protocol.client import Client
from secagg.protocol.parameters import Parameters
from secagg.protocol.roster import Roster, lasting_names
from secagg.protocol.rounds import Phase
from secagg.protocol.server import Server
from secagg.simulation.faults import Drop, Fault, Script
from secagg.simulation.fleet import THREADED_WORDS, Fleet
from secagg.simulation.ideal import Census, masked_sum
from secagg.simulation.transcripts import Recorder, Transcript


@dataclass(frozen=True)
class Traffic:
    """Serialised bytes per client index.

    Attributes:
      up: Bytes each client sent.
      down: Bytes the server sent to each client.
    """

    up: tuple[int, ...] = field(repr=False)
    down: tuple[int, ...] = field(repr=False)

    @property
    def total_up(self) -> int:
        """Bytes that all clients sent."""
        return sum(self.up)

    @property
    def total_down(self) -> int:
        """Bytes that the server sent."""
        return sum(self.down)


@dataclass(frozen=True)
class Outcome:
    """What a simulated round gave.

    Attributes:
      sum: Sum of the survivors' vectors mod 2**modulus_bits, in words of 32 or 64 bits.
      survivors: Clients whose vectors are in the sum, increasing.
      transcript: What the server saw.
      bytes: Serialised bytes per client.
      culprits: Clients whose shares were wrong.
      aborted: Errors of clients that left the round, by index.
      refused: Messages that the server refused, as (sender, reason).
    """

    sum: np.ndarray = field(repr=False)
    survivors: tuple[int, ...]
    transcript: Transcript = field(repr=False)
    bytes: Traffic
    culprits: tuple[int, ...] = ()
    aborted: Mapping[int, Exception] = field(default_factory=dict)
    refused: tuple[tuple[int | None, str], ...] = ()


@dataclass(frozen=True)
class Setting:
    """The arguments of a simulation that client and server engines share."""

    parameters: Parameters
    context: bytes
    identities: Sequence[primitives.SigningKey]
    roster: Roster | None
    pinned: frozenset[int] | None
    ledger: CohortLedger | None
    entropy: Entropy

    def server(self) -> Server:
        """A fresh server."""
        return Server(
            self.parameters,
            context=self.context,
            roster=self.roster,
            pinned=self.pinned,
            ledger=self.ledger,
        )


class Individuals:
    """One `Client` per index; the slow engine, for every fault."""

    def __init__(self, setting: Setting):
        self.clients = [
            Client(
                index,
                setting.parameters,
                context=setting.context,
                identity=setting.identities[index] if setting.identities else None,
                roster=setting.roster,
                pinned=setting.pinned,
                entropy=setting.entropy,
            )
            for index in range(setting.parameters.clients)
        ]

    def advertise(self) -> dict[int, bytes]:
        """The first message of every client."""
        return {client.index: client.advertise() for client in self.clients}

    def answer(self, delivered: Mapping[int, bytes], vectors: np.ndarray):
        """The clients' answers to the server's messages, and the errors of those that left."""
        answers: dict[int, bytes] = {}
        errors: dict[int, Exception] = {}
        for index, data in delivered.items():
            try:
                answers[index] = self.clients[index].receive(data, vectors[index])
            except SecAggError as error:
                errors[index] = error
                self.clients[index].close()
        return answers, errors


def simulate(
    vectors: np.ndarray,
    parameters: Parameters,
    *,
    faults: Iterable[Fault] = (),
    fidelity: Literal["protocol", "ideal"] = "protocol",
    entropy: Entropy = os.urandom,
    context: bytes = b"",
    identities: Sequence[primitives.SigningKey] | None = None,
    pinned: Collection[int] | None = None,
    ledger: CohortLedger | None = None,
    record: Literal["digests", "messages"] = "digests",
    engine: Literal["auto", "fleet", "individuals"] = "auto",
    threads: int | None = None,
) -> Outcome:
    """Runs one secure sum in memory.

    Guarantees:
      `outcome.sum` is the sum of the survivors' vectors mod 2**modulus_bits, bit for bit, or an
      error is raised and there is no sum. Byte counts are lengths of serialised messages.

    Args:
      vectors: [clients, length] ring elements, as of `Encoding.encode`.
      parameters: Parameters of the round.
      faults: What goes wrong; see `secagg.simulation.faults`.
      fidelity: "protocol" makes every message; "ideal" draws masks that cancel.
      entropy: Source of secret bytes. Anything but the default marks the transcript.
      context: Bytes bound into the round: round id, model digest, noise specification.
      identities: Signing keys in the active model; None makes fresh ones.
      pinned: Survivors of an earlier pass of the same evaluation; others do not take part, and
        any other survivor set raises `CohortChanged`.
      ledger: Refuses cohorts too close to earlier ones.
      record: Whether the transcript keeps "messages" or only their "digests".
      engine: How clients are run; "auto" takes the fleet if all faults are drop-outs.
      threads: Threads that expand masks; None takes one per core that may be used.

    Raises:
      Aborted: The round failed; for example `BelowThreshold` or `CohortChanged`.
      CohortRefused: The ledger refuses the survivors.
      EncodingError: `vectors` is not an array of ring elements of the right shape.
    """
    words = _as_words(vectors, parameters)
    setting = _settled(parameters, context, identities, pinned, ledger, entropy)
    absent = () if pinned is None else sorted(set(range(parameters.clients)) - set(pinned))
    script = Script([*faults, *(Drop(client, "advertise") for client in absent)])
    threads = threads or _cores()
    if fidelity == "ideal":
        return _ideal(words, setting, script, threads)
    if fidelity != "protocol":
        raise LocalProtocolError(f'Expected fidelity "protocol" or "ideal", got {fidelity!r}.')
    parties = _parties(engine, setting, script, threads)
    return _Conversation(setting, script, parties, record).run(words)


def _settled(parameters, context, identities, pinned, ledger, entropy: Entropy) -> Setting:
    """The setting of a round, with fresh identities if the active model needs and lacks them."""
    if parameters.active and identities is None:
        identities = [
            primitives.SigningKey(entropy(primitives.KEY_BYTES)) for _ in range(parameters.clients)
        ]
    roster = Roster(tuple(key.public for key in identities)) if identities else None
    pinned = None if pinned is None else frozenset(pinned)
    return Setting(parameters, context, identities or (), roster, pinned, ledger, entropy)


def _parties(engine: str, setting: Setting, script: Script, threads: int) -> Individuals | Fleet:
    """The clients, by the engine asked for or the fastest that can play the script."""
    if engine == "individuals" or (engine == "auto" and not script.only_drops):
        return Individuals(setting)
    if not script.only_drops:
        raise LocalProtocolError(
            'Expected only drop-outs with engine="fleet", got other faults. Use engine="auto".'
        )
    return Fleet(
        setting.parameters,
        context=setting.context,
        identities=setting.identities,
        roster=setting.roster,
        entropy=setting.entropy,
        threads=threads,
    )


class _Conversation:
    """Carries messages between the parties and the server, with the script's faults."""

    def __init__(self, setting: Setting, script: Script, parties: Individuals | Fleet, record: str):
        self.setting, self.script, self.parties = setting, script, parties
        self.server = setting.server()
        self.recorder = Recorder(setting.parameters.clients, keep=record == "messages")
        self.aborted: dict[int, Exception] = {}
        self.late: list[bytes] = []
        self.refused: list[tuple[int | None, str]] = []

    def run(self, words: np.ndarray) -> Outcome:
        sent = self.parties.advertise()
        while True:
            phase = self.server.phase
            gone = self.script.gone(phase)
            self._deliver(phase, {i: data for i, data in sent.items() if i not in gone})
            if self.script.crashes(phase):
                saved = self.server.save()
                self.server = self.setting.server()
                self.server.restore(saved)
            answers = self.server.close_phase()
            if self.server.result is not None:
                return self._outcome()
            following = self.server.phase
            answers = self.script.delivered(following, answers)
            for client, data in answers.items():
                self.recorder.sent(following, "down", client, data)
            gone = self.script.gone(following)
            present = {i: d for i, d in answers.items() if i not in gone and i not in self.aborted}
            sent, errors = self.parties.answer(present, words)
            self.aborted |= errors

    def _deliver(self, phase: Phase, sent: dict[int, bytes]) -> None:
        late, self.late = self.late, []
        in_time, self.late = self.script.arriving(phase, sent)
        for data in [*late, *in_time]:
            try:
                sender, accepted = self.server.receive(data), True
            except RemoteProtocolError:
                sender, accepted = _claimed_sender(data, sent), False
                self.refused.append(self.server.refused[-1])
            self.recorder.sent(phase, "up", sender, data, accepted)

    def _outcome(self) -> Outcome:
        result = self.server.result
        assert result is not None
        transcript = Transcript(
            parameters=self.setting.parameters,
            entropy="system" if self.setting.entropy is os.urandom else "supplied",
            context=self.setting.context,
            roster=self.setting.roster.keys if self.setting.roster else (),
            records=tuple(self.recorder.records),
            sum=ring.pack(result.sum, self.setting.parameters.modulus_bits),
            survivors=result.survivors,
            culprits=result.culprits,
        ).sealed()
        return Outcome(
            result.sum,
            result.survivors,
            transcript,
            Traffic(tuple(self.recorder.up), tuple(self.recorder.down)),
            result.culprits,
            self.aborted,
            tuple(self.refused),
        )


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _claimed_sender(data: bytes, sent: Mapping[int, bytes]) -> int:
    """Whose connection a refused message came on: for a changed message, any of the senders'."""
    claimed = int.from_bytes(data[10:14], "little")
    return claimed if claimed in sent else min(sent, default=0)


def _as_words(vectors: np.ndarray, parameters: Parameters) -> np.ndarray:
    array = np.asarray(vectors)
    expected = (parameters.clients, parameters.length)
    if array.dtype.kind not in "ui" or array.shape != expected:
        raise EncodingError(
            f"Expected ring vectors of shape {expected} and an integer dtype, got shape "
            f"{array.shape} and dtype {array.dtype}. Encode values with secagg.Encoding first."
        )
    ring.check_reduced(array, parameters.modulus_bits)
    return np.asarray(array, dtype=ring.word(parameters.modulus_bits))


def _ideal(words: np.ndarray, setting: Setting, script: Script, threads: int) -> Outcome:
    if not script.only_drops:
        raise LocalProtocolError(
            'Expected only drop-outs with fidelity="ideal", got other faults. '
            'Use fidelity="protocol".'
        )
    parameters = setting.parameters
    system = setting.entropy is os.urandom
    stream = SecureStream(setting.entropy(primitives.KEY_BYTES))
    census = Census(parameters, script, stream, setting.pinned)
    if setting.ledger is not None:
        setting.ledger.admit(lasting_names(census.survivors, setting.roster))
    chosen = words if len(census.survivors) == len(words) else words[list(census.survivors)]
    threads = threads if parameters.length >= THREADED_WORDS else 1
    total = masked_sum(chosen, stream, modulus_bits=parameters.modulus_bits, threads=threads)
    transcript = Transcript(
        parameters=parameters,
        fidelity="ideal",
        entropy="system" if system else "supplied",
        context=setting.context,
        roster=setting.roster.keys if setting.roster else (),
        sum=ring.pack(total, parameters.modulus_bits),
        survivors=census.survivors,
    ).sealed()
    traffic = Traffic(tuple(census.bytes_up()), tuple(census.bytes_down()))
    return Outcome(total, census.survivors, transcript, traffic)
