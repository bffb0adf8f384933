"""How far is SecAgg from the speed of the cipher, and what does a whole round cost?

    python benchmarks/bench_secagg.py [--size tiny|normal|full] [--flower]

Every product is timed next to its own limit, in the same process and minutes, so the ratios carry
to other machines. The limit of a masked stage is one AES-128-CTR keystream and one addition per
mask and coordinate, plus the encoding and one key agreement per neighbour; of a share stage one
key agreement and one signature check per neighbour, and 0.1 ms. Expected: kernel at most 1.2
times its limit, client masked stage, server unmasking and share stage at most 1.5 times theirs.
One JSON line per question, processor time, minimum of the repeats.

`--flower` also runs whole SecAgg+ rounds of Flower (package flwr, not a dependency) with its own
client and server code on the same vector, clients, neighbours, threshold and share of drop-outs,
in this process; see `flower_round`. Ours are then a client's whole answers (with encoding, and with
the signatures that Flower does not have) and all that the server does from the first disclosure
to the decoded sum. The least call counts on both sides. Expected: masked stage at least 5 times,
unmasking at least 20 times faster than Flower's.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import time

import numpy as np

from secagg import Client, Drop, Encoding, Parameters, SecureStream, Server, simulate
from secagg.crypto import masks
from secagg.crypto.primitives import AgreementKey, SigningKey, keystream, verify
from secagg.protocol.keys import channel_key
from secagg.protocol.roster import Roster
from secagg.protocol.rounds import Phase

BLOCK = 1 << 19
SIZES = {
    "tiny": {"d": 5_000, "k": 8, "n": 30, "repeats": 1, "flower_repeats": 1, "rounds": [(20, 500)]},
    "normal": {
        "d": 1_000_000,
        "k": 12,
        "n": 100,
        "repeats": 5,
        "flower_repeats": 3,
        "rounds": [(64, 1000), (100, 1000)],
    },
    "full": {
        "d": 1_000_000,
        "k": 12,
        "n": 100,
        "repeats": 5,
        "flower_repeats": 3,
        "rounds": [(64, 1000), (100, 1000), (1000, 100_000), (10_000, 10_000)],
    },
}


def vector(d):
    """What every client sends: float32, as a model's parameters are."""
    return np.random.default_rng(0).uniform(-1, 1, d).astype(np.float32)


def best(repeats, function):
    """Least processor time of several calls, in seconds: other processes do not disturb it."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def mask_limit(count, d):
    """Seconds for `count` keystreams added to one vector, block by block, nothing else."""
    total, raw, zeros = np.zeros(d, np.uint32), np.empty(BLOCK, np.uint8), bytes(BLOCK)
    streams = [keystream(hashlib.sha256(bytes([i % 256])).digest()[:16]) for i in range(count)]
    view = memoryview(zeros)
    step = BLOCK // 4
    start_time = time.process_time()
    for start in range(0, d, step):
        part = total[start : start + step]
        words = raw[: part.nbytes].view(np.uint32)
        for stream in streams:
            stream.update_into(view[: part.nbytes], raw[: part.nbytes])
            part += words
    return time.process_time() - start_time


def exchange_seconds():
    """Seconds of one key agreement (X25519 and HKDF), one key generation, one signature check."""
    context = bytes(32)
    own, peer = AgreementKey(os.urandom(32)), AgreementKey(os.urandom(32)).public
    signer = SigningKey(os.urandom(32))
    signature = signer.sign(b"text")
    many = 200
    return tuple(
        best(3, lambda f=f: [f() for _ in range(many)]) / many
        for f in (
            lambda: channel_key(own.agree(peer), context, 0, 1),
            lambda: AgreementKey(bytes(32)),
            lambda: verify(signer.public, signature, b"text"),
        )
    )


def kernel(size):
    """Question 1: the mask kernel."""
    d, k, repeats = size["d"], max(size["k"], 8), size["repeats"]
    keys = [(hashlib.sha256(bytes([i])).digest()[:16], 1) for i in range(k)]
    total = np.zeros(d, np.uint32)
    limit = min(mask_limit(k, d) for _ in range(repeats))
    taken = best(repeats, lambda: masks.accumulate(total, keys))
    return {"question": "mask kernel", "d": d, "k": k, "seconds": taken, "limit": limit}


class Ring:
    """One active round on a ring, stopped wherever a stage is to be timed."""

    def __init__(self, size):
        self.parameters = Parameters(
            clients=size["n"], length=size["d"], graph="ring", neighbours=size["k"],
            adversary="active", corrupt=0.0, dropout=0.1, security_bits=5, correctness_bits=2,
        )  # fmt: skip
        identities = [SigningKey(os.urandom(32)) for _ in range(size["n"])]
        self.roster = Roster(tuple(key.public for key in identities))
        self.clients = [
            Client(i, self.parameters, identity=identities[i], roster=self.roster)
            for i in range(size["n"])
        ]
        self.server = Server(self.parameters, roster=self.roster)
        self.sent = {c.index: c.advertise() for c in self.clients}

    def step(self, vectors=None, drops=()):
        """One phase; gives the least time of a client's answer."""
        for index, data in self.sent.items():
            if index not in drops:
                self.server.receive(data)
        answers = self.server.close_phase()
        self.sent, times = {}, []
        for index, data in answers.items():
            start = time.process_time()
            self.sent[index] = self.clients[index].receive(data, vectors)
            times.append(time.process_time() - start)
        return min(times)


