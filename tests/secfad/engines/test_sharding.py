"""A mesh whose devices belong to two processes gives the numbers of one process."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from secfad.engines.sharding import Layout
from secfad.errors import ArgumentError

ROOT = Path(fad.__file__).parent.parent
DEVICES_PER_PROCESS = 2
# A guard against a process that waits for the other one for ever; never reached by a working one.
PATIENCE_SECONDS = 240


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def loss(w, x):
    held = jnp.tanh(fad.broadcast(w) * x)
    first = fad.mean(held, name="first")
    return fad.mean(jnp.sum(jnp.cos(fad.broadcast(first) * held)), name="second")


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def both(w, x):
    return w + fad.sum(fad.broadcast(w) * x), 2 * x


W = np.arange(4, dtype=np.float32)
X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def worker(port: str, number: str) -> None:
    """One of two processes: the derivative on a mesh over both, from host and from global arrays."""
    jax.config.update("jax_num_cpu_devices", DEVICES_PER_PROCESS)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(number))
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, DEVICES_PER_PROCESS), ("process", "device"), axis_types=kinds)
    derived = fad.value_and_grad(loss)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    half = slice(2 * int(number), 2 * int(number) + 2)
    total, doubled = fad.simulate(both, mesh=mesh)(
        jax.make_array_from_process_local_data(split, W[half]), X
    )
    assert total.is_fully_replicated
    assert [s.data.shape for s in doubled.addressable_shards] == [(2, 4)] * DEVICES_PER_PROCESS
    results = [fad.simulate(derived, mesh=mesh)(W, X)]
    mine = X[4 * int(number) : 4 * int(number) + 4]
    x = jax.make_array_from_process_local_data(split, mine)
    assert not x.is_fully_addressable
    results.append(fad.simulate(derived, mesh=mesh, chunk_size=4)(W, x))
    print(json.dumps([[np.asarray(leaf).tolist() for leaf in jax.tree.leaves(r)] for r in results]))


def two_processes() -> list[str]:
    """What each of the two processes prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    with contextlib.ExitStack() as stack:
        started = []
        for number in ("0", "1"):
            command = [sys.executable, __file__, port, number]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = stack.enter_context(subprocess.Popen(command, env=environment, **pipes))
            stack.callback(process.kill)
            started.append(process)
        printed = [process.communicate(timeout=PATIENCE_SECONDS) for process in started]
    for process, (_, errors) in zip(started, printed):
        assert process.returncode == 0, errors
    return [out for out, _ in printed]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="JAX has no collectives between CPU processes")
def test_a_mesh_over_two_processes_gives_the_numbers_of_one():
    expected = jax.tree.leaves(fad.simulate(fad.value_and_grad(loss))(W, X))
    for printed in two_processes():
        for result in json.loads(printed.splitlines()[-1]):
            for got, wanted in zip(result, expected, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_arguments_may_lie_on_a_mesh_of_any_kind_of_axes(explicit, chunk_size):
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((1,), ("clients",), axis_types=(kind,))
    place = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    w, x = jax.device_put(W, place()), jax.device_put(X, place("clients"))

    run = fad.simulate(both, mesh=mesh, chunk_size=chunk_size)
    total, doubled = run(w, x)
    np.testing.assert_allclose(total, W + (W * X).sum(0), rtol=1e-5)
    np.testing.assert_allclose(doubled, 2 * X)
    layout = Layout(mesh)
    assert total.sharding.is_equivalent_to(layout.server, total.ndim)
    assert doubled.sharding.is_equivalent_to(layout.clients, doubled.ndim)


DERIVATIVES = {
    "grad": lambda run: jax.grad(lambda w, x: run(w, x), argnums=(0, 1)),
    "jvp": lambda run: lambda w, x: jax.jvp(run, (w, x), (x[0], 2 * x))[1],
    "hessian": lambda run: jax.hessian(run),
    "compiled": lambda run: jax.jit(jax.grad(run, argnums=(0, 1))),
}


@pytest.mark.sample(quick=5)
@pytest.mark.parametrize("context", [True, False], ids=["in its context", "no context"])
@pytest.mark.parametrize("placed", [True, False], ids=["placed", "not placed"])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_a_simulation_on_explicit_axes_can_be_differentiated(name, placed, context):
    mesh = jax.make_mesh((1,), ("clients",), axis_types=(jax.sharding.AxisType.Explicit,))
    place = lambda *axes: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    w, x = jnp.asarray(W), jnp.asarray(X)
    expected = DERIVATIVES[name](fad.simulate(loss))(w, x)
    if placed:
        w, x = jax.device_put(w, place()), jax.device_put(x, place("clients"))
    with jax.set_mesh(mesh) if context else contextlib.nullcontext():
        got = DERIVATIVES[name](fad.simulate(loss, mesh=mesh))(w, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_mesh_with_other_explicit_axes_is_refused():
    other = jax.make_mesh((1,), ("others",), axis_types=(jax.sharding.AxisType.Explicit,))
    w = jax.device_put(W, jax.sharding.NamedSharding(other, jax.sharding.PartitionSpec()))
    run = fad.simulate(loss, mesh=jax.make_mesh((1,), ("clients",)))
    with pytest.raises(ArgumentError, match=r"axes \{'clients': 1\}, got one .* \{'others': 1\}"):
        run(w, X)


if __name__ == "__main__":
    worker(*sys.argv[1:])
