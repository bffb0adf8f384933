"""Fleet: all honest clients of a simulated round at once, message for message.

It sends exactly the bytes that one `Client` per index would send with the same entropy, but does
shared work once: a pair's two key agreements instead of four, its mask expanded once and added
on one side, subtracted on the other, all owners' shares in one matrix product, a broadcast
checked once. It is only for rounds whose faults are drop-outs, where everything that arrives is
what somebody sent.

>>> Fleet(Parameters(clients=3, length=2)).advertise()[0][:2].hex()
'0101'

Sources: docs/secagg-spec.md; the transcript equality is a test.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from secagg.crypto import masks, primitives, ring, shamir
from secagg.crypto.context import round_digest, setup_digest, view_digest
from secagg.crypto.streams import Entropy
from secagg.protocol import keys, messages
from secagg.protocol.codec import HEADER, SEED_SHARE_BYTES, Codec, context_tag
from secagg.protocol.graph import Graph
from secagg.protocol.parameters import Parameters
from secagg.protocol.roster import Roster
from secagg.protocol.rounds import Kind

THREADED_WORDS = 1 << 15
PIECE_BYTES = 1 << 18


class Fleet:
    """Honest clients 0..n-1; arguments as of `Client`, identities by index."""

    def __init__(
        self,
        parameters: Parameters,
        *,
        context: bytes = b"",
        identities: Sequence[primitives.SigningKey] = (),
        roster: Roster | None = None,
        entropy: Entropy = os.urandom,
        threads: int = 1,
    ):
        self.parameters = parameters
        self._codec = Codec(parameters)
        self._setup = setup_digest(
            parameters.canonical(), roster=roster.digest if roster else b"", extra=context
        )
        self._context = self._setup
        self._identities, self._roster = identities, roster
        self._entropy, self._threads = entropy, threads
        self._material: dict[int, keys.KeyMaterial] = {}

    def advertise(self) -> dict[int, bytes]:
        """The first message of every client."""
        answers = {}
        for index in range(self.parameters.clients):
            material = self._material[index] = keys.KeyMaterial.draw(self._entropy)
            identity = self._identities[index] if self._identities else None
            answers[index] = self._send(index, material.advertise(self._setup, index, identity))
        return answers

    def answer(
        self, delivered: Mapping[int, bytes], vectors: np.ndarray
    ) -> tuple[dict[int, bytes], dict[int, Exception]]:
        """The clients' answers to the server's messages; honest clients never fail here."""
        if not delivered:
            return {}, {}
        first = next(iter(delivered.values()))
        kind = self._codec.peek(first)[1]
        message: Any = self._codec.decode(first, context_tag(self._context)).message
        members = sorted(delivered)
        handlers = {
            Kind.KEY_LIST: lambda: self._share(message, first, members),
            Kind.INBOX: lambda: self._mask(message, members, vectors),
            Kind.SURVIVORS: lambda: self._survive(message, members),
            Kind.CONFIRMATIONS: lambda: self._confirmed(message, members),
        }
        return handlers[kind](), {}

    def _send(self, index: int, message: messages.Message) -> bytes:
        return self._codec.encode(message, context_tag(self._context), index)

    def _share(self, message: messages.KeyList, data: bytes, members: list[int]):
        self._announced = message.keys
        self._context = round_digest(self._setup, data[HEADER.size :])
        self._graph = Graph.derived(message.keys, self.parameters, self._context)
        self._check_signatures()
        self._pairs = self._graph.pairs().tolist()
        self._shares = self._split(members)
        plain = {owner: rows.tobytes() for owner, rows in self._shares.items()}
        place = {owner: self._places(owner) for owner in members}
        sealed: dict[int, dict[int, bytes]] = {member: {} for member in members}
        for low, high in self._pairs:
            agreed = self._material[low].channel.agree(message.keys[high].channel_key)
            key = keys.channel_key(agreed, self._context, low, high)
            for sender, recipient in ((low, high), (high, low)):
                if sender in sealed:
                    start = keys.PLAIN_BYTES * place[sender][recipient]
                    share = plain[sender][start : start + keys.PLAIN_BYTES]
                    sealed[sender][recipient] = keys.seal_share(
                        key, self._context, sender, recipient, share
                    )
        return {member: self._send(member, messages.Shares(sealed[member])) for member in members}

    def _check_signatures(self) -> None:
        if self._roster is None:
            return
        for index, ad in self._announced.items():
            text = keys.advertisement_text(self._setup, index, ad)
            assert primitives.verify(self._roster.keys[index], ad.signature, text)

    def _places(self, owner: int) -> dict[int, int]:
        return {holder: place for place, holder in enumerate(self._graph.holders(owner))}

    def _split(self, members: list[int]) -> dict[int, np.ndarray]:
        """Each owner's shares as rows of words, in the order of its holders."""
        threshold = self.parameters.shares_needed
        polynomials = [self._material[member].polynomials(threshold) for member in members]
        holders = len(self._graph.holders(members[0]))
        shares = shamir.evaluate(np.stack(polynomials), holders).astype("<u4")
        return dict(zip(members, shares))

    def _mask(self, message: messages.Inbox, members: list[int], vectors: np.ndarray):
        self._sharers = message.sharers
        sharing, sending = set(message.sharers), set(members)
        terms = []
        for low, high in self._pairs:
            if low in sharing and high in sharing and (low in sending or high in sending):
                agreed = self._material[low].mask.agree(self._announced[high].mask_key)
                terms.append((masks.pair_key(agreed, self._context, low, high), low, high))
        selves = [
            (masks.self_key(self._material[m].self_seed, self._context, m), m) for m in members
        ]
        rows = {member: row for row, member in enumerate(members)}
        masked = np.ascontiguousarray(vectors[members])
        self._expand(masked, terms, selves, rows)
        ring.reduce(masked, self.parameters.modulus_bits)
        return {
            member: self._send(member, messages.MaskedInput(masked[row]))
            for member, row in rows.items()
        }

    def _expand(self, masked: np.ndarray, terms: list, selves: list, rows: dict[int, int]) -> None:
        """Adds all masks, in parallel over ranges of coordinates."""
        length = masked.shape[1]
        threads = self._threads if length >= THREADED_WORDS else 1
        step = -(-length // threads // 4) * 4 or 4  # pieces start on a cipher block
        ranges = [(start, min(start + step, length)) for start in range(0, length, step)]
        if len(ranges) < 2:
            for bounds in ranges:
                _expand_range(masked, terms, selves, rows, *bounds)
            return
        with ThreadPoolExecutor(threads) as pool:
            jobs = [
                pool.submit(_expand_range, masked, terms, selves, rows, *bounds)
                for bounds in ranges
            ]
            for job in jobs:
                job.result()

    def _survive(self, message: messages.Survivors, members: list[int]):
        self._alive = message.members
        if not self.parameters.active:
            return self._disclose(members)
        view = self._view()
        return {
            member: self._send(member, messages.Confirmation(self._identities[member].sign(view)))
            for member in members
        }

    def _view(self) -> bytes:
        sets = map(self._codec.bitmap, (self._sharers, self._alive))
        return view_digest(self._context, *sets)

    def _confirmed(self, message: messages.Confirmations, members: list[int]):
        assert self._roster is not None
        view = self._view()
        for index, signature in message.signatures.items():
            assert primitives.verify(self._roster.keys[index], signature, view)
        return self._disclose(members)

    def _disclose(self, members: list[int]):
        answering, living = set(members), frozenset(self._alive)
        seeds = {member: {} for member in members}
        private = {member: {} for member in members}
        for owner in self._sharers:
            alive = owner in living
            cells = self._shares[owner].tobytes()
            for place, holder in enumerate(self._graph.holders(owner)):
                if holder in answering:
                    start = keys.PLAIN_BYTES * place
                    if alive:
                        seeds[holder][owner] = cells[start : start + SEED_SHARE_BYTES]
                    else:
                        share = cells[start + SEED_SHARE_BYTES : start + keys.PLAIN_BYTES]
                        private[holder][owner] = share
        return {
            member: self._send(member, messages.Disclosure(seeds[member], private[member]))
            for member in members
        }


def _expand_range(masked, terms, selves, rows, start: int, stop: int) -> None:
    """Adds all masks to columns start..stop."""
    part = masked[:, start:stop]
    size = part.itemsize
    first_block = start * size // primitives.BLOCK_BYTES
    zeros = np.zeros(min(PIECE_BYTES, (stop - start) * size), dtype=np.uint8)
    octets = np.empty_like(zeros)
    words, step = octets.view(part.dtype), PIECE_BYTES // size
    columns = [(at, min(at + step, part.shape[1])) for at in range(0, part.shape[1], step)]
    signed = [(key, rows.get(high), rows.get(low)) for key, low, high in terms]
    signed += [(key, rows[member], None) for key, member in selves]
    for key, adds, subtracts in signed:
        stream = primitives.keystream(key, first_block)
        for at, end in columns:
            count = end - at
            stream.update_into(zeros[: count * size], octets[: count * size])
            if adds is not None:
                part[adds, at:end] += words[:count]
            if subtracts is not None:
                part[subtracts, at:end] -= words[:count]
