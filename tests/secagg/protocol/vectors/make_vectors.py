"""Makes the wire vectors of version 1: one good message of every kind, and bad ones.

    python tests/secagg/protocol/vectors/make_vectors.py > tests/secagg/protocol/vectors/wire_v1.json

The file is checked by test_vectors.py, which does not use the codec to read the good messages.
A change of any good message needs a new protocol version.
"""

import hashlib
import json

import numpy as np

from secagg import Drop, Parameters, simulate
from secagg.crypto.primitives import SigningKey
from secagg.protocol.rounds import Kind

CASES = {
    "complete": {"clients": 5, "length": 3, "modulus_bits": 20},
    "active": {"clients": 4, "length": 2, "adversary": "active"},
    "wide": {"clients": 3, "length": 2, "modulus_bits": 64},
}


def entropy_of(name):
    """Bytes for client 0, 1, ... in order, from the name of the case."""
    calls = iter(range(1 << 20))
    return lambda count: hashlib.shake_256(f"{name} {next(calls)}".encode()).digest(count)


def run(name, arguments):
    """One deterministic round with a drop-out, every message kept."""
    parameters = Parameters(**arguments)
    shape = (parameters.clients, parameters.length)
    x = np.arange(1, 1 + shape[0] * shape[1], dtype=np.uint64).reshape(shape)
    identities = [SigningKey(bytes([i + 1]) * 32) for i in range(parameters.clients)]
    outcome = simulate(
        x,
        parameters,
        faults=[Drop(1, "mask")] if name == "complete" else [],
        entropy=entropy_of(name),
        context=b"vectors",
        identities=identities if parameters.active else None,
        record="messages",
    )
    records = outcome.transcript.records
    good = [
        {
            "kind": Kind(r.data[1]).name,
            "direction": r.direction,
            "client": r.client,
            "hex": r.data.hex(),
        }
        for r in records
    ]
    return {
        "name": name,
        "parameters": arguments,
        "context": b"vectors".hex(),
        "inputs": x.tolist(),
        "entropy": f"SHAKE256('{name} <client>'), 112 bytes",
        "messages": good,
        "survivors": list(outcome.survivors),
        "sum": [int(v) for v in outcome.sum],
        "bad": bad_messages(good),
    }


def bad_messages(good):
    """One rejected message per field, from the first good one of each kind."""
    first = {}
    for message in good:
        first.setdefault(message["kind"], bytes.fromhex(message["hex"]))
    bad = []

    def add(kind, field, data):
        bad.append({"kind": kind, "field": field, "hex": data.hex()})

    for kind, data in first.items():
        add(kind, "version", b"\x02" + data[1:])
        add(kind, "kind", data[:1] + b"\x63" + data[2:])
        add(kind, "tag", data[:2] + bytes(8) + data[10:])
        add(kind, "truncated", data[:-1])
        add(kind, "extended", data + b"\x00")
    for kind in ("KEY_LIST", "SHARES", "DISCLOSURE"):
        data = first[kind]
        add(kind, "count too great", data[:14] + b"\xff\xff\xff\xff" + data[18:])
        add(kind, "index too great", data[:18] + b"\xff\xff\x00\x00" + data[22:])
    ad = first["ADVERTISEMENT"]
    add("ADVERTISEMENT", "channel key zero", ad[:14] + bytes(32) + ad[46:])
    add("ADVERTISEMENT", "mask key not canonical", ad[:77] + bytes([ad[77] | 0x80]) + ad[78:])
    disclosure = first["DISCLOSURE"]
    add("DISCLOSURE", "share above the prime", disclosure[:22] + b"\xff" * 4 + disclosure[26:])
    survivors = first["SURVIVORS"]
    add("SURVIVORS", "member too great", survivors[:-1] + bytes([survivors[-1] | 0x80]))
    return bad


if __name__ == "__main__":
    print(json.dumps({"version": 1, "cases": [run(*case) for case in CASES.items()]}, indent=1))
