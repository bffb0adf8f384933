"""Cryptographic primitives, each a thin wrapper with the protocol's fixed choices.

The only module that imports `cryptography`. X25519 for key agreement, HKDF-SHA256 with labels,
AES-256-GCM for shares, AES-128-CTR for masks, Ed25519 for identities. Nothing here chooses
randomness: secret bytes are arguments.

>>> alice, bob = AgreementKey(bytes(31) + b"A"), AgreementKey(bytes(31) + b"B")
>>> alice.agree(bob.public) == bob.agree(alice.public)
True

Sources: RFC 7748 (X25519), RFC 5869 (HKDF), RFC 8032 (Ed25519), NIST SP 800-38A and 38D.
"""

from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
SEED_BYTES = 16
SIGNATURE_BYTES = 64
TAG_BYTES = 16
BLOCK_BYTES = 16

_P = 2**255 - 19
_TOP = (1 << 255) - 1
# u-coordinates of order 1, 2, 4 and 8 on the curve and its twist (RFC 7748 asks for the check).
_LOW_ORDER_U = {
    0,
    1,
    _P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
}
# y-coordinates of the eight small-order points of edwards25519; such an identity key verifies
# signatures that nobody made.
_Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_LOW_ORDER_Y = {0, 1, _P - 1, _Y8, _P - _Y8}


class Secret:
    """Base of what must not leak: no repr of the contents, no pickling, no copying."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: secret>"

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} holds secrets and cannot be pickled or copied.")


class AgreementKey(Secret):
    """An X25519 private key made from 32 secret bytes, with its public half."""

    __slots__ = ("_private", "public")

    def __init__(self, secret: bytes):
        self._private = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    def agree(self, public: bytes) -> bytes:
        """The shared secret; ValueError for a public key of small order."""
        return self._private.exchange(_parsed(public))


@lru_cache(maxsize=1 << 14)
def _parsed(public: bytes) -> X25519PublicKey:
    """Public keys meet many partners; parsing is a tenth of an exchange."""
    return X25519PublicKey.from_public_bytes(public)


def public_key_fault(public: bytes) -> str | None:
    """Why an X25519 public key is unacceptable, or None.

    X25519 ignores the top bit and reduces modulo p, so one key has several encodings; only the
    canonical one is accepted, else two identities could hold the same key unnoticed.
    """
    value = int.from_bytes(public, "little")
    if value >= _P:
        return "a public key that is not canonical"
    return "a public key of small order" if value in _LOW_ORDER_U else None


def derive(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 with an empty salt; `info` is a label of `context.label`."""
    return HKDF(SHA256(), length, salt=None, info=info).derive(secret)


def seal(key: bytes, nonce: int, plaintext: bytes, associated: bytes) -> bytes:
    """AES-GCM encryption. The caller uses a (key, nonce) pair once."""
    return AESGCM(key).encrypt(nonce.to_bytes(12, "little"), plaintext, associated)


def unseal(key: bytes, nonce: int, ciphertext: bytes, associated: bytes) -> bytes | None:
    """AES-GCM decryption; None if the ciphertext or its associated data is not authentic."""
    try:
        return AESGCM(key).decrypt(nonce.to_bytes(12, "little"), ciphertext, associated)
    except InvalidTag:
        return None


def keystream(key: bytes, first_block: int = 0) -> Any:
    """AES-CTR keystream from a block on; `.update_into(zeros, out)` yields and advances it."""
    return Cipher(algorithms.AES(key), _counter(first_block)).encryptor()


@lru_cache(maxsize=64)
def _counter(first_block: int) -> modes.CTR:
    """A counter's start; checking it anew is a quarter of opening a stream."""
    return modes.CTR(first_block.to_bytes(16, "big"))


class SigningKey(Secret):
    """An Ed25519 private key made from 32 secret bytes, with its public half."""

    __slots__ = ("_private", "public")

    def __init__(self, secret: bytes):
        self._private = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """A deterministic signature of SIGNATURE_BYTES bytes."""
        return self._private.sign(message)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature is valid."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def identity_key_fault(public: bytes) -> str | None:
    """Why an Ed25519 public key is unacceptable as an identity, or None."""
    if len(public) != KEY_BYTES:
        return f"a key of {len(public)} bytes"
    y = int.from_bytes(public, "little") & _TOP
    if y >= _P:
        return "a key that is not canonical"
    return "a key of small order" if y in _LOW_ORDER_Y else None
