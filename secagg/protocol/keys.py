"""Key material of one client for one round, and what is shared of it.

Everything is drawn at once, at the start, from the `entropy` argument: two X25519 keys (one for
sealing shares, one for pair masks, because the mask key may be published by recovery and the
channel key must not fall with it), the self-mask seed, and a seed for the share polynomials.

>>> material = KeyMaterial.draw(lambda count: bytes(range(count)))
>>> material
<KeyMaterial: secret>

Sources: Bonawitz et al. (2017), section 4 and figure 4; docs/secagg-spec.md, "Keys".
"""

import hashlib

import numpy as np

from secagg.crypto import field, primitives, shamir
from secagg.crypto.context import Purpose, label
from secagg.crypto.primitives import KEY_BYTES, SEED_BYTES
from secagg.crypto.streams import Entropy, SecureStream
from secagg.protocol.codec import KEY_SHARE_BYTES, SEED_SHARE_BYTES
from secagg.protocol.messages import Advertisement

DRAW_BYTES = 3 * KEY_BYTES + SEED_BYTES
PLAIN_BYTES = SEED_SHARE_BYTES + KEY_SHARE_BYTES


class KeyMaterial(primitives.Secret):
    """The secrets of one client in one round."""

    __slots__ = ("channel", "mask", "mask_secret", "self_seed", "share_seed")

    def __init__(self, raw: bytes):
        self.channel = primitives.AgreementKey(raw[:KEY_BYTES])
        self.mask_secret = raw[KEY_BYTES : 2 * KEY_BYTES]
        self.mask = primitives.AgreementKey(self.mask_secret)
        self.share_seed = raw[2 * KEY_BYTES : 3 * KEY_BYTES]
        self.self_seed = raw[3 * KEY_BYTES :]

    @classmethod
    def draw(cls, entropy: Entropy) -> "KeyMaterial":
        """Draws fresh secrets; a source that gives too few bytes is refused."""
        raw = entropy(DRAW_BYTES)
        if len(raw) != DRAW_BYTES:
            raise ValueError(
                f"Expected {DRAW_BYTES} bytes of entropy, got {len(raw)}. Use os.urandom."
            )
        return cls(raw)

    def polynomials(self, threshold: int) -> np.ndarray:
        """Share polynomials of the two secrets, [threshold, elements]."""
        rows = [
            field.from_bytes(np.frombuffer(secret, dtype=np.uint8)[None])
            for secret in (self.self_seed, self.mask_secret)
        ]
        stream = SecureStream(self.share_seed)
        return shamir.coefficients(np.concatenate(rows, axis=1), threshold, stream)[0]

    def advertise(
        self, setup: bytes, owner: int, identity: primitives.SigningKey | None
    ) -> Advertisement:
        """The public halves and the commitment, signed if there is an identity."""
        unsigned = Advertisement(
            self.channel.public, self.mask.public, seed_commitment(setup, owner, self.self_seed)
        )
        if identity is None:
            return unsigned
        signature = identity.sign(advertisement_text(setup, owner, unsigned))
        return Advertisement(
            unsigned.channel_key, unsigned.mask_key, unsigned.commitment, signature
        )


def seed_commitment(setup: bytes, owner: int, seed: bytes) -> bytes:
    """Binds an owner to its self-mask seed; hiding, because the seed has full entropy."""
    return hashlib.sha256(label(Purpose.SEED_COMMITMENT, setup, owner) + seed).digest()


def advertisement_text(setup: bytes, owner: int, message: Advertisement) -> bytes:
    """What the signature of an advertisement is on."""
    body = message.channel_key + message.mask_key + message.commitment
    return label(Purpose.ADVERTISEMENT, setup, owner) + body


def channel_key(agreed: bytes, context: bytes, one: int, other: int) -> bytes:
    """The key that seals shares between two clients, the same for both directions."""
    low, high = min(one, other), max(one, other)
    return primitives.derive(agreed, label(Purpose.CHANNEL, context, low, high), KEY_BYTES)


def seal_share(key: bytes, context: bytes, sender: int, recipient: int, plain: bytes) -> bytes:
    """Seals a pair of shares.

    The nonce is the direction, so the key (used once per direction and round) never meets a
    nonce twice. Sender and recipient are associated data.
    """
    return primitives.seal(key, sender > recipient, plain, _route(context, sender, recipient))


def open_share(key: bytes, context: bytes, sender: int, recipient: int, sealed: bytes):
    """The pair of shares, or None if it is not authentic or not a pair of shares."""
    route = _route(context, sender, recipient)
    plain = primitives.unseal(key, sender > recipient, sealed, route)
    if plain is None or (np.frombuffer(plain, dtype="<u4") >= field.PRIME).any():
        return None
    return plain


def _route(context: bytes, sender: int, recipient: int) -> bytes:
    return context + sender.to_bytes(4, "little") + recipient.to_bytes(4, "little")
