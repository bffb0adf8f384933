"""Client: one participant of one round, bytes in and bytes out.

A client distrusts the server. It takes its parameters, its context and the roster from its own
side, recomputes the graph, checks every message against what it knows, answers each at most
once, and gives at most one kind of share per owner. Every refusal is a `raise` in this file and
a line in the specification.

>>> client = Client(0, Parameters(clients=3, length=2), context=b"round 1")
>>> len(client.advertise()), client.state.value
(110, 'keys advertised')

Sources: Bonawitz et al. (2017), figure 4; Bell et al. (2020), section 3; docs/secagg-spec.md.
"""

import os
from collections.abc import Callable, Collection, Mapping

import numpy as np

from secagg.crypto import forks, masks, primitives, ring, shamir
from secagg.crypto.context import round_digest, setup_digest, view_digest
from secagg.crypto.streams import Entropy
from secagg.errors import (
    Aborted,
    BelowThreshold,
    CohortChanged,
    CohortRefused,
    Disconnected,
    InconsistentView,
    LocalProtocolError,
    RemoteProtocolError,
    UnknownIdentity,
)
from secagg.protocol import keys, messages
from secagg.protocol.admission import CohortLedger
from secagg.protocol.codec import BROADCAST, HEADER, SEED_SHARE_BYTES, Codec, context_tag
from secagg.protocol.graph import Graph
from secagg.protocol.parameters import Parameters
from secagg.protocol.roster import Roster, check_identities, lasting_names
from secagg.protocol.rounds import CLIENT, ClientState, Kind


