"""Byte counts, transcripts, and the arrays that are taken: K8 to K10 of docs/secagg-spec.md."""

import dataclasses
import hashlib

import numpy as np
import pytest

from secagg import Drop, Parameters, simulate
from secagg.errors import SecAggError
from secagg.protocol.codec import KEY_SHARE_BYTES, SEALED_BYTES, SEED_SHARE_BYTES, Codec
from secagg.protocol.rounds import Kind
from secagg.simulation.faults import Duplicate
from secagg.simulation.transcripts import Transcript, VerificationError, verify_transcript

# K8: bytes.


@pytest.mark.sample(quick=8)
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
    for parameters in (
        Parameters(clients=5, length=3, modulus_bits=20),
        Parameters(clients=5, length=3, adversary="active"),
    ):
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
