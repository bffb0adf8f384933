"""What do derivatives of a federated transformer cost, and does it matter how messages are grouped?

Clients train a transformer of 12 layers (width 64, 4 heads, about 600,000 numbers) for one step; the
derivative is by three scalars. The model and a rate travel in one broadcast or in two, layers are a
`scan` or written out. Three questions:

- `trace`: processor seconds to trace the mixed hypergradient, against tracing the round itself and the
  forward gradient, and the numbers that it releases. Expected: below three times the forward trace; the
  same numbers from one broadcast as from two.
- `memory`: peak resident memory of a process that traces and compiles it. Expected: below 1 GB.
- `run`: processor seconds of forward, reverse and mixed mode against `jax.jacfwd` and `jax.grad` of
  hand-written JAX, minima of runs that take turns. Expected: forward at most 1.15 times `jax.jacfwd`.
- `totals`: processor seconds of XLA's sum over 100 clients against ours, by entries of a client. Expected:
  about 1 for small messages, where both are the same, and far more from 2^15 entries on.

Prints one JSON line per row. Run: `python benchmarks/bench_transformer.py [--small] [--only NAME]`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import transformer_workload as work

import secfad as fad
from secfad.totals import over_clients

SIZES = {"layers": 12, "width": 64, "clients": 8}
SMALL = {"layers": 2, "width": 8, "clients": 3}


def processor_seconds(fun: Callable) -> float:
    """Processor seconds of one call, results included."""
    start = time.process_time()
    jax.block_until_ready(fun())
    return time.process_time() - start


def shapes(sizes: dict) -> tuple:
    """What the server or one client holds."""
    hyper, model, x = work.arguments(**sizes)
    return jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), (hyper, model, x[0]))


def trace_row(sizes: dict, unrolled: bool) -> dict:
    """Tracing times and released numbers, by the number of broadcasts."""
    specs, row = shapes(sizes), {}
    fad.trace(work.by_secfad(unrolled), *specs)
    for messages in (1, 2):
        computation = work.by_secfad(unrolled, messages)
        seconds = {"value": processor_seconds(lambda c=computation: _traced(c, specs))}
        for mode in ("forward", "mixed"):
            made = fad.value_and_grad(computation, mode=mode)
            seconds[mode] = processor_seconds(lambda m=made: _traced(m, specs))
        released = _traced(made, specs, whole=True).costs.released
        row[f"{messages} messages"] = {k: round(v, 3) for k, v in seconds.items()} | {
            "mixed_vs_forward": round(seconds["mixed"] / seconds["forward"], 2),
            "released": released,
        }
    return row


def _traced(computation: fad.Computation, specs: tuple, *, whole: bool = False):
    program = fad.trace(computation, *specs)
    return program if whole else ()


def memory_row(sizes: dict) -> dict:
    """Peak memory of a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--compile", json.dumps(sizes)], capture_output=True, check=True
    )
    return {"peak_mib": json.loads(done.stdout)}


def compiled_here(sizes: dict) -> float:
    """Compiles the mixed hypergradient; gives this process's peak memory in MiB."""
    args = work.arguments(**sizes)
    jax.block_until_ready(fad.simulate(fad.value_and_grad(work.by_secfad(), mode="mixed"))(*args))
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def run_row(sizes: dict, turns: int) -> dict:
    """Processor seconds of the modes and of hand-written JAX."""
    args, by_hand = work.arguments(**sizes), work.by_hand()

    def pushed(*args):
        value = by_hand(*args)
        return value, value

    runs = {"jacfwd": jax.jacfwd(pushed, has_aux=True), "grad": jax.value_and_grad(by_hand)}
    for mode in ("forward", "reverse", "mixed"):
        runs[mode] = fad.simulate(fad.value_and_grad(work.by_secfad(), mode=mode))
    compiled = {name: jax.jit(run).lower(*args).compile() for name, run in runs.items()}
    best = dict.fromkeys(compiled, float("inf"))
    for _ in range(turns):
        for name, run in compiled.items():
            best[name] = min(best[name], processor_seconds(lambda run=run: run(*args)))
    against = {"forward": "jacfwd", "reverse": "grad", "mixed": "grad"}
    return {f"{k}_ms": round(1e3 * v, 1) for k, v in best.items()} | {
        f"{mode}_vs_{plain}": round(best[mode] / best[plain], 2) for mode, plain in against.items()
    }


def totals_row(sizes: dict, turns: int) -> dict:
    """XLA's reduction over clients against `secfad.totals`."""
    row = {}
    for power in (10, 14, 16) if sizes is SIZES else (4,):
        values = jnp.ones((100, 2**power), jnp.float32)
        runs = [jax.jit(f).lower(values).compile() for f in (_reduced, over_clients)]
        best = [float("inf")] * 2
        for _ in range(turns):
            for i, run in enumerate(runs):
                best[i] = min(best[i], processor_seconds(lambda run=run, v=values: run(v)))
        row[f"2^{power}"] = round(best[0] / best[1], 2)
    return row


def _reduced(values: jax.Array) -> jax.Array:
    return jnp.sum(values, axis=0)


def main(argv: list[str] | None = None) -> list[dict]:
    """Runs the benchmark; returns the rows that it prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--only", default="", help="a part of a row's name")
    parser.add_argument("--compile", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.compile:
        print(compiled_here(json.loads(options.compile)))
        return []
    sizes, rows = (SMALL if options.small else SIZES), []
    table = {
        "trace/scan": lambda: trace_row(sizes, False),
        "trace/unrolled": lambda: trace_row(sizes, True),
        "memory": lambda: memory_row(sizes),
        "run": lambda: run_row(sizes, 1 if options.small else 10),
        "totals": lambda: totals_row(sizes, 1 if options.small else 10),
    }
    for name, made in table.items():
        if options.only in name:
            rows.append({"row": name, **made(), "jax": jax.__version__})
            print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
