"""Codec: messages to bytes and back, versioned and bounded.

Every message is a header and a body. All lengths follow from the parameters, so a decoder knows
the greatest size of each message before it looks at it, and nothing is allocated on the word of
the peer. Whatever the bytes, decoding gives a message or raises `MalformedMessage`.

    header   version u8 | kind u8 | context tag 8 bytes | party u32        (little endian)

The tag is the head of the context digest of the phase; the party is the sender of a client's
message, the recipient of an inbox, and BROADCAST for what goes to everybody.

>>> codec = Codec(Parameters(clients=3, length=2))
>>> data = codec.encode(messages.Survivors((0, 2)), b"12345678", BROADCAST)
>>> data.hex(), codec.decode(data, b"12345678").message
('01133132333435363738ffffffff05', Survivors(members=(0, 2)))

Sources: docs/secagg-spec.md, section "Wire format".
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from secagg.crypto import field, primitives, ring
from secagg.crypto.context import DIGEST_BYTES, VERSION
from secagg.crypto.primitives import KEY_BYTES, SEED_BYTES, SIGNATURE_BYTES, TAG_BYTES
from secagg.errors import EncodingError, MalformedMessage
from secagg.protocol import messages
from secagg.protocol.messages import Message
from secagg.protocol.parameters import Parameters
from secagg.protocol.rounds import Kind

HEADER = struct.Struct("<BB8sI")
COUNT = struct.Struct("<I")
CONTEXT_TAG_BYTES = 8
BROADCAST = 0xFFFFFFFF

SEED_SHARE_BYTES = 4 * field.elements(SEED_BYTES)
KEY_SHARE_BYTES = 4 * field.elements(KEY_BYTES)
SEALED_BYTES = SEED_SHARE_BYTES + KEY_SHARE_BYTES + TAG_BYTES


class Envelope(NamedTuple):
    """A decoded message and the party of its header."""

    party: int
    message: Message


def context_tag(context: bytes) -> bytes:
    """The head of a context digest that messages carry."""
    return context[:CONTEXT_TAG_BYTES]


class Codec:
    """Encodes and decodes the messages of rounds with given parameters."""

    def __init__(self, parameters: Parameters):
        self.clients = parameters.clients
        self.length = parameters.length
        self.modulus_bits = parameters.modulus_bits
        self.bitmap_bytes = (parameters.clients + 7) // 8
        self._last_set: tuple[tuple[int, ...] | None, bytes] = None, b""
        self.vector_bytes = ring.packed_bytes(parameters.length, parameters.modulus_bits)
        signed = SIGNATURE_BYTES if parameters.active else 0
        self.advertisement_bytes = 2 * KEY_BYTES + DIGEST_BYTES + signed

    def size_bound(self, kind: Kind) -> int:
        """Greatest number of bytes of a message."""
        lists = {
            Kind.KEY_LIST: self.advertisement_bytes,
            Kind.SHARES: SEALED_BYTES,
            Kind.INBOX: SEALED_BYTES,
            Kind.CONFIRMATIONS: SIGNATURE_BYTES,
            Kind.DISCLOSURE: KEY_SHARE_BYTES,
        }
        fixed = {
            Kind.ADVERTISEMENT: self.advertisement_bytes,
            Kind.MASKED_INPUT: self.vector_bytes,
            Kind.SURVIVORS: self.bitmap_bytes,
            Kind.CONFIRMATION: SIGNATURE_BYTES,
        }
        if kind in fixed:
            return HEADER.size + fixed[kind]
        extra = {Kind.INBOX: self.bitmap_bytes, Kind.DISCLOSURE: COUNT.size}.get(kind, 0)
        return HEADER.size + extra + COUNT.size + self.clients * (4 + lists[kind])

    def encode(self, message: Message, tag: bytes, party: int) -> bytes:
        """The bytes of a message under a context tag."""
        header = HEADER.pack(VERSION, message.kind, tag, party)
        body = WRITERS[message.kind](self, message)
        return b"".join((header, body))

    def decode(self, data: bytes, tag: bytes) -> Envelope:
        """The message of some bytes.

        Raises:
          MalformedMessage: Not exactly one message of this version, context and these parameters.
        """
        party, kind, seen = self.peek(data)
        if seen != tag:
            raise MalformedMessage(
                f"Expected a {kind.name} of context {tag.hex()}, got one of {seen.hex()}. "
                "It belongs to another round, phase, or set of parameters."
            )
        if len(data) > self.size_bound(kind):
            raise MalformedMessage(
                f"Expected at most {self.size_bound(kind)} bytes for a {kind.name}, got "
                f"{len(data)}."
            )
        reader = _Reader(data, HEADER.size, kind)
        message = READERS[kind](self, reader)
        reader.finish()
        return Envelope(party, message)

    def peek(self, data: bytes) -> tuple[int, Kind, bytes]:
        """Party, kind and context tag of a message; only the header is read."""
        if not isinstance(data, bytes) or len(data) < HEADER.size:
            raise MalformedMessage(
                f"Expected bytes with a header of {HEADER.size}, got {type(data).__name__}"
                f"{f' of {len(data)}' if isinstance(data, bytes) else ''}."
            )
        version, kind, tag, party = HEADER.unpack_from(data)
        if version != VERSION:
            raise MalformedMessage(f"Expected wire version {VERSION}, got {version}.")
        try:
            return party, Kind(kind), tag
        except ValueError:
            raise MalformedMessage(f"Expected a known message kind, got {kind}.") from None

    def bitmap(self, members: tuple[int, ...]) -> bytes:
        """A set of clients as bits, least significant first."""
        if members is not self._last_set[0]:  # every inbox of a round has the same one
            bits = np.zeros(8 * self.bitmap_bytes, dtype=np.uint8)
            bits[list(members)] = 1
            self._last_set = members, np.packbits(bits, bitorder="little").tobytes()
        return self._last_set[1]

    def advertisement_body(self, message: messages.Advertisement) -> bytes:
        """What stands for one client in a key list."""
        return message.channel_key + message.mask_key + message.commitment + message.signature

    def _put_advertisement(self, message: messages.Advertisement) -> bytes:
        return self.advertisement_body(message)

    def _get_advertisement(self, reader: "_Reader") -> messages.Advertisement:
        return _advertisement(reader.take(self.advertisement_bytes))

    def _put_key_list(self, message: messages.KeyList) -> bytes:
        return _put_table({i: self.advertisement_body(ad) for i, ad in message.keys.items()})

    def _get_key_list(self, reader: "_Reader") -> messages.KeyList:
        table = reader.table(self.advertisement_bytes, self.clients)
        return messages.KeyList({index: _advertisement(body) for index, body in table.items()})

    def _put_shares(self, message: messages.Shares) -> bytes:
        return _put_table(message.sealed)

    def _get_shares(self, reader: "_Reader") -> messages.Shares:
        return messages.Shares(reader.table(SEALED_BYTES, self.clients))

    def _put_inbox(self, message: messages.Inbox) -> bytes:
        return self.bitmap(message.sharers) + _put_table(message.sealed)

    def _get_inbox(self, reader: "_Reader") -> messages.Inbox:
        sharers = self._members(reader)
        return messages.Inbox(sharers, reader.table(SEALED_BYTES, self.clients))

    def _put_masked_input(self, message: messages.MaskedInput) -> bytes | np.ndarray:
        word = ring.word(self.modulus_bits)
        if self.modulus_bits == 8 * word.itemsize:  # the vector's own bytes: saves a copy
            return np.ascontiguousarray(message.vector, dtype=word).view(np.uint8)
        return ring.pack(message.vector, self.modulus_bits)

    def _get_masked_input(self, reader: "_Reader") -> messages.MaskedInput:
        data = reader.take(self.vector_bytes)
        try:
            vector = ring.unpack(data, length=self.length, modulus_bits=self.modulus_bits)
        except EncodingError as error:
            raise MalformedMessage(str(error)) from None
        return messages.MaskedInput(vector)

    def _put_survivors(self, message: messages.Survivors) -> bytes:
        return self.bitmap(message.members)

    def _get_survivors(self, reader: "_Reader") -> messages.Survivors:
        return messages.Survivors(self._members(reader))

    def _put_confirmation(self, message: messages.Confirmation) -> bytes:
        return message.signature

    def _get_confirmation(self, reader: "_Reader") -> messages.Confirmation:
        return messages.Confirmation(reader.take(SIGNATURE_BYTES))

    def _put_confirmations(self, message: messages.Confirmations) -> bytes:
        return _put_table(message.signatures)

    def _get_confirmations(self, reader: "_Reader") -> messages.Confirmations:
        return messages.Confirmations(reader.table(SIGNATURE_BYTES, self.clients))

    def _put_disclosure(self, message: messages.Disclosure) -> bytes:
        return _put_table(message.seeds) + _put_table(message.keys)

    def _get_disclosure(self, reader: "_Reader") -> messages.Disclosure:
        seeds = reader.table(SEED_SHARE_BYTES, self.clients)
        keys = reader.table(KEY_SHARE_BYTES, self.clients)
        both = seeds.keys() & keys.keys()
        if both:
            raise MalformedMessage(
                f"Expected one kind of share per owner, got both kinds for {min(both)}."
            )
        shares = np.frombuffer(b"".join((*seeds.values(), *keys.values())), dtype="<u4")
        if (shares >= field.PRIME).any():
            raise MalformedMessage(f"Expected shares below {field.PRIME}, got a greater one.")
        return messages.Disclosure(seeds, keys)

    def _members(self, reader: "_Reader") -> tuple[int, ...]:
        data = np.frombuffer(reader.take(self.bitmap_bytes), dtype=np.uint8)
        members = np.flatnonzero(np.unpackbits(data, bitorder="little"))
        if members.size and members[-1] >= self.clients:
            raise MalformedMessage(
                f"Expected clients below {self.clients}, got {members[-1]} in a set of clients."
            )
        return tuple(members.tolist())


def _advertisement(body: bytes) -> messages.Advertisement:
    channel_key, mask_key = body[:KEY_BYTES], body[KEY_BYTES : 2 * KEY_BYTES]
    for key in (channel_key, mask_key):
        fault = primitives.public_key_fault(key)
        if fault:
            raise MalformedMessage(f"Expected sound X25519 public keys, got {fault}.")
    return messages.Advertisement(
        channel_key, mask_key, body[2 * KEY_BYTES : 3 * KEY_BYTES], body[3 * KEY_BYTES :]
    )


def _put_table(rows: Mapping[int, bytes]) -> bytes:
    pack = COUNT.pack
    return pack(len(rows)) + b"".join([pack(i) + rows[i] for i in sorted(rows)])


class _Reader:
    """Takes bytes from the front of a body and refuses to run past its end."""

    def __init__(self, data: bytes, start: int, kind: Kind):
        self.data, self.at, self.kind = data, start, kind

    def take(self, size: int) -> bytes:
        if len(self.data) - self.at < size:
            raise MalformedMessage(
                f"Expected {size} more bytes in a {self.kind.name}, got {len(self.data) - self.at}."
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def table(self, row_bytes: int, limit: int) -> dict[int, bytes]:
        (count,) = COUNT.unpack(self.take(COUNT.size))
        if count > limit:
            raise MalformedMessage(f"Expected at most {limit} entries, got {count}.")
        body = self.take(count * (4 + row_bytes))
        rows, last = {}, -1
        for start in range(0, len(body), 4 + row_bytes):
            (index,) = COUNT.unpack_from(body, start)
            if not last < index < limit:
                raise MalformedMessage(
                    f"Expected increasing client indices below {limit}, got {index} after {last}."
                )
            rows[index] = body[start + 4 : start + 4 + row_bytes]
            last = index
        return rows

    def finish(self) -> None:
        if self.at != len(self.data):
            raise MalformedMessage(
                f"Expected the end of a {self.kind.name}, got {len(self.data) - self.at} more bytes."
            )


# One writer and one reader for every kind of message; a kind without one cannot cross.
WRITERS: Mapping[Kind, Callable[[Codec, Any], Any]] = {
    Kind.ADVERTISEMENT: Codec._put_advertisement,
    Kind.KEY_LIST: Codec._put_key_list,
    Kind.SHARES: Codec._put_shares,
    Kind.INBOX: Codec._put_inbox,
    Kind.MASKED_INPUT: Codec._put_masked_input,
    Kind.SURVIVORS: Codec._put_survivors,
    Kind.CONFIRMATION: Codec._put_confirmation,
    Kind.CONFIRMATIONS: Codec._put_confirmations,
    Kind.DISCLOSURE: Codec._put_disclosure,
}
READERS: Mapping[Kind, Callable[[Codec, _Reader], Message]] = {
    Kind.ADVERTISEMENT: Codec._get_advertisement,
    Kind.KEY_LIST: Codec._get_key_list,
    Kind.SHARES: Codec._get_shares,
    Kind.INBOX: Codec._get_inbox,
    Kind.MASKED_INPUT: Codec._get_masked_input,
    Kind.SURVIVORS: Codec._get_survivors,
    Kind.CONFIRMATION: Codec._get_confirmation,
    Kind.CONFIRMATIONS: Codec._get_confirmations,
    Kind.DISCLOSURE: Codec._get_disclosure,
}
