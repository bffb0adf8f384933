"""The wire vectors (K2 of docs/secagg-spec.md), read with struct and hashlib, without the codec.

What is recomputed here from the bytes alone: layouts, sizes, sets, both context digests, key
derivations, the opening of shares, Shamir interpolation in plain integers, and the sum.
"""

import hashlib
import hmac
import importlib.util
import json
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secagg import Parameters
from secagg.errors import MalformedMessage
from secagg.protocol.codec import Codec

FILE = Path(__file__).parent / "vectors" / "wire_v1.json"
CASES = json.loads(FILE.read_text())["cases"]
PRIME = 2**31 - 1
by_name = pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])


def framed(*fields):
    return b"".join(len(f).to_bytes(8, "little") + f for f in fields)


def label(purpose, context, *parties):
    ids = b"".join(struct.pack("<I", party) for party in parties)
    return framed(b"secfad secagg", b"\x01", purpose, context, ids)


def sha(purpose, *fields):
    return hashlib.sha256(label(purpose, b"") + framed(*fields)).digest()


def hkdf(secret, info, length):
    key = hmac.digest(bytes(32), secret, "sha256")
    out, block = b"", b""
    for counter in range(1, 3):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        out += block
    return out[:length]


def of_kind(case, kind):
    return {m["client"]: bytes.fromhex(m["hex"]) for m in case["messages"] if m["kind"] == kind}


def table(data, row):
    (count,) = struct.unpack_from("<I", data)
    rows = {}
    for i in range(count):
        at = 4 + i * (4 + row)
        rows[struct.unpack_from("<I", data, at)[0]] = data[at + 4 : at + 4 + row]
    return rows, data[4 + count * (4 + row) :]


def members(bitmap):
    return [8 * i + j for i, byte in enumerate(bitmap) for j in range(8) if byte >> j & 1]


def contexts(case):
    """Setup and round digest, from the inputs of the case."""
    p = Parameters(**case["parameters"])
    fields = [
        p.clients,
        p.length,
        p.threshold,
        p.modulus_bits,
        p.min_cohort,
        p.adversary,
        p.graph,
        p.neighbours,
        p.corrupt,
        p.dropout,
        p.security_bits,
        p.correctness_bits,
    ]
    canonical = framed(*(repr(value).encode() for value in fields))
    roster = b""
    if p.adversary == "active":
        publics = [
            Ed25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32)
            .public_key()
            .public_bytes_raw()
            for i in range(p.clients)
        ]
        roster = sha(b"roster", *publics)
    setup = sha(b"setup", canonical, roster, bytes.fromhex(case["context"]))
    key_list = next(iter(of_kind(case, "KEY_LIST").values()))
    return setup, sha(b"round", setup, key_list[14:])


def secrets(case):
    """Channel key, mask key, share seed and self-mask seed of every client."""
    found = {}
    for client in range(case["parameters"]["clients"]):
        raw = hashlib.shake_256(f"{case['name']} {client}".encode()).digest(112)
        found[client] = (raw[:32], raw[32:64], raw[64:96], raw[96:])
    return found


def public(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private, peer):
    return X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(peer)
    )


@by_name
def test_k2_the_header_of_every_message(case):
    setup, context = contexts(case)
    kinds = {
        "ADVERTISEMENT": 1, "SHARES": 2, "MASKED_INPUT": 3, "CONFIRMATION": 4, "DISCLOSURE": 5,
        "KEY_LIST": 17, "INBOX": 18, "SURVIVORS": 19, "CONFIRMATIONS": 20,
    }  # fmt: skip
    for m in case["messages"]:
        data = bytes.fromhex(m["hex"])
        version, kind, tag, party = struct.unpack_from("<BB8sI", data)
        assert (version, kind) == (1, kinds[m["kind"]])
        early = m["kind"] in ("ADVERTISEMENT", "KEY_LIST")
        assert tag == (setup if early else context)[:8]
        broadcast = m["kind"] in ("KEY_LIST", "SURVIVORS", "CONFIRMATIONS")
        assert party == (0xFFFFFFFF if broadcast else m["client"])


@by_name
def test_k2_advertisements_are_the_public_halves_and_the_commitment(case):
    setup, _ = contexts(case)
    for client, data in of_kind(case, "ADVERTISEMENT").items():
        channel, mask, _, seed = secrets(case)[client]
        commitment = hashlib.sha256(label(b"seed commitment", setup, client) + seed).digest()
        body = public(channel) + public(mask) + commitment
        assert data[14:110] == body
        if case["name"] == "active":
            key = Ed25519PrivateKey.from_private_bytes(bytes([client + 1]) * 32).public_key()
            key.verify(data[110:], label(b"advertisement signature", setup, client) + body)
        else:
            assert len(data) == 110


def opened(case):
    """Every sealed pair of shares, by (owner, holder), opened with the holder's key."""
    _, context = contexts(case)
    known, plain = secrets(case), {}
    for owner, data in of_kind(case, "SHARES").items():
        rows, rest = table(data[14:], 72)
        assert rest == b""
        for holder, sealed in rows.items():
            low, high = sorted((owner, holder))
            agreed = agree(known[holder][0], public(known[owner][0]))
            key = hkdf(agreed, label(b"channel key", context, low, high), 32)
            nonce = (1 if owner > holder else 0).to_bytes(12, "little")
            route = context + struct.pack("<II", owner, holder)
            plain[owner, holder] = AESGCM(key).decrypt(nonce, sealed, route)
    return plain


