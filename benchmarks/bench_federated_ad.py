"""How fast are derivatives of federated computations, against DrJAX and hand-written JAX?

Three implementations of the same mathematics: ours (`secfad.simulate`), DrJAX from PyPI, and JAX
written by hand over stacked clients (`mono`). They run in turns, in a new order every turn, so that a
busy machine is busy for all and nobody always follows the same neighbour (whoever follows an
implementation that has just filled the caches is slower). Compile time is processor time, run time is
wall time; ratios are medians of the ratios within a turn. Temporary memory is what XLA reports.
Results must agree before anything is timed.

Workloads: `logreg` (60 x 10, 100 clients) and `mlp` (784-128-10, 256 clients; `--small`: 64-32-10 and
16 clients). Modes: value of Fig. 4 of the paper; its reverse and forward derivative with respect to
the server's learning rate and momentum; `sgd`, the gradient, and `hvp`, a Hessian-vector product, of
the mean loss with respect to the model. Then questions of scale: `cohorts` (time per client from 100
to 10,000 clients in chunks, with the peak of resident memory of a process of its own), `round` (local
training of 10,000 clients), `chunks` (`sgd` and `hvp` by chunk size, against all clients at once) and
`staging` (tracing, placing and staging of programs of 2,500 to 10,000 equations, against
`jax.make_jaxpr`).

Expected: ratios near 1 to both on rounds of local training, where client work dominates; ahead of
DrJAX on `sgd` and `hvp`, where DrJAX forms every client's product; time per client flat, and in
chunks no more than at once; staging below twice `make_jaxpr` and linear.

Prints one JSON line per row. Run: `python benchmarks/bench_federated_ad.py [--small] [--only NAME]`.
"""

import argparse
import functools
import json
import logging
import platform
import statistics
import subprocess
from collections.abc import Callable
from typing import Any

import federated_scale as scale
import federated_workloads as work
import jax

SIZES = {
    "logreg": {"layers": (60, 10), "clients": 100, "examples": 64},
    "mlp": {"layers": (784, 128, 10), "clients": 256, "examples": 64},
}
SMALL = {
    "logreg": {"layers": (12, 4), "clients": 8, "examples": 8},
    "mlp": {"layers": (64, 32, 10), "clients": 16, "examples": 16},
}
MODES = ("value", "rev", "fwd", "sgd", "hvp")
TURNS_SECONDS = 20


def makers(clients: int) -> dict[str, Callable[[], dict[str, Callable]]]:
    """The three implementations; each call makes one that was never traced."""
    return {
        "mono": work.by_hand,
        "drjax": lambda: work.by_drjax(clients),
        "secfad": work.by_secfad,
    }


def compile_times(mode: str, args: tuple, clients: int, turns: int) -> dict[str, list[float]]:
    """Processor seconds to trace, lower and compile, with nothing remembered from before."""

    def compiling(make: Callable) -> Callable:
        return lambda: jax.jit(make()[mode]).lower(*args).compile()

    runs = {name: compiling(make) for name, make in makers(clients).items()}
    return scale.in_turns(runs, turns, scale.processor_seconds)


def measure(mode: str, sizes: dict[str, Any], repetitions: int, compilations: int) -> dict:
    """One row: all three implementations of a mode, in turns."""
    args = work.arguments(mode, **sizes)
    runs, row = {}, {}
    for name, make in makers(sizes["clients"]).items():
        run = jax.jit(make()[mode]).lower(*args).compile()
        memory = run.memory_analysis().temp_size_in_bytes / 2**20
        runs[name], row[name] = functools.partial(run, *args), {"temp_mib": round(memory, 2)}
    results = {name: jax.block_until_ready(run()) for name, run in runs.items()}
    for name in ("drjax", "secfad"):
        scale.require_equal(results[name], results["mono"])
    del results
    turn = sum(scale.seconds_of(run) for run in runs.values())
    count = repetitions or max(5, min(60, int(TURNS_SECONDS / turn)))
    times = {
        "run": scale.in_turns(runs, count, scale.seconds_of),
        "compile": compile_times(mode, args, sizes["clients"], compilations),
    }
    for name in runs:
        row[name]["run_ms"] = round(1e3 * statistics.median(times["run"][name]), 3)
        row[name]["compile_s"] = round(statistics.median(times["compile"][name]), 3)
    for what, against in (("run", "drjax"), ("run", "mono"), ("compile", "drjax")):
        row[f"{what}_vs_{against}"] = ratio(times[what], "secfad", against)
    return {"turns": count, **row}


def ratio(times: dict[str, list[float]], name: str, against: str) -> float:
    return round(statistics.median(a / b for a, b in zip(times[name], times[against])), 3)


@functools.cache
def environment() -> dict[str, str]:
    """What a figure depends on besides the code."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "commit": done.stdout.strip(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }


def scale_rows(small: bool) -> dict[str, Callable[[], dict]]:
    """The questions of scale, by name."""
    mlp = (SMALL if small else SIZES)["mlp"]
    model = {"layers": mlp["layers"], "examples": mlp["examples"]}
    counts = (20, 50) if small else (100, 1000, 10_000)
    chunk, turns = (10, 1) if small else (50, 3)
    return {
        "cohorts": lambda: scale.in_own_process(
            "cohorts", **model, chunk=chunk, sizes=counts, turns=turns
        ),
        "round": lambda: scale.in_own_process("round", **model, chunk=chunk, clients=counts[-1]),
        "chunks": lambda: {
            "sweep": scale.chunks(
                **model,
                clients=counts[-2],
                sizes=(6,) if small else (10, 50, 200, 1000),
                turns=turns,
            )
        },
        "staging": lambda: {
            "sweep": scale.staging((4, 8) if small else (53, 107, 213), 1 if small else 5)
        },
    }


def main(argv: list[str] | None = None) -> list[dict]:
    """Runs the benchmark; returns the rows that it prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--only", default="", help="a workload, workload/mode or question of scale")
    parser.add_argument("--repetitions", type=int, default=0, help="0: as many as fit in a while")
    options = parser.parse_args(argv)
    # DrJAX logs a line per operation that there is no mesh.
    logging.getLogger("absl").setLevel(logging.ERROR)
    table, rows = (SMALL if options.small else SIZES), []

    def emit(name: str, made: dict) -> None:
        rows.append({"row": name, **made, **environment()})
        print(json.dumps(rows[-1]), flush=True)

    for workload, sizes in table.items():
        for mode in MODES:
            if options.only in f"{workload}/{mode}":
                turns = 1 if options.small else 7
                emit(f"{workload}/{mode}", measure(mode, sizes, options.repetitions, turns))
    for name, made in scale_rows(options.small).items():
        if options.only in name:
            emit(name, made())
    return rows


if __name__ == "__main__":
    main()
