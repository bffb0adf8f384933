"""Helpers shared by the tests of secagg, as fixtures."""

import hashlib

import numpy as np
import pytest

from secagg import Client, Parameters, Server
from secagg.crypto.primitives import SigningKey
from secagg.errors import RemoteProtocolError
from secagg.protocol.codec import BROADCAST
from secagg.protocol.roster import Roster
from secagg.protocol.rounds import ClientState, Phase


def counting_entropy(seed: int = 0):
    """Bytes that differ from call to call and repeat from run to run."""
    calls = 0

    def entropy(count: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(count)

    return entropy


def ring_vectors(parameters: Parameters, seed: int = 0) -> np.ndarray:
    """Random ring vectors, one row per client."""
    shape = (parameters.clients, parameters.length)
    drawn = np.random.default_rng(seed).integers(0, 2**64, shape, dtype=np.uint64)
    return drawn >> np.uint64(64 - parameters.modulus_bits)


def plain_sum(vectors: np.ndarray, members, modulus_bits: int) -> np.ndarray:
    """The oracle: exact Python integers."""
    rows = vectors[list(members)].astype(object)
    return np.array([int(v) % (1 << modulus_bits) for v in rows.sum(axis=0)], dtype=np.uint64)


class Round:
    """A round of separate clients, stepped by hand so that a test can meddle."""

    def __init__(self, parameters: Parameters, *, context=b"round", seed=0, **server):
        self.parameters = parameters
        self.identities = [SigningKey(bytes([i, 7]) * 16) for i in range(parameters.clients)]
        self.roster = (
            Roster(tuple(key.public for key in self.identities)) if parameters.active else None
        )
        self.vectors = ring_vectors(parameters)
        entropy = counting_entropy(seed)
        self.clients = [
            self.client(i, parameters, context=context, entropy=entropy)
            for i in range(parameters.clients)
        ]
        self.server = Server(parameters, context=context, roster=self.roster, **server)
        self.sent = {client.index: client.advertise() for client in self.clients}
        self._seed = seed

    def entropy_again(self, index: int):
        """The source of one client's secrets, once more: what a colluder knows of itself."""
        again = counting_entropy(self._seed)
        for _ in range(index):
            again(1)
        return again

    def client(self, index, parameters, **arguments) -> Client:
        identity = self.identities[index] if parameters.active else None
        return Client(index, parameters, identity=identity, roster=self.roster, **arguments)

    def deliver(self, without=()) -> None:
        """Brings the waiting messages to the server."""
        for index, data in self.sent.items():
            if index not in without:
                self.server.receive(data)

    def close(self) -> dict:
        """Ends the server's phase."""
        self.answers = self.server.close_phase()
        return self.answers

    def answer(self, without=()) -> dict:
        """Lets the clients answer the server's messages."""
        self.sent = {
            index: self.clients[index].receive(data, self.vectors[index])
            for index, data in self.answers.items()
            if index not in without
        }
        return self.sent

    def advance(self, to: Phase, drops=None) -> "Round":
        """Plays honestly until the clients have made their messages of a phase."""
        drops = drops or {}
        gone = set()
        while self.server.phase is not to:
            gone |= {i for i, phase in drops.items() if phase is self.server.phase}
            self.deliver(without=gone)
            self.close()
            gone |= {i for i, phase in drops.items() if phase is self.server.phase}
            self.answer(without=gone)
        return self

    def finish(self, drops=None):
        """Plays honestly to the end."""
        self.advance(Phase.UNMASK, drops)
        self.deliver()
        self.close()
        return self.server.result

    def refused(self, data: bytes) -> str:
        """The reason for which the server refuses a message."""
        before = (self.server.phase, self.server.waiting)
        with pytest.raises(RemoteProtocolError) as caught:
            self.server.receive(data)
        assert before == (self.server.phase, self.server.waiting)
        return str(caught.value)

    def exclude_and_finish(self, index) -> None:
        """A client whose message was refused counts as dropped, and the rest is exact."""
        del self.sent[index]
        result = self.finish({index: self.server.phase})
        assert index not in result.survivors
        expected = plain_sum(self.vectors, result.survivors, self.parameters.modulus_bits)
        assert (result.sum == expected).all()

    def read(self, data: bytes):
        """What a message says."""
        return self.server._codec.decode(data, data[2:10]).message

    def rewritten(self, index: int, change) -> bytes:
        """The client's waiting message, changed."""
        data = self.sent[index]
        return self.server._codec.encode(change(self.read(data)), data[2:10], index)

    def rewrite(self, index: int, change, party: int = BROADCAST) -> None:
        """Replaces the server's message to one client by a changed one."""
        data = self.answers[index]
        self.answers[index] = self.server._codec.encode(change(self.read(data)), data[2:10], party)

    def expect_abort(self, index: int, error, match: str) -> Exception:
        """The client aborts at the server's message, holds no secrets and answers nothing more."""
        client, data = self.clients[index], self.answers[index]
        with pytest.raises(error, match=match) as caught:
            client.receive(data, self.vectors[index])
        assert client.state is ClientState.ABORTED
        assert client._material is None
        assert client._shares == {}
        with pytest.raises(RemoteProtocolError):
            client.receive(data)
        return caught.value


@pytest.fixture
def entropy():
    return counting_entropy


@pytest.fixture
def vectors_of():
    return ring_vectors


@pytest.fixture
def oracle():
    return plain_sum


@pytest.fixture
def new_round():
    return Round