def stages(size):
    """Questions 2 to 5: share stage, masked stage, unmasking, upload."""
    d, k, n = size["d"], size["k"], size["n"]
    exchange, generate, check = exchange_seconds()
    encoding = Encoding(clip=1.0, scale=2.0**16, clients=n)
    x, stream = vector(d), SecureStream()
    encode = best(size["repeats"], lambda: encoding.encode(x, stream))
    shares, masked, unmask, unmask_limits, upload = [], [], [], [], 0
    for _ in range(size["repeats"]):
        ring = Ring(size)
        shares.append(ring.step())
        masked.append(encode + ring.step(vectors=encoding.encode(x, stream)))
        upload = len(ring.sent[0])
        graph = ring.server._graph
        drops = set(graph.ring[::10])  # evenly spaced, so no neighbourhood runs dry
        ring.step(drops=drops)
        ring.step()
        expanded = sum(v not in drops for u in drops for v in graph.neighbours(u))
        start = time.process_time()
        for data in ring.sent.values():
            ring.server.receive(data)
        ring.server.close_phase()
        encoding.decode(ring.server.result.sum)
        unmask.append(time.process_time() - start)
        assert ring.server.phase is Phase.FINISHED
        limit = mask_limit(n - len(drops) + expanded, d) + expanded * exchange
        unmask_limits.append(limit)
    share_limit = k * (exchange + check) + 1e-4
    masked_limit = min(mask_limit(k + 1, d) for _ in range(size["repeats"])) + encode + k * exchange
    return [
        {"question": "share stage", "k": k, "seconds": min(shares), "limit": share_limit},
        {"question": "masked stage", "d": d, "k": k, "seconds": min(masked), "limit": masked_limit},
        {
            "question": "server unmask, 10 % dropped",
            "d": d,
            "k": k,
            "n": n,
            "seconds": min(unmask),
            "limit": min(unmask_limits),
        },
        {"question": "masked upload in bytes", "d": d, "bytes": upload, "limit": 4 * d},
        {"question": "encode, ns per coordinate", "d": d, "ns": encode / d * 1e9},
        {"question": "key generation in us", "us": generate * 1e6},
    ]


def rounds(size):
    """Question 6: whole simulated rounds with 5 % drop-outs."""
    for n, d in size["rounds"]:
        graph = "ring" if n >= 1000 else "complete"
        parameters = Parameters(clients=n, length=d, graph=graph)
        x = np.random.default_rng(0).integers(0, 2**32, (n, d), dtype=np.uint32)
        drops = [Drop(i, "mask") for i in range(0, n, 20)]
        start, processor = time.perf_counter(), time.process_time()
        outcome = simulate(x, parameters, faults=drops)
        taken = time.perf_counter() - start
        assert (outcome.sum == x[list(outcome.survivors)].sum(axis=0, dtype=np.uint32)).all()
        yield {
            "question": "simulated round, 5 % dropped",
            "n": n,
            "d": d,
            "graph": graph,
            "k": parameters.neighbours or n - 1,
            "seconds": taken,
            "processor_seconds": time.process_time() - processor,
            "max_up": max(outcome.bytes.up),
            "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        }


def ideal(size):
    """Question 7: ideal fidelity against the plain float32 sum, and what no way of masking avoids.

    The floor is one keystream per client, and one pass over the vectors, which the plain sum is.
    """
    d, n = size["d"], size["n"]
    x = np.random.default_rng(0).integers(0, 2**32, (n, d), dtype=np.uint32)
    reals = x.astype(np.float32)
    stream, block = SecureStream(), np.empty(BLOCK, np.uint8)
    parameters = Parameters(clients=n, length=d)
    ways = {
        "plain": lambda: reals.sum(axis=0),
        "keystream": lambda: [stream.fill(block) for _ in range(4 * (n - 1) * d // BLOCK)],
        "ideal": lambda: simulate(x, parameters, fidelity="ideal"),
    }
    wall, processor = {}, {}
    for name, way in ways.items():
        times = []
        for _ in range(2 * size["repeats"]):
            start = time.perf_counter(), time.process_time()
            way()
            times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        wall[name], processor[name] = (min(column) for column in zip(*times))
    return {
        "question": "ideal fidelity",
        "d": d,
        "n": n,
        "seconds": processor["ideal"],
        "limit": processor["plain"],
        "floor_ratio": round(1 + processor["keystream"] / processor["plain"], 3),
        "wall_seconds": wall["ideal"],
        "wall_ratio": round(wall["ideal"] / wall["plain"], 3),
    }


def flower(size, ours):
    """Question 8: the same stages by Flower's own client and server code, where installed."""
    from flower_round import round_seconds

    d, k, n = size["d"], size["k"], size["n"]
    measured = [
        round_seconds(
            vector(d), clients=n, neighbours=k, threshold=k // 2 + 1, dropped=len(range(0, n, 10))
        )
        for _ in range(size["flower_repeats"])
    ]
    for name in measured[0]:
        seconds = min(stages[name] for stages in measured)
        yield {
            "question": f"{name}, Flower",
            "d": d,
            "k": k,
            "n": n,
            "seconds": seconds,
            "times_ours": round(seconds / ours[name], 1),
        }


def commit():
    """The commit that was measured, if there is a repository."""
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def main(command=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="normal")
    parser.add_argument("--flower", action="store_true")
    arguments = parser.parse_args(command)
    size = SIZES[arguments.size]
    facts = {"commit": commit(), "numpy": np.__version__, "machine": platform.machine()}
    results = [kernel(size), *stages(size), *rounds(size), ideal(size)]
    if arguments.flower:
        results += flower(size, {r["question"]: r.get("seconds") for r in results})
    for result in results:
        if "limit" in result:
            result["ratio"] = round(
                result.get("seconds", result.get("bytes", 0)) / result["limit"], 3
            )
        print(json.dumps({**result, **facts}))


if __name__ == "__main__":
    main()
