"""Transcripts: what was said in a round, to be kept and checked later.

A transcript lists every message with direction, phase, client, size and digest, and if asked the
bytes themselves. It contains what the server saw and no secret of a client. The verifier needs
nothing else: the server has no randomness, so replaying the clients' messages must give the very
messages and the very sum that the transcript claims.

>>> Transcript(parameters=Parameters(clients=3, length=1), fidelity="ideal").records
()

Sources: docs/secagg-spec.md, section "Transcripts".
"""

import base64
import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Literal, NamedTuple

import numpy as np

from secagg.crypto import ring
from secagg.crypto.context import Purpose, framed, label
from secagg.errors import SecAggError
from secagg.protocol.parameters import Parameters
from secagg.protocol.roster import Roster
from secagg.protocol.rounds import Phase
from secagg.protocol.server import Server

FORMAT = 1


class Record(NamedTuple):
    """One message.

    Attributes:
      phase: Name of the server's phase in which it was sent.
      direction: "up" from the client or "down" to it.
      client: The client of the connection it came or went on.
      size: Bytes on the wire.
      digest: SHA-256 of the bytes, hexadecimal.
      accepted: Whether the server used it; always true for "down".
      data: The bytes, or None in a transcript of digests.
    """

    phase: str
    direction: str
    client: int
    size: int
    digest: str
    accepted: bool
    data: bytes | None = None


class VerificationError(SecAggError):
    """A transcript contradicts itself."""


@dataclass(frozen=True)
class Transcript:
    """A round as seen by the server.

    Attributes:
      parameters: Parameters of the round.
      fidelity: "protocol" if every message was made, "ideal" if masks were only drawn.
      entropy: "system", or "supplied" if secrets came from somewhere else, as in tests.
      context: The caller's bytes bound into the round.
      roster: Identity keys, in the active model.
      records: Messages in order; empty for ideal fidelity.
      sum: Packed bytes of the released sum.
      survivors: Whose vectors are in it.
      culprits: Whose shares were wrong.
      seal: Digest of all of the above; publish it to fix what was said.
    """

    parameters: Parameters
    fidelity: Literal["protocol", "ideal"] = "protocol"
    entropy: Literal["system", "supplied"] = "system"
    context: bytes = b""
    roster: tuple[bytes, ...] = ()
    records: tuple[Record, ...] = field(default=(), repr=False)
    sum: bytes = field(default=b"", repr=False)
    survivors: tuple[int, ...] = ()
    culprits: tuple[int, ...] = ()
    seal: str = ""

    def sealed(self) -> "Transcript":
        """The same transcript with its seal."""
        return replace(self, seal=self.fingerprint())

    def fingerprint(self) -> str:
        """Digest of everything but the seal; bytes of messages enter by their digests."""
        chain = hashlib.sha256(label(Purpose.TRANSCRIPT, b""))
        for item in fields(self):
            if item.name not in ("records", "seal"):
                value = getattr(self, item.name)
                content = value if isinstance(value, bytes) else repr(value).encode()
                chain.update(framed(item.name.encode()) + len(content).to_bytes(8, "little"))
                chain.update(content)
        for record in self.records:
            chain.update(framed(repr(record[:-1]).encode()))
        return chain.hexdigest()

    def to_json(self) -> str:
        """The transcript as JSON text; bytes are base64."""
        content = asdict(self)
        content["records"] = [record._asdict() for record in self.records]
        return json.dumps({"format": FORMAT, **content}, default=_as_text)

    @classmethod
    def from_json(cls, text: str) -> "Transcript":
        """The inverse of `to_json`."""
        content = json.loads(text)
        version = content.pop("format", None)
        if version != FORMAT:
            raise VerificationError(f"Expected transcript format {FORMAT}, got {version!r}.")
        content["parameters"] = Parameters(**content["parameters"])
        for name in ("context", "sum"):
            content[name] = base64.b64decode(content[name])
        content["roster"] = tuple(base64.b64decode(key) for key in content["roster"])
        for name in ("survivors", "culprits"):
            content[name] = tuple(content[name])
        content["records"] = tuple(
            Record(**{**record, "data": _from_text(record["data"])})
            for record in content["records"]
        )
        return cls(**content)


