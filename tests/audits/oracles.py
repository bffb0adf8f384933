"""What acceptance claims, measured: transcript-determinism and bounded contributions.

`examine` runs every oracle that applies to a checked program and raises `Leak` if one of them sees
what the report does not admit.
"""

import jax
import jax.numpy as jnp
import numpy as np
from worlds import Leak, Undecided, alone, local, lockstep, run, same

from audits.checking.checking import labels_of
from audits.checking.frontends import trace_mode
from audits.transfer.labels import Place
from audits.transfer.styles import STYLES
from secfad._jax import eval_jaxpr

CLIENTS = 3
SERVERS = ("server", "server_key")


def draw(spec, rng, hostile=False):
    """A random value of a dtype; with `hostile`, heavy tails, NaN and infinities."""
    shape, dtype = spec.shape, spec.dtype
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        size = int(np.prod(shape))
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), max(size, 1))
        return keys[0] if shape == () else keys[:size].reshape(shape)
    if jnp.issubdtype(dtype, jnp.floating):
        values = rng.normal(size=shape)
        if hostile:
            values = rng.standard_cauchy(size=shape) * 10.0 ** rng.integers(-30, 30)
            special = rng.choice([np.nan, np.inf, -np.inf, 0.0, 3e38, 1e-45], size=shape)
            values = np.where(rng.random(size=shape) < 0.3, special, values)
        with np.errstate(all="ignore"):
            return jnp.asarray(values.astype(np.float32)).astype(dtype)
    if dtype == jnp.bool_:
        return jnp.asarray(rng.random(size=shape) < 0.5)
    return jnp.asarray(rng.integers(0, 5, size=shape)).astype(dtype)


def examine(fn, args, report, *, style, mode="primal", wrt=(), seed=0):
    """Runs the oracles of a style.

    Raises:
      Leak: The program does what its report excludes.
      Undecided: The oracles cannot follow it.
    """
    traced = trace_mode(fn, args, style=STYLES[style], mode=mode, wrt=wrt)
    # A leak is there for almost all data; an unlucky branch is not.
    found = Leak()
    for attempt in range(3):
        try:
            oracle = _stacked if STYLES[style].stacked else _unstacked
            oracle(traced, report, style, np.random.default_rng(seed + attempt))
            if report.facts.noise_multipliers:
                _hidden(traced, report, np.random.default_rng(seed + attempt))
            return
        except Leak as leak:
            found = leak
        except jax.errors.JaxRuntimeError as error:
            raise Undecided("the runtime refuses the program") from error
    raise found


def _unstacked(traced, report, style, rng):
    specs = [a.spec for a in traced.inputs]
    server = [a.placement in SERVERS for a in traced.inputs]
    shared = [draw(s, rng) for s in specs]
    worlds = [
        [v if mine else draw(s, rng) for v, mine, s in zip(shared, server, specs)]
        for _ in range(CLIENTS)
    ]
    transcript, results = lockstep(traced.closed, worlds)
    places = [label.place for label in labels_of(traced, STYLES[style])]
    kept = [k for k, place in enumerate(places) if place != Place.CLIENT]
    of_server = lambda values: [values[k] for k in kept]
    if not all(same(of_server(r), of_server(results[0])) for r in results):
        raise Leak("a result of the server differs between clients")
    for other in _others(worlds[0], specs, server, rng):
        try:
            answer = alone(traced.closed, other, transcript, client=None)
        except Undecided:
            continue
        if not same(of_server(answer), of_server(results[0])):
            raise Leak("a result of the server depends on client data besides the sums")
    if style == "native":
        nudged = [_nudged(v) if mine else v for v, mine in zip(worlds[1], server)]
        alone(traced.closed, nudged, transcript, client=1)
    if report.facts.bounds:
        _bounded(traced, report, specs, server, shared, rng)


