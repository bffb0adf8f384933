"""Primitives have known answers, masks the same bits: K1, K5 and E8 of docs/secagg-spec.md."""

import numpy as np
import pytest

from secagg.crypto import masks, primitives

hexed = bytes.fromhex

# K1: standard vectors through our wrappers.


@pytest.mark.parametrize(
    ("scalar", "u", "result"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_k1_x25519_of_rfc_7748(scalar, u, result):
    point = bytearray(hexed(u))
    point[31] &= 0x7F  # the function ignores the top bit; the protocol refuses it elsewhere
    assert primitives.AgreementKey(hexed(scalar)).agree(bytes(point)) == hexed(result)


def test_k1_hkdf_of_rfc_5869_case_3():
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert primitives.derive(b"\x0b" * 22, b"", 42) == hexed(okm)


def test_k1_ed25519_of_rfc_8032_test_1():
    key = primitives.SigningKey(
        hexed("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    signature = hexed(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"") == signature
    assert primitives.verify(key.public, signature, b"")
    assert not primitives.verify(key.public, signature, b"x")


def test_k1_aes_ctr_of_sp_800_38a():
    stream = primitives.keystream(
        hexed("2b7e151628aed2a6abf7158809cf4f3c"),
        int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16),
    )
    plain = hexed("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    cipher = hexed("874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff")
    assert stream.update(plain) == cipher


def test_k1_aes_gcm_of_the_gcm_specification_case_14():
    sealed = primitives.seal(bytes(32), 0, bytes(16), b"")
    assert sealed == hexed("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")
    assert primitives.unseal(bytes(32), 0, sealed, b"") == bytes(16)
    assert primitives.unseal(bytes(32), 0, sealed, b"x") is None
    assert primitives.unseal(bytes(32), 1, sealed, b"") is None


# K5: the same bits whatever the block size, the threads, the engine.


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("block", [16, 64, 4096, 1 << 20])
def test_k5_block_size_does_not_change_a_mask(dtype, block, monkeypatch):
    keys = [(bytes([i]) * 16, 1 if i % 2 else -1) for i in range(5)]
    whole = np.zeros(3001, dtype)
    masks.accumulate(whole, keys)
    monkeypatch.setattr(masks, "BLOCK_BYTES", block)
    blocked = np.zeros(3001, dtype)
    masks.accumulate(blocked, keys)
    assert (whole == blocked).all()


def test_k5_a_vector_cut_in_pieces_gets_the_same_mask():
    whole, pieces = np.zeros(1000, np.uint64), np.zeros(1000, np.uint64)
    masks.accumulate(whole, [(b"k" * 16, 1)])
    for start in range(0, 1000, 248):
        masks.accumulate(pieces[start : start + 248], [(b"k" * 16, 1)], first_word=start)
    assert (whole == pieces).all()


def test_k5_a_mask_is_the_keystream_itself():
    vector = np.zeros(100, np.uint32)
    masks.accumulate(vector, [(b"k" * 16, 1)])
    assert vector.tobytes() == primitives.keystream(b"k" * 16).update(bytes(400))


def test_e8_masks_far_beyond_four_gigabytes_do_not_repeat():
    pieces = []
    for first_word in (0, 2**30, 2**32, 2**34):
        piece = np.zeros(8, np.uint32)
        masks.accumulate(piece, [(bytes(16), 1)], first_word=first_word)
        pieces.append(tuple(piece))
    assert len(set(pieces)) == 4