def _as_text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _from_text(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)


class Recorder:
    """Collects the records of a round and counts bytes per client."""

    def __init__(self, clients: int, *, keep: bool):
        self.up, self.down = [0] * clients, [0] * clients
        self.records: list[Record] = []
        self._keep = keep
        self._digests: dict[int, tuple[bytes, str]] = {}

    def sent(self, phase: Phase, direction: str, client: int, data: bytes, accepted: bool = True):
        """Notes one message on a client's connection."""
        counts = self.up if direction == "up" else self.down
        counts[client] += len(data)
        self.records.append(
            Record(
                phase.value,
                direction,
                client,
                len(data),
                self._digest(data),
                accepted,
                data if self._keep else None,
            )
        )

    def _digest(self, data: bytes) -> str:
        """Broadcasts are one object, so they are hashed once per run of sends."""
        last = self._digests.get(0)
        if last is None or last[0] is not data:
            last = self._digests[0] = (data, hashlib.sha256(data).hexdigest())
        return last[1]


def verify_transcript(transcript: Transcript, *, pinned: Collection[int] | None = None) -> None:
    """Replays a transcript of messages on a fresh server and compares everything.

    Guarantees:
      If it returns, the released sum is what an honest server computes from the clients' messages
      in the transcript, every message to a client is what an honest server sends, and nothing was
      changed since the transcript was sealed. It cannot tell a client's silence in the last phase
      from a message that was left out before sealing: both are honest rounds.

    Raises:
      VerificationError: Something differs, or the transcript has no messages to replay.
    """
    if transcript.fidelity != "protocol" or any(r.data is None for r in transcript.records):
        raise VerificationError(
            "Expected a transcript with messages, got digests only or ideal fidelity. "
            'Record with simulate(..., record="messages").'
        )
    if transcript.seal != transcript.fingerprint():
        raise VerificationError("Expected a transcript that matches its seal, got a changed one.")
    roster = Roster(transcript.roster) if transcript.roster else None
    server = Server(transcript.parameters, context=transcript.context, roster=roster, pinned=pinned)
    pending: dict[int, bytes] = {}
    for record in transcript.records:
        data = record.data or b""
        if len(data) != record.size or hashlib.sha256(data).hexdigest() != record.digest:
            raise VerificationError(f"Expected bytes that match their digest in {record[:4]}.")
        pending = _replay(server, record, data, pending)
    _finish(server, transcript)


def _replay(
    server: Server, record: Record, data: bytes, pending: dict[int, bytes]
) -> dict[int, bytes]:
    if record.direction == "up":
        if pending or record.phase != server.phase.value:
            raise VerificationError(
                f"Expected messages of phase {server.phase.value!r}, got one of {record.phase!r}."
            )
        try:
            server.receive(data)
            accepted = True
        except SecAggError:
            accepted = False
        if accepted is not record.accepted:
            raise VerificationError(
                f"Expected the message of client {record.client} in phase {record.phase!r} to be "
                f"{'accepted' if record.accepted else 'refused'}, it was not."
            )
        return pending
    if not pending:
        pending = _closed(server)
    if pending.pop(record.client, None) != data or record.phase != server.phase.value:
        raise VerificationError(
            f"Expected another message to client {record.client} in phase {record.phase!r}."
        )
    return pending


def _closed(server: Server) -> dict[int, bytes]:
    try:
        return server.close_phase()
    except SecAggError as error:
        raise VerificationError(f"Expected a round that goes on, got: {error}") from error


def _finish(server: Server, transcript: Transcript) -> None:
    if server.phase is Phase.UNMASK:
        _closed(server)
    result = server.result
    if result is None:
        raise VerificationError("Expected the messages of a whole round, got fewer.")
    total = ring.unpack(
        transcript.sum,
        length=transcript.parameters.length,
        modulus_bits=transcript.parameters.modulus_bits,
    )
    people = (result.survivors, result.culprits) == (transcript.survivors, transcript.culprits)
    if not people or not np.array_equal(result.sum, total):
        raise VerificationError(
            "Expected the sum and survivors that follow from the messages, got others."
        )
