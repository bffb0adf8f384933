"""What does the graph save in a private round, and what can liars make the server of a round do?

    python benchmarks/bench_private_round.py [--size tiny|normal]

A private round is one `privacy.run` of protocol fidelity: clip, round to the grid, every message of
secure aggregation, noise, ledger. It is timed on the complete graph and on the ring, in one process,
after a first round that compiles. A round of liars is played honestly up to the shares that clients
disclose; then the server recovers the sum from honest shares, from those of one client that lies about
everybody, and of all clients that each lie about one owner or about as many as can be repaired.

Expected: the ring takes a tenth of the processor time of the complete graph or less at 500 clients,
and a thousand clients less than 5 seconds; no liars cost more than 3 times an honest round.
One JSON line per row; processor time, as other processes do not disturb it.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import audits
import privacy
import secfad as fad
from secagg import Parameters, Server
from secagg.crypto import field
from secagg.protocol.messages import Disclosure
from secagg.protocol.rounds import Phase
from secagg.simulation.fleet import Fleet

SIZES = {
    "tiny": {"compared": (120, 10), "largest": (130, 10), "liars": 24},
    "normal": {"compared": (500, 1000), "largest": (1000, 1000), "liars": 400},
}


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def mean_step(model, x):
    """One step of federated averaging."""
    return model + fad.mean(x - fad.broadcast(model, name="model"), name="delta")


def private_round(n, d, graphs):
    """Processor and wall seconds of one private round by graph."""
    spec = jax.ShapeDtypeStruct((d,), jnp.float32)
    mechanism = privacy.Gaussian(noise_multiplier=2.0, clip_norm=1.0)
    private = privacy.privatize(mean_step, spec, spec, mechanism=mechanism)
    certificate = audits.certify(private)
    everyone = privacy.FullParticipation(population=n)
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    slots = [privacy.Slot("training", 1.0, 1.99, 1 + len(graphs))]
    budget = privacy.Budget(90.0, 1e-5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        with privacy.Ledger.create(path, budget, population=n, slots=slots) as ledger:
            for number, graph in enumerate([graphs[-1], *graphs]):
                start = time.process_time(), time.perf_counter()
                privacy.run(
                    private,
                    [np.zeros(d, np.float32), x],
                    certificate=certificate,
                    ledger=ledger,
                    cohort=everyone.draw(),
                    run_id="bench",
                    round=number,
                    graph=graph,
                )
                if number:
                    yield graph, time.process_time() - start[0], time.perf_counter() - start[1]


def private_rounds(size):
    """Questions 1 and 2: the ring beside the complete graph, and the largest cohort."""
    n, d = size["compared"]
    taken = {graph: seconds for graph, seconds, _ in private_round(n, d, ["complete", "ring"])}
    yield {
        "question": "private round, complete graph over ring",
        "n": n,
        "d": d,
        "complete_seconds": taken["complete"],
        "seconds": taken["ring"],
        "ratio": round(taken["complete"] / taken["ring"], 2),
    }
    n, d = size["largest"]
    ((_, seconds, wall),) = private_round(n, d, ["auto"])
    row = {"question": "private round on the ring", "n": n, "d": d}
    yield row | {"seconds": seconds, "wall_seconds": wall}


class Disclosed:
    """An honest round of n clients, up to the disclosures that the server is waiting for."""

    def __init__(self, n):
        self.parameters = Parameters(clients=n, length=100)
        start = time.process_time()
        fleet, self.server = Fleet(self.parameters), Server(self.parameters)
        zeros = np.zeros((n, 100), np.uint32)
        self.sent = fleet.advertise()
        while self.server.phase is not Phase.UNMASK:
            for data in self.sent.values():
                self.server.receive(data)
            self.sent, _ = fleet.answer(self.server.close_phase(), zeros)
        self.seconds = time.process_time() - start
        self.saved = self.server.save()

    def recovery(self, lies):
        """Processor seconds of the last phase if client i lies about the owners `lies[i]`."""
        server = Server(self.parameters)
        server.restore(self.saved)
        told = {i: self._changed(i, data, lies.get(i, ())) for i, data in self.sent.items()}
        start = time.process_time()
        for data in told.values():
            server.receive(data)
        server.close_phase()
        taken = time.process_time() - start
        assert server.result.culprits == tuple(sorted(lies))
        assert not server.result.sum.any()
        return taken

    def _changed(self, index, data, owners):
        codec, tag = self.server._codec, data[2:10]
        shares = dict(codec.decode(data, tag).message.seeds)
        for owner in owners:
            wrong = (np.frombuffer(shares[owner], "<u4").astype(np.int64) + 7) % field.PRIME
            shares[owner] = wrong.astype("<u4").tobytes()
        return codec.encode(Disclosure(shares, {}), tag, index)


def liars(size):
    """Question 3: whole rounds with liars over an honest one."""
    n = size["liars"]
    played = Disclosed(n)
    honest = played.seconds + played.recovery({})
    several = (n - played.parameters.shares_needed) // 2
    kinds = {
        "one client lies about everybody": {3: range(n)},
        "every client lies about one owner": {i: [(i + 1) % n] for i in range(n)},
        "as many lie about every owner as can be repaired": {
            i: [(i + step) % n for step in range(several)] for i in range(n)
        },
    }
    for kind, lies in kinds.items():
        taken = played.seconds + played.recovery(lies)
        row = {"question": f"round, {kind}", "n": n, "seconds": taken, "limit": honest}
        yield row | {"ratio": round(taken / honest, 3)}


def main(command=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="normal")
    size = SIZES[parser.parse_args(command).size]
    facts = {"jax": jax.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
    for result in [*private_rounds(size), *liars(size)]:
        print(json.dumps({**result, **facts}), flush=True)


if __name__ == "__main__":
    main()
