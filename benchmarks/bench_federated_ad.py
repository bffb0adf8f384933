"""How fast are derivatives of federated computations, against DrJAX and hand-written JAX?

Three implementations of the same mathematics: ours (`secfad.simulate`), DrJAX from PyPI, and JAX
written by hand over stacked clients (`mono`). They are compiled once each and then run in turns,
repetition by repetition, so that a busy machine is busy for all. Compile and run time are apart; the
temporary memory is what XLA reports. Results must agree before anything is timed.

Workloads: `logreg` (60 x 10, 100 clients) and `mlp` (784-128-10, 256 clients; `--small`: 64-32-10 and
16 clients). Modes: value of Fig. 4 of the paper; its reverse and forward derivative with respect to
the server's learning rate and momentum; `sgd`, the gradient, and `hvp`, a Hessian-vector product, of
the mean loss with respect to the model.

Expected: ratios near 1 to both on rounds of local training, where client work dominates; ahead of
DrJAX on `sgd` and `hvp`, where DrJAX materialises the broadcast.

Prints one JSON line per row. Run: `python benchmarks/bench_federated_ad.py [--small] [--only NAME]`.
"""

import argparse
import functools
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import secfad as fad

LOCAL_STEPS, LOCAL_RATE = 10, 0.1
SIZES = {
    "logreg": {"layers": (60, 10), "clients": 100, "examples": 64},
    "mlp": {"layers": (784, 128, 10), "clients": 256, "examples": 64},
}
SMALL = {
    "logreg": {"layers": (12, 4), "clients": 8, "examples": 8},
    "mlp": {"layers": (64, 32, 10), "clients": 16, "examples": 16},
}
MODES = ("value", "rev", "fwd", "sgd", "hvp")


def init(layers: tuple[int, ...]) -> list[dict[str, jax.Array]]:
    keys = jax.random.split(jax.random.key(0), len(layers) - 1)
    return [
        {"w": jax.random.normal(k, (a, b)) / np.sqrt(a), "b": jnp.zeros(b)}
        for k, a, b in zip(keys, layers, layers[1:])
    ]


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    logits = x @ params[-1]["w"] + params[-1]["b"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))


def local_delta(params: Any, x: jax.Array, y: jax.Array) -> Any:
    def step(p, _):
        g = jax.grad(loss)(p, x, y)
        return jax.tree.map(lambda a, b: a - LOCAL_RATE * b, p, g), None

    trained, _ = jax.lax.scan(step, params, None, length=LOCAL_STEPS)
    return jax.tree.map(jnp.subtract, params, trained)


def server(hyper: jax.Array, params: Any, momentum: Any, delta: Any) -> Any:
    return jax.tree.map(lambda p, m, d: p - hyper[0] * (hyper[1] * m + d), params, momentum, delta)


def rounds(mean_over_clients: Callable) -> tuple[Callable, Callable]:
    """Fig. 4 and the mean loss, given how to average a client function of a server value."""

    def figure4(hyper, params, momentum, x, y):
        new = server(hyper, params, momentum, mean_over_clients(local_delta, params, x, y))
        return mean_over_clients(loss, new, x, y)

    def mean_loss(params, x, y):
        return mean_over_clients(loss, params, x, y)

    return figure4, mean_loss


def by_hand() -> tuple[Callable, Callable]:
    def mean(fun, value, x, y):
        out = jax.vmap(fun, in_axes=(None, 0, 0))(value, x, y)
        return jax.tree.map(lambda v: jnp.mean(v, axis=0), out)

    return rounds(mean)


def by_drjax(clients: int) -> tuple[Callable, Callable]:
    import drjax

    def mean(fun, value, x, y):
        wires = drjax.broadcast(value)
        return drjax.reduce_mean(drjax.map_fn(fun, (wires, x, y)))

    return tuple(drjax.program(placements={"clients": clients})(f) for f in rounds(mean))


def by_secfad() -> tuple[fad.Computation, fad.Computation]:
    figure4, mean_loss = rounds(lambda fun, v, x, y: fad.mean(fun(fad.broadcast(v), x, y)))
    S, C = fad.SERVER, fad.CLIENTS
    return (
        fad.computation(hyper=S, params=S, momentum=S, x=C, y=C)(figure4),
        fad.computation(params=S, x=C, y=C)(mean_loss),
    )


def plain_modes(figure4: Callable, mean_loss: Callable) -> dict[str, Callable]:
    """The modes by JAX's own transformations; arguments are those of `arguments`."""

    def hvp(params, direction, x, y):
        return jax.jvp(lambda p: jax.grad(mean_loss)(p, x, y), (params,), (direction,))[1]

    return {
        "value": figure4,
        "rev": jax.value_and_grad(figure4),
        "fwd": jax.jacfwd(figure4),
        "sgd": jax.grad(mean_loss),
        "hvp": hvp,
    }


