"""Random rounds and random bytes never give a wrong sum: K6 and K7 of docs/secagg-spec.md."""

import contextlib
import functools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secagg import Drop, Parameters, Server, simulate
from secagg.errors import Aborted, MalformedMessage, RemoteProtocolError
from secagg.protocol.codec import BROADCAST, HEADER, Codec
from secagg.protocol.rounds import Kind, Phase
from secagg.simulation.faults import Crash, Delay, Duplicate, Lie, Reorder, Tamper

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


@pytest.mark.sample(quick=1)
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


def test_a_broadcast_party_is_no_client():
    server = Server(Parameters(clients=3, length=1))
    data = HEADER.pack(1, Kind.ADVERTISEMENT, bytes(8), BROADCAST)
    with pytest.raises(RemoteProtocolError, match="of a client in the round"):
        server.receive(data)
    assert server.waiting == {0, 1, 2}
