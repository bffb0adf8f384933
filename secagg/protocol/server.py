"""Server: the other side of a round, bytes in and bytes out.

The server collects one kind of message per phase. When the caller decides that a phase is over
(everybody answered, or a deadline of the caller's passed; there is no clock in here),
`close_phase` checks that enough clients are left and gives the next messages. A message that
cannot be used is refused and changes nothing: its sender counts as dropped unless a good one
follows.

The server has no randomness and no secrets of its own, so its state is the list of messages it
accepted; `save` and `restore` use that, and so does transcript verification.

>>> server = Server(Parameters(clients=3, length=2), context=b"round 1")
>>> server.phase.value, sorted(server.waiting)
('advertise keys', [0, 1, 2])

Sources: Bonawitz et al. (2017), figure 4; Bell et al. (2020), section 3; docs/secagg-spec.md.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secagg.crypto import masks, primitives, ring
from secagg.crypto.context import round_digest, setup_digest, view_digest
from secagg.crypto.primitives import KEY_BYTES, SEED_BYTES
from secagg.errors import (
    Aborted,
    BelowThreshold,
    CohortChanged,
    CohortRefused,
    Disconnected,
    InconsistentView,
    LocalProtocolError,
    MalformedMessage,
    RemoteProtocolError,
)
from secagg.protocol import keys, messages, recovery
from secagg.protocol.admission import CohortLedger
from secagg.protocol.codec import BROADCAST, COUNT, HEADER, Codec, context_tag
from secagg.protocol.graph import Graph
from secagg.protocol.parameters import Parameters
from secagg.protocol.roster import Roster, check_identities, lasting_names
from secagg.protocol.rounds import SERVER, Kind, Phase

CLOSE = b""
"""Stands in the log for the end of a phase."""


@dataclass(frozen=True)
class Result:
    """The outcome of a round.

    Attributes:
      sum: Sum of the survivors' vectors mod 2**modulus_bits.
      survivors: Whose vectors are in it, increasing.
      culprits: Clients that sent wrong shares; the sum is right in spite of them.
    """

    sum: np.ndarray = field(repr=False)
    survivors: tuple[int, ...]
    culprits: tuple[int, ...] = ()


class Server:
    """The state machine of the server; single use.

    Guarantees:
      With honest clients, `result.sum` is the sum of the survivors' vectors, bit for bit, or the
      round is aborted and there is no result.

    Args:
      parameters: As the clients have them.
      context: As the clients have it.
      roster: Public identities of all clients, in the active model.
      pinned: Survivors of an earlier pass of the same evaluation; any other set aborts.
      ledger: Refuses cohorts too close to earlier ones.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        context: bytes = b"",
        roster: Roster | None = None,
        pinned: Collection[int] | None = None,
        ledger: CohortLedger | None = None,
    ):
        check_identities(parameters, roster)
        self.parameters = parameters
        self.phase = Phase.ADVERTISE
        self.result: Result | None = None
        self.refused: list[tuple[int | None, str]] = []
        self._roster, self._ledger = roster, ledger
        self._pinned = None if pinned is None else frozenset(pinned)
        self._codec = Codec(parameters)
        self._setup = setup_digest(
            parameters.canonical(), roster=roster.digest if roster else b"", extra=context
        )
        self._context = self._setup
        self._expected = set(range(parameters.clients))
        self._received: dict[int, Any] = {}
        self._log: list[bytes] = []
        self._doubted: set[int] = set()
        self._public_keys: set[bytes] = set()

    @property
    def waiting(self) -> frozenset[int]:
        """Clients whose message of this phase has not come."""
        return frozenset(self._expected - self._received.keys())

    def receive(self, data: bytes) -> int:
        """Takes a client's message and gives its sender.

        Raises:
          RemoteProtocolError: The message is refused; nothing has changed but `refused`.
        """
        sender = None
        try:
            sender, kind, _ = self._codec.peek(data)
            self._check_expected(sender, kind)
            message = self._codec.decode(data, context_tag(self._context)).message
            CHECKS[kind](self, sender, message)
        except RemoteProtocolError as error:
            self.refused.append((sender, str(error)))
            raise
        self._received[sender] = message
        self._log.append(data)
        return sender

    def close_phase(self) -> dict[int, bytes]:
        """Ends the phase and gives the next message for each client still in the round.

        Raises:
          Aborted: Too few clients are left, or nothing can be released; there is no result.
          CohortRefused: The ledger refuses the survivors; there is no result.
          LocalProtocolError: The round is over.
        """
        if (self.phase, self.parameters.active) not in SERVER:
            raise LocalProtocolError(
                f"Expected close_phase() in a collecting phase, got it in {self.phase.value!r}. "
                "Make a new Server for a new round."
            )
        try:
            answer = CLOSINGS[self.phase](self)
        except (Aborted, CohortRefused):
            self.phase = Phase.ABORTED
            self._received, self._log = {}, []
            raise
        self._log.append(CLOSE)
        self.phase = SERVER[self.phase, self.parameters.active][1]
        self._expected, self._received = set(answer), {}
        return answer

    def save(self) -> bytes:
        """The state as bytes, to be resumed with `restore`. Contains no secrets."""
        return b"".join(COUNT.pack(len(entry)) + entry for entry in self._log)

    def restore(self, saved: bytes) -> dict[int, bytes]:
        """Resumes a saved round on a new server made with the same arguments.

        Returns:
          The messages of the last closed phase, to be sent again to whoever may have missed
          them; clients answer each only once.

        Raises:
          LocalProtocolError: The state is truncated or belongs to another round.
        """
        answer: dict[int, bytes] = {}
        for entry in _entries(saved):
            if entry == CLOSE:
                answer = self.close_phase()
                continue
            try:
                self.receive(entry)
            except RemoteProtocolError as error:
                raise LocalProtocolError(
                    f"Expected a saved state of this round, got one of another: {error} "
                    "Make the server with the same arguments."
                ) from error
        return answer

    def _check_expected(self, sender: int, kind) -> None:
        collected = SERVER.get((self.phase, self.parameters.active), (None, None))[0]
        if kind is not collected:
            raise RemoteProtocolError(f"Can't handle a {kind.name} in phase {self.phase.value!r}.")
        if sender not in self._expected:
            raise RemoteProtocolError(
                f"Expected a {kind.name} of a client in the round, got one of {sender}."
            )
        if sender in self._received:
            raise RemoteProtocolError(
                f"Expected one {kind.name} of client {sender}, got a second; the first counts."
            )

    def _accept(self, sender: int, message) -> None:
        """Messages whose contents the server cannot judge."""

    def _enough(self, needed: int, what: str) -> tuple[int, ...]:
        if len(self._received) < needed:
            raise BelowThreshold(
                self.phase.value,
                f"expected at least {needed} clients that {what}, got {len(self._received)}.",
            )
        return tuple(sorted(self._received))

    def _to(self, members: Collection[int], message: messages.Message) -> dict[int, bytes]:
        data = self._codec.encode(message, context_tag(self._context), BROADCAST)
        return dict.fromkeys(members, data)

    # Phase 0.

    def _check_advertisement(self, sender: int, message: messages.Advertisement) -> None:
        mine = {message.channel_key, message.mask_key}
        if len(mine) < 2 or self._public_keys & mine:
            raise RemoteProtocolError(f"Expected fresh keys of client {sender}, got known ones.")
        if self._roster is not None:
            text = keys.advertisement_text(self._setup, sender, message)
            if not primitives.verify(self._roster.keys[sender], message.signature, text):
                raise RemoteProtocolError(
                    f"Expected keys signed by roster entry {sender}, got an invalid signature."
                )
        self._public_keys |= mine

    def _after_advertise(self) -> dict[int, bytes]:
        needed = max(self.parameters.quorum, (self.parameters.neighbours or 0) + 1)
        members = self._enough(needed, "announced keys")
        self._announced = dict(self._received)
        answer = self._to(members, messages.KeyList(self._announced))
        self._context = round_digest(self._setup, answer[members[0]][HEADER.size :])
        self._graph = Graph.derived(members, self.parameters, self._context)
        return answer

    # Phase 1.

    def _check_shares(self, sender: int, message: messages.Shares) -> None:
        if tuple(sorted(message.sealed)) != self._graph.neighbours(sender):
            raise MalformedMessage(
                f"Expected a sealed share of {sender} for each of its neighbours, got others."
            )

    def _after_share(self) -> dict[int, bytes]:
        self._sharers = self._enough(self.parameters.quorum, "shared their secrets")
        self._sharing = frozenset(self._sharers)
        tag, answer = context_tag(self._context), {}
        for member in self._sharers:
            senders = [v for v in self._graph.neighbours(member) if v in self._received]
            sealed = {v: self._received[v].sealed[member] for v in senders}
            answer[member] = self._codec.encode(messages.Inbox(self._sharers, sealed), tag, member)
        return answer

    # Phase 2.

    def _after_mask(self) -> dict[int, bytes]:
        self._alive = self._enough(self.parameters.quorum, "sent a masked input")
        check_survivors(self._alive, self._sharers, self._graph, self.parameters, self._pinned)
        if self._ledger is not None:
            self._ledger.admit(lasting_names(self._alive, self._roster))
        self._living = frozenset(self._alive)
        self._total = np.zeros(self.parameters.length, ring.word(self.parameters.modulus_bits))
        for message in self._received.values():
            self._total += message.vector
        return self._to(self._alive, messages.Survivors(self._alive))

    # Phase 3, active model.

    def _check_confirmation(self, sender: int, message: messages.Confirmation) -> None:
        assert self._roster is not None
        sets = map(self._codec.bitmap, (self._sharers, self._alive))
        view = view_digest(self._context, *sets)
        if not primitives.verify(self._roster.keys[sender], message.signature, view):
            self._doubted.add(sender)
            raise RemoteProtocolError(
                f"Expected client {sender} to confirm the survivors, got another signature."
            )

    def _after_confirm(self) -> dict[int, bytes]:
        doubted = tuple(sorted(self._doubted - self._received.keys()))
        if doubted:  # they may have masked for other sharers, and their vectors are in the sum
            raise InconsistentView(
                self.phase.value,
                f"expected survivors to confirm one view, got another from {doubted}.",
                doubted,
            )
        members = self._enough(self.parameters.quorum, "confirmed the survivors")
        signatures = {member: self._received[member].signature for member in members}
        return self._to(members, messages.Confirmations(signatures))

    # Phase 4.

    def _check_disclosure(self, sender: int, message: messages.Disclosure) -> None:
        held = [owner for owner in self._graph.held(sender) if owner in self._sharing]
        alive = {owner for owner in held if owner in self._living}
        if message.seeds.keys() != alive or message.keys.keys() != set(held) - alive:
            raise MalformedMessage(
                f"Expected of {sender} seed shares of survivors and key shares of the dropped, "
                "one for each secret it holds, got others."
            )

    def _after_unmask(self) -> dict[int, bytes]:
        self._enough(self.parameters.shares_needed, "disclosed shares")
        size = {"threshold": self.parameters.shares_needed, "graph": self._graph}
        seeds = recovery.rebuild(
            recovery.gather(self._received, self._graph, "seeds"),
            self._alive,
            secret_bytes=SEED_BYTES,
            check=recovery.seed_check(self._setup, self._announced),
            **size,
        )
        private = recovery.rebuild(
            recovery.gather(self._received, self._graph, "keys"),
            [owner for owner in self._sharers if owner not in self._living],
            secret_bytes=KEY_BYTES,
            check=recovery.key_check(self._announced),
            **size,
        )
        terms = recovery.seed_terms(seeds.secrets, self._context)
        terms += recovery.dropped_terms(
            private.secrets,
            self._living,
            graph=self._graph,
            announced=self._announced,
            context=self._context,
        )
        culprits = tuple(sorted({*seeds.culprits, *private.culprits}))
        masks.accumulate(self._total, terms)
        total = ring.reduce(self._total, self.parameters.modulus_bits)
        self.result = Result(total, self._alive, culprits)
        return {}


