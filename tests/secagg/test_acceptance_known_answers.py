"""K1-K10 of the acceptance list, except K2 (test_vectors.py): known answers and robustness."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from secagg import (
    Drop,
    Parameters,
    SecureStream,
    Server,
    field,
    masks,
    primitives,
    shamir,
    simulate,
)
from secagg.codec import BROADCAST, HEADER, KEY_SHARE_BYTES, SEALED_BYTES, SEED_SHARE_BYTES, Codec
from secagg.errors import (
    Aborted,
    MalformedMessage,
    ParameterError,
    RemoteProtocolError,
    SecAggError,
)
from secagg.faults import Crash, Delay, Duplicate, Lie, Reorder, Tamper
from secagg.field import PRIME
from secagg.rounds import Kind, Phase
from secagg.sizing import Requirements, neighbourhood
from secagg.transcripts import Transcript, VerificationError, verify_transcript

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


# K3: published graph sizes (40 bits of security, 20 of correctness).

PUBLISHED = [
    (100, 0.45, 0.45, "semi-honest", 92, 46),
    (1000, 0.45, 0.45, "semi-honest", 822, 417),
    (10, 0.33, 0.33, "semi-honest", 8, 4),
    (100, 0.33, 0.33, "semi-honest", 68, 34),
    (1000, 0.33, 0.33, "semi-honest", 286, 150),
    (10_000, 0.33, 0.33, "semi-honest", 422, 221),
    (100, 0.3, 0.3, "active", 92, 62),
    (1000, 0.3, 0.3, "active", 872, 584),
    (100, 0.05, 0.33, "semi-honest", 28, 6),
    (1000, 0.05, 0.33, "semi-honest", 72, 24),
    (10_000, 0.05, 0.33, "semi-honest", 86, 29),
    (1000, 0.05, 0.33, "active", 398, 223),
    (10_000, 0.05, 0.33, "active", 746, 420),
    (1000, 0.33, 0.05, "active", 132, 109),
    (100, 0.05, 0.05, "semi-honest", 12, 6),
    (1000, 0.05, 0.05, "semi-honest", 30, 17),
    (10_000, 0.05, 0.05, "semi-honest", 34, 20),
    (10_000, 0.05, 0.05, "active", 62, 44),
    (100_000, 0.05, 0.05, "semi-honest", 36, 21),
    (100_000, 0.05, 0.05, "active", 68, 48),
]


@pytest.mark.parametrize(("n", "corrupt", "dropout", "adversary", "k", "t"), PUBLISHED)
def test_k3_published_graph_sizes(n, corrupt, dropout, adversary, k, t):
    needs = Requirements(
        corrupt=corrupt, dropout=dropout, adversary=adversary, population="clients"
    )
    found = neighbourhood(n, needs)
    assert (found.neighbours, found.lowest) == (k, t)


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout", "adversary", "cell"),
    [
        (100, 0.05, 0.05, "semi-honest", (12, 6, 7)),
        (1000, 0.05, 0.05, "active", (52, 37, 37)),
        (1000, 0.1, 0.1, "semi-honest", (48, 27, 28)),
        (1000, 0.2, 0.1, "active", (140, 104, 104)),
        (10_000, 0.33, 0.1, "semi-honest", (126, 88, 88)),
        (100, 0.05, 0.33, "active", (72, 39, 39)),
    ],
)
def test_k3_exact_population(n, corrupt, dropout, adversary, cell):
    found = neighbourhood(n, Requirements(corrupt=corrupt, dropout=dropout, adversary=adversary))
    assert (found.neighbours, found.lowest, found.highest) == cell


@pytest.mark.parametrize(
    ("corrupt", "dropout", "adversary"),
    [(0.5, 0.5, "semi-honest"), (0.33, 0.34, "active"), (0.5, 0.3, "active")],
)
def test_k3_infeasible_requirements_are_refused(corrupt, dropout, adversary):
    with pytest.raises(ParameterError, match='Use graph="complete"'):
        neighbourhood(200, Requirements(corrupt=corrupt, dropout=dropout, adversary=adversary))


# K4: Shamir.


@pytest.mark.parametrize(("threshold", "holders"), [(1, 3), (2, 4), (3, 5), (4, 6), (5, 5)])
def test_k4_every_subset_of_t_shares_gives_the_secret(threshold, holders):
    secrets = np.array([[0, 1, PRIME - 1, 2**30]])
    shares = shamir.split(
        secrets, threshold=threshold, holders=holders, stream=SecureStream(bytes(16))
    )
    for points in itertools.combinations(range(1, holders + 1), threshold):
        rows = shares[:, [p - 1 for p in points]]
        found, agree = shamir.combine(points, rows, threshold)
        assert (found == secrets).all()
        assert agree.all()


@pytest.mark.parametrize("secret", [0, PRIME - 1])
def test_k4_t_less_one_shares_are_uniform(secret):
    """Chi-square of both shares that two colluders hold, over 64 cells; false alarm 1e-6."""
    draws = 40_000
    secrets = np.full((draws, 1), secret)
    shares = shamir.split(secrets, threshold=3, holders=3, stream=SecureStream(b"0123456789abcdef"))
    cells = (shares[:, :2, 0] * 8 // PRIME) @ np.array([8, 1])
    assert stats.chisquare(np.bincount(cells, minlength=64)).pvalue > 1e-6


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_k4_matrix_products_are_exact(data):
    edge = st.sampled_from([0, 1, 2, 0xFFFF, 0x10000, PRIME - 1, PRIME - 2])
    element = st.one_of(edge, st.integers(0, PRIME - 1))
    rows, inner, columns = (data.draw(st.integers(1, 4)) for _ in range(3))
    left = data.draw(st.lists(element, min_size=rows * inner, max_size=rows * inner))
    right = data.draw(st.lists(element, min_size=inner * columns, max_size=inner * columns))
    a, b = np.array(left).reshape(rows, inner), np.array(right).reshape(inner, columns)
    exact = a.astype(object) @ b.astype(object) % PRIME
    assert (field.matmul(a, b) == exact).all()


def test_k4_matrix_products_are_exact_at_the_greatest_inner_dimension():
    inner = 1 << 16
    a = np.full((1, inner), PRIME - 1)
    assert field.matmul(a, a.T)[0, 0] == inner % PRIME


@pytest.mark.parametrize("size", [1, 15, 16, 32])
def test_k4_bytes_survive_the_field(size):
    raw = SecureStream(bytes(16)).uint32((9, size)).astype(np.uint8)
    raw[0], raw[1] = 0, 255
    assert field.to_bytes(field.from_bytes(raw), size) == [row.tobytes() for row in raw]
    too_big = np.full((1, field.elements(size)), PRIME - 1)
    assert field.to_bytes(too_big, size) == [None]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 6), st.data())
def test_k4_wrong_shares_are_repaired_up_to_half_the_surplus(threshold, surplus, data):
    holders = threshold + surplus
    secret = np.array([5, 6, 7])
    shares = shamir.split(
        secret[None], threshold=threshold, holders=holders, stream=SecureStream(bytes(16))
    )[0]
    wrong = data.draw(st.sets(st.integers(1, holders), max_size=surplus // 2))
    for point in wrong:
        shares[point - 1] = data.draw(
            st.lists(st.integers(0, PRIME - 1), min_size=3, max_size=3).map(np.array)
        )
    wrong = set(wrong)
    found = shamir.recover(
        dict(enumerate(shares, 1)), threshold, lambda s: bool((s == secret).all())
    )
    assert (found.secret == secret).all()
    assert set(found.wrong) <= wrong


def test_k4_many_wrong_shares_of_a_large_sharing_are_repaired():
    secret = np.array([5, 6, 7])
    shares = shamir.split(secret[None], threshold=51, holders=100, stream=SecureStream())[0]
    wrong = tuple(range(1, 49, 2))
    for point in wrong:
        shares[point - 1] = (shares[point - 1] + point) % PRIME
    found = shamir.recover(dict(enumerate(shares, 1)), 51, lambda s: bool((s == secret).all()))
    assert found.wrong == wrong


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


# K6: random operations against a model with unique inputs.


def play(seed: int) -> int:
    """One random round; gives the number of operations. Input i is 4**i, so every subset of
    inputs, and every input counted twice, has a sum of its own."""
    rng = random.Random(seed)
    clients = rng.randint(3, 12)
    adversary = rng.choice(["semi-honest", "active"])
    parameters = Parameters(clients=clients, length=2, modulus_bits=64, adversary=adversary)
    x = np.array([[4**i, 3 * 4**i] for i in range(clients)], np.uint64)
    faults = []
    phases = ["advertise", "share", "mask", "confirm", "unmask"]
    for _ in range(rng.randint(0, clients)):
        client, phase = rng.randrange(clients), rng.choice(phases)
        flip = functools.partial(_flip, at=rng.random())
        # In the semi-honest model a lying server gets noise where keys do not match: no lies there.
        lies = [Lie(client, phase, flip), Lie(client, phase, lambda data: None)]
        faults.append(
            rng.choice(
                [
                    *(lies if parameters.active else ()),
                    Drop(client, phase),
                    Drop(client, phase),
                    Delay(client, phase),
                    Duplicate(client, phase),
                    Tamper(client, rng.choice(["advertise", "share", "confirm", "unmask"]), flip),
                    Crash(phase),
                    Reorder(seed),
                ]
            )
        )
    try:
        outcome = simulate(x, parameters, faults=faults, engine="individuals")
    except Aborted:
        return len(phases) * clients
    members = list(outcome.survivors)
    expected = [sum(4**i for i in members), 3 * sum(4**i for i in members)]
    assert outcome.sum.tolist() == expected, (seed, faults)
    return len(phases) * clients


def _flip(data: bytes, at: float) -> bytes:
    position = int(at * len(data))
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


@pytest.mark.parametrize("block", range(4))
def test_k6_no_wrong_sum_in_random_rounds(block):
    assert sum(play(seed) for seed in range(block * 30, block * 30 + 30)) > 500


@pytest.mark.slow
def test_k6_no_wrong_sum_in_a_hundred_thousand_operations():
    done, seed = 0, 10_000
    while done < 100_000:
        done += play(seed)
        seed += 1


# K7: byte-level fuzzing of every decoder.

FUZZED = [
    Parameters(clients=5, length=3, modulus_bits=20),
    Parameters(clients=5, length=3, adversary="active"),
]
relaxed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@pytest.mark.parametrize("kind", list(Kind))
@relaxed
@given(body=st.binary(max_size=600))
def test_k7_random_bodies_give_a_message_or_a_typed_error(kind, body):
    for parameters in FUZZED:
        codec = Codec(parameters)
        data = HEADER.pack(1, kind, bytes(8), 0) + body
        try:
            party, message = codec.decode(data, bytes(8))
        except MalformedMessage:
            continue
        assert codec.encode(message, bytes(8), party) == data  # one encoding per message


@pytest.mark.parametrize("parameters", FUZZED, ids=["semi-honest", "active"])
def test_k7_every_mutation_of_real_messages_is_handled(parameters, vectors_of, entropy):
    x = vectors_of(parameters)
    records = simulate(x, parameters, entropy=entropy(), record="messages").transcript.records
    codec, rng = Codec(parameters), random.Random(0)
    for record in records:
        for _ in range(30):
            data = bytearray(record.data)
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            cut = bytes(data[: rng.randint(0, len(data))]) if rng.random() < 0.3 else bytes(data)
            with contextlib.suppress(MalformedMessage):
                codec.decode(cut, record.data[2:10])


@pytest.mark.parametrize("phase", [Phase.ADVERTISE, Phase.SHARE, Phase.MASK, Phase.UNMASK])
def test_k7_a_server_survives_any_bytes(phase, new_round):
    r = new_round(FUZZED[1]).advance(phase)
    rng = random.Random(1)
    for _ in range(200):
        data = bytearray(rng.choice(list(r.sent.values())))
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            r.server.receive(bytes(data))
        except RemoteProtocolError:
            continue
    assert len(r.server.refused) > 20


@pytest.mark.parametrize("data", [b"", b"\x01", None, "text", bytearray(20), bytes(10**6)])
def test_k7_things_that_are_no_messages(data, new_round):
    r = new_round(FUZZED[0])
    for party in (r.server, r.clients[0]):
        with pytest.raises(RemoteProtocolError):
            party.receive(data)


def test_k7_great_counts_are_refused_before_anything_is_allocated():
    codec = Codec(Parameters(clients=1 << 20, length=1))
    data = HEADER.pack(1, Kind.SHARES, bytes(8), 0) + b"\xff\xff\x0f\x00"
    with pytest.raises(MalformedMessage, match="more bytes"):
        codec.decode(data, bytes(8))


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(list(Kind)), body=st.binary(max_size=900))
def test_k7_random_bodies_at_length(kind, body):
    for parameters in FUZZED:
        with contextlib.suppress(MalformedMessage):
            Codec(parameters).decode(HEADER.pack(1, kind, bytes(8), 0) + body, bytes(8))


# K8: bytes.


@pytest.mark.parametrize("n", [3, 10, 33])
@pytest.mark.parametrize("d", [0, 1, 1000])
@pytest.mark.parametrize("bits", [20, 32, 64])
def test_k8_counted_bytes_are_serialised_bytes(n, d, bits, vectors_of):
    parameters = Parameters(clients=n, length=d, modulus_bits=bits)
    outcome = simulate(vectors_of(parameters), parameters, record="messages")
    for direction, counts in (("up", outcome.bytes.up), ("down", outcome.bytes.down)):
        for client in range(n):
            sizes = [
                len(r.data)
                for r in outcome.transcript.records
                if (r.direction, r.client) == (direction, client)
            ]
            assert counts[client] == sum(sizes)
    assert outcome.bytes.total_up == sum(outcome.bytes.up)
    assert outcome.bytes.total_down == sum(outcome.bytes.down)


@pytest.mark.parametrize("adversary", ["semi-honest", "active"])
@pytest.mark.parametrize("d", [1000, 50_000])
def test_k8_upload_stays_within_the_budget(adversary, d, vectors_of):
    parameters = Parameters(clients=20, length=d, adversary=adversary)
    up = simulate(vectors_of(parameters), parameters, faults=[Drop(3, "mask")]).bytes.up
    assert max(up) <= 1.02 * 4 * d + 110 * 19 + 300


def test_k8_size_bounds_hold_for_the_greatest_messages(vectors_of):
    for parameters in FUZZED:
        codec = Codec(parameters)
        outcome = simulate(vectors_of(parameters), parameters, record="messages")
        for record in outcome.transcript.records:
            assert record.size <= codec.size_bound(Kind(record.data[1]))
    assert (SEED_SHARE_BYTES, KEY_SHARE_BYTES, SEALED_BYTES) == (20, 36, 72)


# K9: transcripts.


@pytest.fixture(params=["semi-honest", "active"])
def transcript(request, vectors_of):
    parameters = Parameters(clients=5, length=3, adversary=request.param)
    faults = [Drop(4, "mask"), Duplicate(1, "share")]
    return simulate(vectors_of(parameters), parameters, faults=faults, record="messages").transcript


def test_k9_an_honest_transcript_is_accepted_also_after_json(transcript):
    verify_transcript(transcript)
    again = Transcript.from_json(transcript.to_json())
    assert again == transcript
    verify_transcript(again)


def test_k9_every_changed_message_is_rejected_even_if_sealed_again(transcript):
    for number, record in enumerate(transcript.records):
        data = bytearray(record.data)
        data[-1] ^= 1
        digest = hashlib.sha256(bytes(data)).hexdigest()
        for fake in (
            record._replace(data=bytes(data)),
            record._replace(data=bytes(data), digest=digest, accepted=True),
        ):
            records = (*transcript.records[:number], fake, *transcript.records[number + 1 :])
            with pytest.raises(VerificationError):
                verify_transcript(dataclasses.replace(transcript, records=records))
            with pytest.raises(VerificationError):
                verify_transcript(dataclasses.replace(transcript, records=records).sealed())


def test_k9_every_missing_message_is_noticed(transcript):
    for number, record in enumerate(transcript.records):
        records = transcript.records[:number] + transcript.records[number + 1 :]
        less = dataclasses.replace(transcript, records=records)
        with pytest.raises(VerificationError, match="matches its seal"):
            verify_transcript(less)
        silent = record.phase == "unmask" and record.direction == "up"
        if record.accepted and not silent:
            with pytest.raises(VerificationError):
                verify_transcript(less.sealed())


@pytest.mark.parametrize(
    "change",
    [
        {"context": b"other"},
        {"survivors": (0, 1, 2)},
        {"sum": bytes(12)},
        {"records": ()},
        {"fidelity": "ideal"},
        {"parameters": Parameters(clients=5, length=3, min_cohort=4)},
    ],
)
def test_k9_every_changed_field_is_rejected(transcript, change):
    for changed in (
        dataclasses.replace(transcript, **change),
        dataclasses.replace(transcript, **change).sealed(),
    ):
        with pytest.raises(SecAggError):
            verify_transcript(changed)


@pytest.mark.parametrize("change", [{"entropy": "supplied"}, {"culprits": (2,)}, {"seal": ""}])
def test_k9_what_cannot_be_replayed_is_sealed(transcript, change):
    with pytest.raises(VerificationError, match="matches its seal"):
        verify_transcript(dataclasses.replace(transcript, **change))


@pytest.mark.parametrize("name", ["client", "phase", "size", "digest", "accepted", "direction"])
def test_k9_every_changed_record_field_is_rejected(transcript, name):
    values = {
        "client": 3,
        "phase": "unmask",
        "size": 1,
        "digest": "00",
        "accepted": False,
        "direction": "down",
    }
    records = (transcript.records[0]._replace(**{name: values[name]}), *transcript.records[1:])
    if name == "client":
        down = next(i for i, r in enumerate(transcript.records) if r.direction == "down")
        records = list(transcript.records)
        records[down] = records[down]._replace(client=3)
        records = tuple(records)
    with pytest.raises(SecAggError):
        verify_transcript(dataclasses.replace(transcript, records=records))


def test_k9_a_transcript_of_digests_cannot_be_replayed(vectors_of):
    parameters = Parameters(clients=3, length=3)
    with pytest.raises(VerificationError, match='record="messages"'):
        verify_transcript(simulate(vectors_of(parameters), parameters).transcript)


def test_k9_an_unknown_format_is_refused():
    with pytest.raises(VerificationError, match="format 1, got 2"):
        Transcript.from_json('{"format": 2}')


# K10: whatever array holds the numbers, the bits are the same.


def device_array(x):
    jax_numpy = pytest.importorskip("jax.numpy")
    return jax_numpy.asarray(x.astype(np.uint32))


ARRAYS = {
    "big endian": lambda x: x.astype(">u4"),
    "uint64": lambda x: x.astype(np.uint64),
    "int64": lambda x: x.astype(np.int64),
    "column order": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "nested lists": lambda x: x.astype(np.int64).tolist(),
    "device": device_array,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_k10_the_kind_of_array_does_not_matter(name, entropy):
    parameters = Parameters(clients=4, length=5)
    x = np.random.default_rng(3).integers(0, 2**32, (4, 5), dtype=np.uint32)
    plain = simulate(x, parameters, entropy=entropy())
    other = simulate(ARRAYS[name](x), parameters, entropy=entropy())
    assert other.transcript == plain.transcript
    assert (other.sum == plain.sum).all()


@pytest.mark.parametrize("engine", ["fleet", "individuals"])
def test_k10_inputs_are_never_written_to(engine, vectors_of):
    parameters = Parameters(clients=4, length=5)
    x = vectors_of(parameters).astype(np.uint32)
    x.flags.writeable = False
    before = x.copy()
    simulate(x, parameters, engine=engine)
    simulate(x, parameters, fidelity="ideal")
    assert (x == before).all()


def test_a_broadcast_party_is_no_client():
    server = Server(Parameters(clients=3, length=1))
    data = HEADER.pack(1, Kind.ADVERTISEMENT, bytes(8), BROADCAST)
    with pytest.raises(RemoteProtocolError, match="of a client in the round"):
        server.receive(data)
    assert server.waiting == {0, 1, 2}
