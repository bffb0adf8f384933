"""Key files for signing certificates: Ed25519, in the PEM forms that other tools read and write.

    secfad new-key ci.pem            writes ci.pem (keep it secret) and ci.pem.pub (hand it out)
    openssl genpkey -algorithm ed25519 -out ci.pem     makes a file of the same form

An Ed25519 key in DER is a fixed prefix and 32 bytes, so there is exactly one accepted encoding and
nothing to parse.

>>> public_from_pem(public_to_pem(bytes(31) + b"A"))[-1:]
b'A'

Source: RFC 8410, sections 4 (public) and 7 (private).
"""

import base64
import binascii
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from privacy.checking import expect, expect_path
from privacy.errors import PrivacyError
from secagg.crypto.primitives import KEY_BYTES, SigningKey, identity_key_fault

_PRIVATE = bytes.fromhex("302e020100300506032b657004220420")
_PUBLIC = bytes.fromhex("302a300506032b6570032100")
_OWNER_ONLY = 0o600


class KeyMalformed(PrivacyError, ValueError):
    """A file is not an Ed25519 key of the expected half, or the key is unacceptable."""


def new_key_files(
    path: str | Path, *, entropy: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[Path, Path]:
    """Writes a new private key, readable only by its owner, and its public half next to it.

    Args:
      path: Path of the private key; the public key gets the suffix `.pub`.
      entropy: Returns secret bytes; by default from the operating system.

    Returns:
      Both paths.

    Raises:
      FileExistsError: One of the files exists; keys are never overwritten.
    """
    expect_path(path, "path", "Name a new file for the private key.", KeyMalformed)
    private, public = Path(path), Path(f"{path}.pub")
    if public.exists():
        raise FileExistsError(f"Expected no file at {public}, got one. Keys are never overwritten.")
    secret = entropy(KEY_BYTES)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(private, flags, _OWNER_ONLY), "w") as file:
        file.write(_armour("PRIVATE KEY", _PRIVATE + secret))
    public.write_text(public_to_pem(SigningKey(secret).public))
    return private, public


def read_signing_key(path: str | Path) -> SigningKey:
    """The private key of a file.

    Raises:
      KeyMalformed: The file holds something else.
    """
    expect_path(path, "path", "Name the file of the private key.", KeyMalformed)
    text = Path(path).read_text(errors="replace")
    return SigningKey(_unarmoured(text, "PRIVATE KEY", _PRIVATE, str(path)))


def read_public_key(path: str | Path) -> bytes:
    """The public key of a file, 32 bytes.

    Raises:
      KeyMalformed: The file holds something else, or a key for which anyone can sign.
    """
    expect_path(path, "path", "Name the file of the public key.", KeyMalformed)
    return public_from_pem(Path(path).read_text(errors="replace"), str(path))


def public_to_pem(public: bytes) -> str:
    """The text of a public key file."""
    expect(public, bytes, "public", "the bytes of a key", "", KeyMalformed)
    return _armour("PUBLIC KEY", _PUBLIC + public)


def public_from_pem(text: str, where: str = "the text") -> bytes:
    """The 32 bytes of a public key; an error names the place of the text.

    Raises:
      KeyMalformed: The text is something else, or a key for which anyone can sign.
    """
    expect(text, str, "text", "a text", "Pass the text of a public key file.", KeyMalformed)
    public = _unarmoured(text, "PUBLIC KEY", _PUBLIC, where)
    fault = identity_key_fault(public)
    if fault is not None:
        raise KeyMalformed(f"Expected an Ed25519 public key in {where}, got {fault}.")
    return public


def _armour(label: str, der: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.b64encode(der).decode()}\n-----END {label}-----\n"


def _unarmoured(text: str, label: str, prefix: bytes, where: str) -> bytes:
    """The key's bytes; an error names the fault and never shows the text."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(lines) < 3 or lines[0] != f"-----BEGIN {label}-----":
        got = lines[0].strip("-") if lines and lines[0].startswith("-----BEGIN ") else "other text"
        raise KeyMalformed(
            f"Expected an unencrypted PEM file with an Ed25519 {label} at {where}, got {got}. "
            "Make a pair with secfad new-key."
        )
    try:
        der = base64.b64decode("".join(lines[1:-1]), validate=True)
    except binascii.Error:
        der = b""
    good = len(der) == len(prefix) + KEY_BYTES and der.startswith(prefix)
    if not good or lines[-1] != f"-----END {label}-----":
        raise KeyMalformed(
            f"Expected the Ed25519 form of RFC 8410 in the {label} at {where}, got another algorithm "
            "or a damaged file. Make a pair with secfad new-key."
        )
    return der[len(prefix) :]
