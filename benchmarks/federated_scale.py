"""The questions of scale of `bench_federated_ad.py`: many clients, and long programs.

`cohorts` runs in a process of its own, so that its peak of resident memory is its own; it is called as
`python benchmarks/federated_scale.py OPTIONS_AS_JSON` and prints its row as JSON.
"""

import functools
import gc
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import federated_workloads as work
import jax
import numpy as np

import secfad as fad


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def require_equal(results: Any, expected: Any) -> None:
    """Raises unless two implementations agree up to rounding."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), results, expected
    )


def cohorts(
    *, layers: Sequence[int], examples: int, chunk: int, sizes: Sequence[int], turns: int
) -> dict[str, Any]:
    """Time per client of a gradient by cohort size, in turns, and the peak of the whole process."""
    layers = tuple(layers)
    params = work.init(layers)
    computation = fad.grad(work.over_keys(layers, examples, work.loss))
    run = jax.jit(fad.simulate(computation, chunk_size=chunk))
    keys = {n: fad.cohorts.client_keys(jax.random.key(0), n) for n in sizes}
    memory = {}
    for n in sizes:
        made = run.lower(params, keys[n]).compile()
        memory[n] = round(made.memory_analysis().temp_size_in_bytes / 2**20, 1)
        jax.block_until_ready(run(params, keys[n]))
    times: dict[int, list[float]] = {n: [] for n in sizes}
    for turn in range(turns):
        for n in random.Random(turn).sample(list(sizes), len(sizes)):
            # About as many clients per turn for every size, so that noise weighs the same.
            calls = max(1, min(10, max(sizes) // n))
            spent = [seconds_of(lambda n=n: run(params, keys[n])) for _ in range(calls)]
            times[n].append(1e3 * statistics.mean(spent) / n)
    rows = [
        {
            "clients": n,
            "ms_per_client": round(statistics.median(times[n]), 4),
            "temp_mib": memory[n],
        }
        for n in sizes
    ]
    largest, reference = rows[-1]["ms_per_client"], rows[-2]["ms_per_client"]
    return {
        "chunk": chunk,
        "sweep": rows,
        "last_vs_one_before": round(largest / reference, 3),
        "peak_rss_gib": peak_gib(),
    }


def whole_round(
    *, layers: Sequence[int], examples: int, chunk: int, clients: int
) -> dict[str, Any]:
    """One round of local training of many clients."""
    layers = tuple(layers)
    run = fad.simulate(work.over_keys(layers, examples, work.local_delta), chunk_size=chunk)
    keys = fad.cohorts.client_keys(jax.random.key(0), clients)
    seconds = seconds_of(lambda: run(work.init(layers), keys))
    return {
        "clients": clients,
        "chunk": chunk,
        "seconds_with_compilation": round(seconds, 1),
        "peak_rss_gib": peak_gib(),
    }


def peak_gib() -> float:
    """Peak resident memory of this process; Linux reports KiB, macOS bytes."""
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)


def in_own_process(question: str, **options: Any) -> dict[str, Any]:
    """The row of a question, from a process of its own."""
    words = json.dumps({"question": question, **options})
    done = subprocess.run([sys.executable, __file__, words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{question} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def chunks(
    *, layers: Sequence[int], examples: int, clients: int, sizes: Sequence[int], turns: int
) -> list[dict[str, Any]]:
    """Gradient and Hessian-vector product by chunk size, against the same fused over all clients."""
    rows = []
    for mode in ("sgd", "hvp"):
        args = work.arguments(mode, tuple(layers), clients, examples)
        made = {n: jax.jit(work.by_secfad(n)[mode]).lower(*args).compile() for n in (None, *sizes)}
        runs = {n: functools.partial(run, *args) for n, run in made.items()}
        for run in runs.values():
            require_equal(run(), runs[None]())
        times = in_turns(runs, turns, seconds_of)
        for n, run in made.items():
            ratios = (a / b for a, b in zip(times[n], times[None]))
            rows.append(
                {
                    "mode": mode,
                    "chunk": n or "whole",
                    "ms_per_client": round(1e3 * statistics.median(times[n]) / clients, 4),
                    "vs_whole": round(statistics.median(ratios), 3),
                    "temp_mib": round(run.memory_analysis().temp_size_in_bytes / 2**20, 1),
                }
            )
    return rows


def placed(mean_loss: Callable) -> fad.Computation:
    """A computation that was never traced."""
    return fad.computation(params=fad.SERVER, x=fad.CLIENTS)(lambda params, x: mean_loss(params, x))


def staging(blocks: Sequence[int], turns: int) -> list[dict[str, Any]]:
    """Processor time to trace, place and stage a gradient, against `jax.make_jaxpr` of the same."""
    rows = []
    for count in blocks:
        fun, specs = work.residual_network(count)

        def ours(fun=fun, specs=specs):
            return fad.trace(fad.grad(placed(fun)), *specs).schedule

        def plain(fun=fun, specs=specs):
            return jax.make_jaxpr(jax.grad(placed(fun).fun))(*specs)

        times = in_turns({"secfad": ours, "make_jaxpr": plain}, turns, processor_seconds)
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        ratios = [a / b for a, b in zip(times["secfad"], times["make_jaxpr"])]
        equations = len(plain().eqns)
        rows.append(
            {
                "equations": equations,
                "make_jaxpr_s": round(medians["make_jaxpr"], 3),
                "secfad_s": round(medians["secfad"], 3),
                "ratio": round(statistics.median(ratios), 2),
                "us_per_equation": round(1e6 * medians["secfad"] / equations, 1),
            }
        )
    return rows


def processor_seconds(run: Callable[[], Any]) -> float:
    jax.clear_caches()
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def in_turns(
    runs: dict[Any, Callable[[], Any]], turns: int, clock: Callable[[Callable], float]
) -> dict[Any, list[float]]:
    """Times of all runs, in a new order each turn: nobody always follows the same neighbour."""
    times: dict[Any, list[float]] = {name: [] for name in runs}
    for turn in range(turns):
        for name in random.Random(turn).sample(list(runs), len(runs)):
            times[name].append(clock(runs[name]))
    return times


QUESTIONS = {"cohorts": cohorts, "round": whole_round}

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(QUESTIONS[given.pop("question")](**given)))
