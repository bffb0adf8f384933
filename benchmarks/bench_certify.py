"""What does a certificate cost beside the trace that it speaks of, and does the cost grow linearly?

Expected: a certificate takes less than three times the processor time of tracing the program, in proportion
to its equations up to 50,000; the verifier takes less than 0.3 of the certificate.

    python benchmarks/bench_certify.py [--equations 6000,12000,25000,50000] [--repeats 3]

Three shapes of native programs: long chains between few messages, a message every few equations, and nested
loops whose bodies are long. Each is certified for communication, and privatized and certified with
bounds. Prints one JSON line of medians over the repeats, and on the standard error a line for each shape: the
ratio of the largest program, the worst ratio, and `growth`, the exponent of certification's time in the
number of equations, fitted over the sizes.
"""

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import audits
import privacy
import secfad as fad
from audits.proofs.verification import verify

SPEC = jax.ShapeDtypeStruct((3,), jnp.float32)
MECHANISM = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
CHAIN = 3  # equations of one link


def link(value: jax.Array, data: jax.Array) -> jax.Array:
    return value - 0.1 * jnp.tanh(value * data)


def rounds_of(rounds: int, links: int) -> fad.Computation:
    """Rounds of local work: `links` links between a broadcast and a sum."""

    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def program(w, x):
        for number in range(rounds):
            local = fad.broadcast(w, name=f"model{number}")
            for _ in range(links):
                local = link(local, x)
            w = w - fad.mean(local, name=f"delta{number}")
        return jnp.sum(w)

    return program


def chains(equations: int) -> fad.Computation:
    """Ten rounds of long local chains."""
    return rounds_of(10, max(equations // (10 * (CHAIN + 1)), 1))


def messages(equations: int) -> fad.Computation:
    """As many rounds as fit, with one link of local work each."""
    return rounds_of(max(equations // 8, 1), 1)


def loops(equations: int) -> fad.Computation:
    """Local loops in a loop of rounds; their bodies hold the equations."""
    links = max(equations // (2 * (CHAIN + 1)), 1)

    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def program(w, x):
        def inner(local, _):
            for _ in range(links):
                local = link(local, x)
            return local, None

        def outer(w, _):
            local = jax.lax.scan(inner, fad.broadcast(w, name="model"), None, length=2)[0]
            for _ in range(links):
                local = link(local, x)
            return w - fad.mean(local, name="delta"), None

        return jnp.sum(jax.lax.scan(outer, w, None, length=4)[0])

    return program


SHAPES = {"chains": chains, "messages": messages, "loops": loops}


def processor_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def equations_of(closed: Any) -> int:
    """Equations of a program, nested ones included once."""
    return sum(
        1 + sum(equations_of(body) for body in nested(equation)) for equation in closed.jaxpr.eqns
    )


def nested(equation: Any) -> list:
    values = [v for p in equation.params.values() for v in (p if isinstance(p, tuple) else (p,))]
    return [v for v in values if hasattr(v, "jaxpr") and hasattr(v, "consts")]


def measure(make: Callable[[int], fad.Computation], equations: int, private: bool) -> dict:
    """Seconds of one trace, certificate and verification."""
    gc.collect()
    program = make(equations)
    trace_s, traced = processor_seconds(lambda: fad.trace(program, SPEC, SPEC))
    subject: Any = traced
    if private:
        subject = privacy.privatize(program, SPEC, SPEC, mechanism=MECHANISM)
        traced = subject.program
    certify_s, certificate = processor_seconds(lambda: audits.certify(subject))
    verify_s, _ = processor_seconds(lambda: verify(certificate, traced))
    size = equations_of(traced.jaxpr)
    return {"equations": size, "trace_s": trace_s, "certify_s": certify_s, "verify_s": verify_s}


def summary(runs: list[dict]) -> dict:
    """Medians of several runs, with the ratios of the question."""
    found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    found["certify_by_trace"] = statistics.median(r["certify_s"] / r["trace_s"] for r in runs)
    found["verify_by_certify"] = statistics.median(r["verify_s"] / r["certify_s"] for r in runs)
    return {key: round(value, 4) for key, value in found.items()}


def growth(rows: list[dict]) -> float | None:
    """Slope of log time over log size."""
    if len(rows) < 2:
        return None
    sizes, seconds = ([np.log(row[key]) for row in rows] for key in ("equations", "certify_s"))
    return round(float(np.polyfit(sizes, seconds, 1)[0]), 3)


def described(label: str, found: dict) -> str:
    """One line for people."""
    ratios = [row["certify_by_trace"] for row in found["sizes"]]
    verifier = max(row["verify_by_certify"] for row in found["sizes"])
    return (
        f"{label}: certify/trace {ratios[-1]:.2f} at {found['sizes'][-1]['equations']:.0f} equations, "
        f"at most {max(ratios):.2f}; verify/certify at most {verifier:.2f}; "
        f"growth exponent {found['growth']}"
    )


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--equations", default="6000,12000,25000,50000")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    sizes = [int(text) for text in options.equations.split(",")]
    measure(chains, 50, private=True)  # what is compiled or imported once
    gc.freeze()  # what lives already is not to be looked at again
    result: dict[str, Any] = {}
    for name, make in SHAPES.items():
        for private in (False, True):
            rows = [
                summary([measure(make, size, private) for _ in range(options.repeats)])
                for size in sizes
            ]
            label = f"{name}{' with bounds' if private else ''}"
            result[label] = {"sizes": rows, "growth": growth(rows)}
            print(described(label, result[label]), file=sys.stderr)
    gc.unfreeze()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    result["commit"] = commit.stdout.strip()
    result["jax"], result["python"] = jax.__version__, platform.python_version()
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