def interpolate(points):
    """Value at zero in plain integers."""
    total = 0
    for x, y in points.items():
        top = bottom = 1
        for other in points:
            if other != x:
                top, bottom = top * -other % PRIME, bottom * (x - other) % PRIME
        total += y * top * pow(bottom, -1, PRIME)
    return total % PRIME


def secret_of(words):
    return sum(word << (30 * i) for i, word in enumerate(words))


@by_name
def test_k2_any_threshold_of_shares_rebuilds_both_secrets(case):
    threshold = Parameters(**case["parameters"]).threshold
    shares, known = opened(case), secrets(case)
    for owner in of_kind(case, "SHARES"):
        held = {
            holder + 1: struct.unpack("<14I", plain)
            for (o, holder), plain in shares.items()
            if o == owner
        }
        if len(held) < threshold:
            continue
        points = sorted(held)[:threshold]
        words = [interpolate({x: held[x][i] for x in points}) for i in range(14)]
        assert secret_of(words[:5]) == int.from_bytes(known[owner][3], "little")
        assert secret_of(words[5:]) == int.from_bytes(known[owner][1], "little")


def keystream_words(key, count, size):
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    raw = cipher.update(bytes(count * size))
    return [int.from_bytes(raw[size * i : size * i + size], "little") for i in range(count)]


@by_name
def test_k2_masked_inputs_and_sum_follow_from_the_secrets(case):
    _, context = contexts(case)
    known, p = secrets(case), Parameters(**case["parameters"])
    size, modulus = (4 if p.modulus_bits <= 32 else 8), 1 << p.modulus_bits
    sharers = sorted(of_kind(case, "SHARES"))
    for client, data in of_kind(case, "MASKED_INPUT").items():
        seed_label = label(b"self mask", context, client)
        total = list(case["inputs"][client])
        terms = [(hkdf(known[client][3], seed_label, 16), 1)]
        for other in sharers:
            if other != client:
                low, high = sorted((client, other))
                agreed = agree(known[client][1], public(known[other][1]))
                key = hkdf(agreed, label(b"pair mask", context, low, high), 16)
                terms.append((key, 1 if client > other else -1))
        for key, sign in terms:
            words = keystream_words(key, p.length, size)
            total = [t + sign * w for t, w in zip(total, words)]
        packed = sum((t % modulus) << (p.modulus_bits * i) for i, t in enumerate(total))
        body = packed.to_bytes((p.length * p.modulus_bits + 7) // 8, "little")
        assert data[14:] == body
    columns = zip(*(case["inputs"][i] for i in case["survivors"]))
    assert case["sum"] == [sum(column) % modulus for column in columns]


@by_name
def test_k2_disclosures_are_the_shares_that_are_due(case):
    shares = opened(case)
    sharers, alive = sorted(of_kind(case, "SHARES")), case["survivors"]
    assert members(next(iter(of_kind(case, "SURVIVORS").values()))[14:]) == alive
    for client, data in of_kind(case, "DISCLOSURE").items():
        seeds, rest = table(data[14:], 20)
        keys, rest = table(rest, 36)
        assert rest == b""
        assert sorted(seeds) == alive
        assert sorted(keys) == [i for i in sharers if i not in alive]
        for owner, share in (*seeds.items(), *keys.items()):
            if owner != client:
                whole = shares[owner, client]
                assert share == (whole[:20] if owner in seeds else whole[20:])


@by_name
def test_k2_confirmations_sign_the_view(case):
    if case["name"] != "active":
        assert not of_kind(case, "CONFIRMATION")
        return
    _, context = contexts(case)
    bitmap = bytes([sum(1 << i for i in case["survivors"])])
    view = label(b"survivor view signature", context) + framed(bitmap, bitmap)
    forwarded = next(iter(of_kind(case, "CONFIRMATIONS").values()))
    rows, _ = table(forwarded[14:], 64)
    for client, data in of_kind(case, "CONFIRMATION").items():
        key = Ed25519PrivateKey.from_private_bytes(bytes([client + 1]) * 32).public_key()
        key.verify(data[14:], view)
        assert rows[client] == data[14:]


@by_name
def test_k2_bad_messages_are_malformed(case):
    codec = Codec(Parameters(**case["parameters"]))
    setup, context = contexts(case)
    for bad in case["bad"]:
        data = bytes.fromhex(bad["hex"])
        early = bad["kind"] in ("ADVERTISEMENT", "KEY_LIST")
        with pytest.raises(MalformedMessage):
            codec.decode(data, (setup if early else context)[:8])


def test_k2_the_file_is_what_the_script_makes():
    script = FILE.parent / "make_vectors.py"
    spec = importlib.util.spec_from_file_location("make_vectors", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert [module.run(*case) for case in module.CASES.items()] == CASES