def _entries(saved: bytes) -> list[bytes]:
    """The log of a saved state."""
    entries, at = [], 0
    while at < len(saved):
        size = int.from_bytes(saved[at : at + COUNT.size], "little")
        at += COUNT.size + size
        if at > len(saved):
            raise LocalProtocolError(
                "Expected a complete saved state, got a truncated one. Save it atomically."
            )
        entries.append(saved[at - size : at])
    return entries


def check_survivors(
    alive: Collection[int],
    sharers: Collection[int],
    graph: Graph,
    parameters: Parameters,
    pinned: Collection[int] | None,
) -> None:
    """Whether a sum over these survivors can be unmasked and may be released.

    Raises:
      CohortChanged: They are not the pinned ones.
      Disconnected: Their graph falls apart.
      BelowThreshold: Somebody's secret has fewer than t live holders.
    """
    phase, living = Phase.MASK.value, frozenset(alive)
    if pinned is not None and living != frozenset(pinned):
        raise CohortChanged(phase, "expected the pinned survivors, got another set.")
    if not graph.connected(living):
        raise Disconnected(phase, "expected connected survivors, got a graph that falls apart.")
    if graph.ring is None:
        return
    for owner in sharers:
        live = sum(holder in living for holder in graph.holders(owner))
        if live < parameters.shares_needed:
            raise BelowThreshold(
                phase,
                f"expected {parameters.shares_needed} live neighbours of client {owner}, "
                f"got {live}.",
            )


# How the server judges each message of a client; what it cannot judge is accepted by name.
CHECKS: Mapping[Kind, Callable[[Server, int, Any], None]] = {
    Kind.ADVERTISEMENT: Server._check_advertisement,
    Kind.SHARES: Server._check_shares,
    Kind.MASKED_INPUT: Server._accept,
    Kind.CONFIRMATION: Server._check_confirmation,
    Kind.DISCLOSURE: Server._check_disclosure,
}
# What the server does at the end of each collecting phase.
CLOSINGS: Mapping[Phase, Callable[[Server], dict[int, bytes]]] = {
    Phase.ADVERTISE: Server._after_advertise,
    Phase.SHARE: Server._after_share,
    Phase.MASK: Server._after_mask,
    Phase.CONFIRM: Server._after_confirm,
    Phase.UNMASK: Server._after_unmask,
}