class Client(primitives.Secret):
    """The state machine of one client; single use.

    Guarantees:
      Whatever the server sends, the client reveals nothing about its vector but through sums
      over at least `parameters.quorum` clients, under the conditions of `Parameters`.

    Args:
      index: Position in the cohort, 0..clients-1.
      parameters: This client's own policy.
      context: Bytes that name the round: round id, model digest, specification of the noise.
        Two rounds must not have the same.
      identity: Long-term signing key, in the active model.
      roster: Public identities of all clients, in the active model.
      pinned: Survivors of an earlier pass of the same evaluation; any other set aborts.
      ledger: Refuses contexts used before and cohorts too close to earlier ones; share one
        between the rounds of a client.
      entropy: Source of secret bytes. Anything but the default is for tests.
    """

    def __init__(
        self,
        index: int,
        parameters: Parameters,
        *,
        context: bytes = b"",
        identity: primitives.SigningKey | None = None,
        roster: Roster | None = None,
        pinned: Collection[int] | None = None,
        ledger: CohortLedger | None = None,
        entropy: Entropy = os.urandom,
    ):
        if not 0 <= index < parameters.clients:
            raise LocalProtocolError(
                f"Expected an index below {parameters.clients}, got {index}. "
                "Number the cohort from 0."
            )
        check_identities(parameters, roster)
        if roster is not None and (identity is None or identity.public != roster.keys[index]):
            raise LocalProtocolError(
                f"Expected the identity key of roster entry {index}, got another or none. "
                "Pass identity=SigningKey(...) as it was registered."
            )
        self.index = index
        self.parameters = parameters
        self.state = ClientState.CREATED
        self._process = forks.generation()
        self._identity, self._roster = identity, roster
        self._pinned = None if pinned is None else frozenset(pinned)
        self._entropy = entropy
        self._codec = Codec(parameters)
        self._setup = setup_digest(
            parameters.canonical(), roster=roster.digest if roster else b"", extra=context
        )
        self._ledger = ledger
        if ledger is not None:
            ledger.claim(self._setup)
        self._material: keys.KeyMaterial | None = None
        self._shares: dict[int, bytes] = {}

    def advertise(self) -> bytes:
        """Draws the round's secrets and gives the first message."""
        self._refuse_in_a_fork()
        if self.state is not ClientState.CREATED:
            raise LocalProtocolError(
                f"Expected advertise() once on a new client, got it in state {self.state.value!r}. "
                "Make a new Client for a new round."
            )
        self._material = keys.KeyMaterial.draw(self._entropy)
        self._own = self._material.advertise(self._setup, self.index, self._identity)
        self._context = self._setup
        self.state = ClientState.KEYS_ADVERTISED
        return self._send(self._own)

    def receive(self, data: bytes, vector: np.ndarray | None = None) -> bytes:
        """Answers a message of the server.

        Args:
          data: The server's message.
          vector: The ring vector, needed with (and only with) the inbox.

        Returns:
          The bytes to send back.

        Raises:
          RemoteProtocolError: The message is refused; the state is unchanged.
          LocalProtocolError: The vector is missing, or this process is a fork of the one that made the
            client; the state is unchanged.
          EncodingError: The vector is not a ring vector; the state is unchanged.
          Aborted: The server misbehaved or too few clients are left; secrets are gone.
          CohortRefused: The ledger refuses the survivors; secrets are gone.
        """
        self._refuse_in_a_fork()
        kind = self._codec.peek(data)[1]
        after = CLIENT.get((self.state, kind, self.parameters.active))
        if after is None:
            raise RemoteProtocolError(
                f"Can't handle a {kind.name} in state {self.state.value!r}. "
                "Each message is answered once, in order."
            )
        party, message = self._codec.decode(data, context_tag(self._context))
        if party != (self.index if kind is Kind.INBOX else BROADCAST):
            raise RemoteProtocolError(
                f"Expected a {kind.name} for client {self.index}, got one for {party}."
            )
        if kind is Kind.INBOX:
            vector = self._checked(vector)
        try:
            answer = ANSWERS[kind](self, message, data, vector)
        except (Aborted, CohortRefused):
            self.close()
            raise
        self.state = after
        if after is ClientState.FINISHED:
            self._forget()
        return answer

    def close(self) -> None:
        """Leaves the round for good and drops all secrets."""
        if self.state is not ClientState.FINISHED:
            self.state = ClientState.ABORTED
        self._forget()

    def _refuse_in_a_fork(self) -> None:
        """Parent and child would hide two vectors with one mask, and answer twice."""
        if self._process != forks.generation():
            raise LocalProtocolError(
                "Expected the process that made this client, got a fork of it. Make a new Client, "
                "in a new round, in each process."
            )

    def _forget(self) -> None:
        self._material, self._shares, self._identity = None, {}, None

    def _send(self, message: messages.Message) -> bytes:
        return self._codec.encode(message, context_tag(self._context), self.index)

    def _secrets(self) -> keys.KeyMaterial:
        assert self._material is not None
        return self._material

    def _checked(self, vector: np.ndarray | None) -> np.ndarray:
        if vector is None:
            raise LocalProtocolError(
                "Expected this client's vector with the inbox, got None. "
                "Call receive(data, vector)."
            )
        size = {"length": self.parameters.length, "modulus_bits": self.parameters.modulus_bits}
        return ring.as_elements(vector, **size).copy()

    def _enough(self, members: Collection[int], what: str, phase: str) -> None:
        if len(members) < self.parameters.quorum:
            raise BelowThreshold(
                phase,
                f"expected at least {self.parameters.quorum} clients that {what}, "
                f"got {len(members)}.",
            )

    # Phase 1: key list in, sealed shares out.

    def _on_key_list(self, message: messages.KeyList, data: bytes, _vector) -> bytes:
        self._check_keys(message.keys)
        self._context = round_digest(self._setup, data[HEADER.size :])
        self._graph = Graph.derived(message.keys, self.parameters, self._context)
        neighbours = self._graph.neighbours(self.index)
        self._check_signatures(message.keys, neighbours)
        self._pair_secrets = {}
        self._channel_keys = {}
        for other in neighbours:
            peer = message.keys[other]
            agreed = self._secrets().channel.agree(peer.channel_key)
            self._channel_keys[other] = keys.channel_key(agreed, self._context, self.index, other)
            self._pair_secrets[other] = peer.mask_key
        plain = self._split()
        sealed = {
            other: keys.seal_share(
                self._channel_keys[other], self._context, self.index, other, plain[other]
            )
            for other in neighbours
        }
        return self._send(messages.Shares(sealed))

    def _check_keys(self, announced: Mapping[int, messages.Advertisement]) -> None:
        phase = "share keys"
        self._enough(announced, "announced keys", phase)
        if announced.get(self.index) != self._own:
            raise InconsistentView(phase, "expected my own keys in the list, got others or none.")
        public = {key for ad in announced.values() for key in (ad.channel_key, ad.mask_key)}
        if len(public) != 2 * len(announced):
            raise InconsistentView(phase, "expected distinct public keys, got one twice.")
        if self._pinned is not None and not self._pinned <= announced.keys():
            missing = sorted(self._pinned - announced.keys())
            raise CohortChanged(phase, f"expected the pinned cohort, got none of {missing}.")
        if self.parameters.neighbours and len(announced) <= self.parameters.neighbours:
            raise BelowThreshold(
                phase,
                f"expected more than {self.parameters.neighbours} members for the ring, "
                f"got {len(announced)}.",
            )

    def _check_signatures(self, announced, neighbours: Collection[int]) -> None:
        if self._roster is None:
            return
        for other in neighbours:
            peer = announced[other]
            text = keys.advertisement_text(self._setup, other, peer)
            if not primitives.verify(self._roster.keys[other], peer.signature, text):
                raise UnknownIdentity(
                    "share keys",
                    f"expected keys signed by roster entry {other}, got an invalid signature.",
                    (other,),
                )

    def _split(self) -> dict[int, bytes]:
        holders = self._graph.holders(self.index)
        polynomials = self._secrets().polynomials(self.parameters.shares_needed)
        rows = shamir.evaluate(polynomials[None], len(holders))[0].astype("<u4")
        plain = {holder: row.tobytes() for holder, row in zip(holders, rows)}
        if self.index in plain:
            self._shares[self.index] = plain[self.index]
        return plain

    # Phase 2: inbox in, masked vector out.

    def _on_inbox(self, message: messages.Inbox, _data: bytes, vector: np.ndarray) -> bytes:
        phase = "masked input"
        self._sharers = frozenset(message.sharers)
        self._enough(self._sharers, "shared their secrets", phase)
        if self.index not in self._sharers or not self._sharers <= set(self._graph.members):
            raise InconsistentView(
                phase, "expected sharers among the announced clients, me included, got others."
            )
        neighbours = [v for v in self._graph.neighbours(self.index) if v in self._sharers]
        if sorted(message.sealed) != neighbours:
            raise InconsistentView(
                phase, "expected one sealed share from every neighbour that shared, got others."
            )
        for other in neighbours:
            self._shares[other] = self._unsealed(other, message.sealed[other])
        self._channel_keys = {}
        vector = self._masked(vector, neighbours)
        return self._send(messages.MaskedInput(vector))

    def _unsealed(self, other: int, sealed: bytes) -> bytes:
        key = self._channel_keys[other]
        plain = keys.open_share(key, self._context, other, self.index, sealed)
        if plain is None:
            raise InconsistentView(
                "masked input", f"expected an authentic share from {other}, got another.", (other,)
            )
        return plain

    def _masked(self, vector: np.ndarray, neighbours: Collection[int]) -> np.ndarray:
        material = self._secrets()
        terms = [(masks.self_key(material.self_seed, self._context, self.index), 1)]
        for other in neighbours:
            agreed = material.mask.agree(self._pair_secrets[other])
            key = masks.pair_key(agreed, self._context, self.index, other)
            terms.append((key, masks.pair_sign(self.index, other)))
        masks.accumulate(vector, terms)
        self._material, self._pair_secrets = None, {}  # never needed again: only shares are
        return ring.reduce(vector, self.parameters.modulus_bits)

    # Phases 3 and 4: survivors in, shares out; in the active model a signature in between.

    def _on_survivors(self, message: messages.Survivors, _data: bytes, _vector) -> bytes:
        phase = "unmask"
        alive = frozenset(message.members)
        self._enough(alive, "sent a masked input", phase)
        if self.index not in alive or not alive <= self._sharers:
            raise InconsistentView(
                phase, "expected survivors among the sharers, me included, got others."
            )
        if self._pinned is not None and alive != self._pinned:
            raise CohortChanged(phase, "expected the pinned survivors, got another set.")
        if not self._graph.connected(alive):
            raise Disconnected(phase, "expected connected survivors, got a graph that falls apart.")
        if self._ledger is not None:
            self._ledger.admit(lasting_names(alive, self._roster))
        self._alive = alive
        if not self.parameters.active:
            return self._disclose()
        assert self._identity is not None
        return self._send(messages.Confirmation(self._identity.sign(self._view())))

    def _view(self) -> bytes:
        sets = (tuple(sorted(self._sharers)), tuple(sorted(self._alive)))
        return view_digest(self._context, *map(self._codec.bitmap, sets))

    def _on_confirmations(self, message: messages.Confirmations, _data: bytes, _vector) -> bytes:
        assert self._roster is not None
        phase = "unmask"
        self._enough(message.signatures, "confirmed the survivors", phase)
        view = self._view()
        for other, signature in message.signatures.items():
            key = self._roster.keys[other]
            if other not in self._alive or not primitives.verify(key, signature, view):
                raise InconsistentView(
                    phase, f"expected {other} to confirm the survivors I was told, it did not."
                )
        return self._disclose()

    def _disclose(self) -> bytes:
        seeds, private = {}, {}
        for owner, share in self._shares.items():
            if owner in self._alive:
                seeds[owner] = share[:SEED_SHARE_BYTES]
            else:
                private[owner] = share[SEED_SHARE_BYTES:]
        return self._send(messages.Disclosure(seeds, private))


# How a client answers each message of the server; a kind without an answer is an error.
ANSWERS: Mapping[Kind, Callable[..., bytes]] = {
    Kind.KEY_LIST: Client._on_key_list,
    Kind.INBOX: Client._on_inbox,
    Kind.SURVIVORS: Client._on_survivors,
    Kind.CONFIRMATIONS: Client._on_confirmations,
}