def _others(base, specs, server, rng):
    """Other client data: fresh, of opposite signs and five times as large, and hostile."""
    turned = lambda v: -5 * v if jnp.issubdtype(v.dtype, jnp.floating) else v
    for make in (
        lambda v, s: draw(s, rng),
        lambda v, s: turned(v),
        lambda v, s: draw(s, rng, True),
    ):
        yield [v if mine else make(v, s) for v, s, mine in zip(base, specs, server)]


def _nudged(value):
    return value * 1.001 + 2.0**-11 if jnp.issubdtype(value.dtype, jnp.floating) else value


def _bounded(traced, report, specs, server, shared, rng):
    """No contribution of a hostile client exceeds the stated bound."""
    loose = {f.rule for f in report.findings} & {"FAD407", "FAD408"}
    limits = _limits(report)
    for _ in range(6):
        world = [v if mine else draw(s, rng, True) for v, mine, s in zip(shared, server, specs)]
        transcript, _ = lockstep(traced.closed, [world, world])
        for kind, where, sent, _ in transcript:
            if kind == "sum":
                _within(sent[0], limits.get(where, []), loose, where)


def _limits(report):
    """Where a sum is, to the stated bounds of its leaves."""
    wheres = {e.index: e.where for e in report.facts.events if e.kind == "sum"}
    found = {}
    for bound in report.facts.bounds:
        number = None if bound.amount is None else bound.amount.number
        if bound.fact.mixed is not None:
            number = None  # the bound is that of the value before the client added its own noise
        found.setdefault(wheres[bound.event], []).append(number)
    return found


def _within(values, limits, loose, where):
    for value, limit in zip(values, limits):
        norm = float(np.linalg.norm(np.asarray(value, np.float64).ravel()))
        if limit is None or ("FAD407" in loose and not np.isfinite(norm)):
            continue
        slack = 1.05 if "FAD408" in loose else 1 + 1e-4
        if not norm <= limit * slack + 1e-30:
            raise Leak(f"a contribution of {norm} at {where}, stated is {limit}")


def _replayed(closed, values, sums, frozen=None):
    """Results and live sums of a stacked program; sums are replaced by recorded ones."""
    world, answer, live = run(closed, values), None, []
    try:
        while True:
            message = world.send(answer)
            answer = local(message)
            if message.where in sums:
                live.append(answer)
                if frozen is not None:
                    if len(live) > len(frozen):
                        raise Leak("more sums when client data change")
                    answer = frozen[len(live) - 1]
    except StopIteration as end:
        return end.value, live


def _stacked(traced, report, style, rng):
    inputs, closed = traced.inputs, traced.closed
    sums = {e.where for e in report.facts.events if e.kind == "sum"}
    places = [a.placement in SERVERS for a in inputs]
    base = [draw(a.spec, rng) for a in inputs]
    fresh = [draw(a.spec, rng) for a in inputs]
    mixed = lambda rows: [
        v if mine else _with_rows(v, w, rows) for v, w, mine in zip(base, fresh, places)
    ]
    results, recorded = _replayed(closed, base, sums)
    kept = [k for k, label in enumerate(labels_of(traced, STYLES[style]))
            if label.place != Place.CLIENT]  # fmt: skip
    rows = min((a.shape[0] for a, mine in zip(inputs, places) if not mine), default=0)
    if not rows:
        return
    for other in _others(base, [a.spec for a in inputs], places, rng):
        try:
            again, _ = _replayed(closed, other, sums, recorded)
        except Undecided:
            continue
        if not same([results[k] for k in kept], [again[k] for k in kept]):
            raise Leak("a result depends on client data besides the sums")
    order = np.roll(np.arange(rows), 1)
    turned = [v if mine else v[order] for v, mine in zip(base, places)]
    lives = [
        _replayed(closed, values, sums, recorded)[1]
        for values in (mixed([0]), mixed([1]), mixed([0, 1]), turned)
    ]
    for first, second, both, permuted, whole in zip(*lives, recorded):
        for a, b, c, p, w in zip(first, second, both, permuted, whole):
            _separable(*(np.asarray(v, np.float64) for v in (a, b, c, p, w)))
    if report.facts.bounds:
        _stacked_bounds(closed, report, sums, recorded, base, inputs, places, rng)