def our_modes() -> dict[str, Callable]:
    figure4, mean_loss = by_secfad()
    directional = fad.simulate(fad.jvp(fad.grad(mean_loss)))
    return {
        "value": fad.simulate(figure4),
        "rev": fad.simulate(fad.value_and_grad(figure4, mode="reverse")),
        "fwd": fad.simulate(fad.grad(figure4, mode="forward")),
        "sgd": fad.simulate(fad.grad(mean_loss)),
        "hvp": lambda p, direction, x, y: directional(p, x, y, direction)[1],
    }


def arguments(mode: str, layers, clients, examples) -> tuple:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(clients, examples, layers[0])), jnp.float32)
    y = jnp.asarray(rng.integers(0, layers[-1], size=(clients, examples)))
    params = init(layers)
    other = jax.tree.map(lambda p: 0.1 * jnp.ones_like(p), params)
    if mode in ("value", "rev", "fwd"):
        return jnp.array([1.0, 0.9]), params, other, x, y
    return (params, other, x, y) if mode == "hvp" else (params, x, y)


def compiled(fun: Callable, args: tuple) -> tuple[Callable, float, float]:
    """The compiled function, seconds to trace, lower and compile it, and its temporary MiB."""
    start = time.perf_counter()
    made = jax.jit(fun).lower(*args).compile()
    seconds = time.perf_counter() - start
    return made, seconds, made.memory_analysis().temp_size_in_bytes / 2**20


def measure(mode: str, sizes: dict[str, Any], repetitions: int) -> dict[str, Any]:
    """One row: all three implementations of a mode, in turns."""
    args = arguments(mode, **sizes)
    makers = {
        "mono": lambda: plain_modes(*by_hand()),
        "drjax": lambda: plain_modes(*by_drjax(sizes["clients"])),
        "secfad": our_modes,
    }
    runs, row = {}, {}
    for name, make in makers.items():
        jax.clear_caches()
        runs[name], seconds, memory = compiled(make()[mode], args)
        row[name] = {"compile_s": round(seconds, 3), "temp_mib": round(memory, 2)}
    results = {name: jax.block_until_ready(run(*args)) for name, run in runs.items()}
    for name in ("drjax", "secfad"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5),
            results[name],
            results["mono"],
        )
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*args))
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        row[name]["run_ms"] = round(1e3 * statistics.median(seconds), 3)
    row["run_vs_drjax"] = round(row["secfad"]["run_ms"] / row["drjax"]["run_ms"], 3)
    row["run_vs_mono"] = round(row["secfad"]["run_ms"] / row["mono"]["run_ms"], 3)
    row["compile_vs_drjax"] = round(row["secfad"]["compile_s"] / row["drjax"]["compile_s"], 3)
    return row


def sweep_cohort(sizes: dict[str, Any], cohorts: tuple[int, ...], chunk: int) -> list[dict]:
    """Seconds per client of a gradient in chunks, data made at the clients from their keys."""
    layers, examples = sizes["layers"], sizes["examples"]

    @fad.computation(params=fad.SERVER, key=fad.CLIENTS)
    def mean_loss(params, key):
        x = jax.random.normal(key, (examples, layers[0]))
        y = jax.random.randint(jax.random.fold_in(key, 1), (examples,), 0, layers[-1])
        return fad.mean(loss(fad.broadcast(params), x, y), name="loss")

    run, params, rows = fad.simulate(fad.grad(mean_loss), chunk_size=chunk), init(layers), []
    for clients in cohorts:
        keys = fad.cohorts.client_keys(jax.random.key(0), clients)
        made, _, memory = compiled(run, (params, keys))
        jax.block_until_ready(made(params, keys))
        start = time.perf_counter()
        jax.block_until_ready(made(params, keys))
        seconds = time.perf_counter() - start
        per_client = round(1e3 * seconds / clients, 4)
        rows.append({"clients": clients, "ms_per_client": per_client, "temp_mib": round(memory, 1)})
    return rows


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


def main(argv: list[str] | None = None) -> list[dict]:
    """Runs the benchmark; returns the rows that it prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--only", default="", help="a workload or workload/mode")
    parser.add_argument("--repetitions", type=int, default=0, help="0: by workload")
    options = parser.parse_args(argv)
    table, rows = (SMALL if options.small else SIZES), []
    for workload, sizes in table.items():
        for mode in MODES:
            if options.only in f"{workload}/{mode}":
                count = options.repetitions or (
                    3 if options.small else 40 if workload == "logreg" else 5
                )
                row = {"row": f"{workload}/{mode}", **measure(mode, sizes, count), **environment()}
                rows.append(row)
                print(json.dumps(row), flush=True)
    if options.only in "cohorts":
        cohorts = (20, 50) if options.small else (1000, 3000, 10_000)
        made = sweep_cohort(table["mlp"], cohorts, 10 if options.small else 50)
        rows.append({"row": "cohorts", "sweep": made, **environment()})
        print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