def _with_rows(value, other, rows):
    index = jnp.asarray(list(rows))
    return value.at[index].set(other[index])


def _separable(first, second, both, permuted, whole):
    everything = np.stack([first, second, both, permuted, whole])
    if not np.all(np.isfinite(everything)):
        return
    scale = 1.0 + np.abs(everything).max(initial=0)
    if np.abs(both - first - second + whole).max(initial=0) > 1e-3 * scale:
        raise Leak("a sum mixes the data of two clients")
    if np.abs(permuted - whole).max(initial=0) > 1e-3 * scale:
        raise Leak("a sum depends on the order of clients")


def _stacked_bounds(closed, report, sums, recorded, base, inputs, places, rng):
    """Two neighbours differ by at most twice the bound in every sum."""
    limits = _limits(report)
    loose = {f.rule for f in report.findings} & {"FAD407", "FAD408"}
    order = _order(closed, base, sums)
    for _ in range(6):
        hostile = [v if mine else _with_rows(v, draw(a.spec, rng, True), [0])
                   for v, a, mine in zip(base, inputs, places)]  # fmt: skip
        _, live = _replayed(closed, hostile, sums, recorded)
        for where, mine, theirs in zip(order, live, recorded):
            gap = [np.asarray(a, np.float64) - np.asarray(b, np.float64)
                   for a, b in zip(mine, theirs)]  # fmt: skip
            twice = [
                None if b is None else 2 * b * (1 + 1e-3) + 1e-4 for b in limits.get(where, [])
            ]
            _within(gap, twice, loose, where)


def _hidden(traced, report, rng, draws=64):
    """Noise hides what one client changes: its deviation in that direction is large enough.

    The least multiplier that the checker accepts is 0.5 and neighbours here differ by twice the
    bound, so the change is at most 4 deviations per release. With 64 draws an estimated deviation
    is off by more than a third with probability below 1e-4.
    """
    clients = [a.placement not in SERVERS for a in traced.inputs]
    keys = [jax.dtypes.issubdtype(a.spec.dtype, jax.dtypes.prng_key) for a in traced.inputs]
    base = [draw(a.spec, rng) for a in traced.inputs]
    other = [_with_rows(v, 10 * draw(a.spec, rng), [0]) if mine and not key else v
             for v, a, mine, key in zip(base, traced.inputs, clients, keys)]  # fmt: skip
    fun = jax.jit(lambda *v: jnp.concatenate([
        jnp.ravel(x).astype(jnp.float32) for x in eval_jaxpr(traced.closed.jaxpr, traced.closed.consts, *v)
        if jnp.issubdtype(jnp.result_type(x), jnp.floating)]))  # fmt: skip
    here, there = [], []
    for _ in range(draws):
        fresh = [draw(a.spec, rng) if key else None for a, key in zip(traced.inputs, keys)]
        chosen = lambda values: [v if k is None else k for v, k in zip(values, fresh)]  # noqa: B023
        here.append(np.asarray(fun(*chosen(base)), np.float64))
        there.append(np.asarray(fun(*chosen(other)), np.float64))
    change = np.mean(np.asarray(here) - np.asarray(there), axis=0)
    size = np.linalg.norm(change)
    if size < 1e-6 or not np.isfinite(size):
        return
    spread = np.std(np.asarray(here) @ (change / size))
    releases = max(report.facts.releases, len(report.facts.noise_multipliers))
    if size > 4 * 1.5 * np.sqrt(releases) * spread:
        raise Leak(f"one client changes a result by {size}, noise there has deviation {spread}")


def _order(closed, values, sums):
    world, answer, found = run(closed, values), None, []
    try:
        while True:
            message = world.send(answer)
            answer = local(message)
            if message.where in sums:
                found.append(message.where)
    except StopIteration:
        return found
