"""Random programs about keys, and a measured oracle for what an acceptance of one claims.

A program splits, folds, moves, damages and mixes keys in loops and branches, and adds noise to sums
of clients, at the server or at the clients. The same program can also run as a *probe*: it then
returns the words of every key that it draws from in place of what it releases. The oracle runs the
probe under several secrets and data and compares words: it knows nothing of names or entropy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from worlds import SENT, local, run

import audits
import secfad as fad

N = 3  # clients of stacked programs
NOISE, OTHER, SHOWN = 1, 2, 3  # what a key is used for: the first word of what a probe returns
DEPTH = 2  # loops inside of loops
GENERATORS = {"fry": 2, "rbg": 4, "urbg": 4}


class KeyProgram:
    """One random program.

    Args:
      seed: Decides everything.
      style: `"stacked"` or `"native"`.
      ill: How often a step damages or reuses a key.
    """

    def __init__(self, seed: int, style: str = "stacked", ill: float = 0.12):
        self.seed, self.style, self.ill = seed, style, ill
        plan = np.random.default_rng([seed, 7])
        self.at_clients = bool(plan.random() < 0.3)
        self.kind = str(plan.choice(list(GENERATORS), p=[0.8, 0.1, 0.1]))
        self.raw_keys = bool(plan.random() < 0.15)

    @property
    def args(self) -> list[audits.Arg]:
        """Its arguments."""
        rows = (N,) if self.style == "stacked" else ()
        words, dtype = GENERATORS[self.kind], f"key<{self.kind}>"
        key = ((words,), "uint32") if self.raw_keys else ((), dtype)
        many = ((4, words), "uint32") if self.raw_keys else ((4,), dtype)
        own = ((*rows, words), "uint32") if self.raw_keys else (rows, dtype)
        return [
            audits.Arg("key", *key, "server_key"),
            audits.Arg("many", *many, "server_key"),
            audits.Arg("own", *own, "client_key"),
            audits.Arg("open", (words,), "uint32", "server"),
            audits.Arg("i", (), "int32", "server"),
            audits.Arg("j", (), "int32", "server"),
            audits.Arg("id", rows, "int32", "clients"),
            audits.Arg("x", (*rows, 3), "float32", "clients"),
        ]

    def __call__(self, *values):
        """The program."""
        return _Run(self, probe=False).result(*values)

    def probe(self, *values):
        """The keys it draws from."""
        return _Run(self, probe=True).result(*values)


class _Run:
    """One trace of a program: the same steps in both forms."""

    def __init__(self, program: KeyProgram, probe: bool):
        self.program, self.is_probe = program, probe
        self.rng = np.random.default_rng(program.seed)

    # Choices.

    def often(self, chance):
        return self.rng.random() < chance

    def one(self, items):
        return items[int(self.rng.integers(len(items)))]

    def ill(self):
        return self.often(self.program.ill)

    # Programs.

    def result(self, key, many, own, open_, i, j, id_, x):
        p = self.program
        wrap = lambda words: jax.random.wrap_key_data(words, impl=_impl(p.kind))
        self.x, self.ints = x, [i, j]
        if p.raw_keys:
            key, many, own = wrap(key), wrap(many), wrap(own)
        self.open = wrap(open_)
        pool = _Pool([key] if self.often(0.8) else [], [many] if self.often(0.4) else [])
        if not pool.keys and not pool.arrays:
            pool.keys.append(key)
        if p.at_clients:
            return self.with_clients(key, own, id_)
        return self.block(pool, [], 0)

    def with_clients(self, key, own, id_):
        """Rounds in which each client adds noise from keys of its own."""
        rounds, seed = int(self.rng.integers(1, 4)), int(self.rng.integers(1 << 30))
        looped = self.often(0.5)

        def body(own, t):
            self.rng = np.random.default_rng(seed if looped else [seed, t])
            return self.clients_once(key, own, id_, [t])

        if looped:
            own, found = lax.scan(body, own, jnp.arange(rounds))
        else:
            found = []
            for t in range(rounds):
                own, made = body(own, t)
                found += made
        return found

    def clients_once(self, key, own, id_, counters):
        copy = jax.random.split(key)[0]
        if self.program.style == "native":
            following, made = self.client(own, fad.broadcast(copy), id_, self.x, counters)
            return following, [w if self.is_probe else fad.sum(w) for w in made]
        each = lambda *a: self.client(*a, counters)
        following, made = jax.vmap(each)(own, jnp.broadcast_to(copy, (N,)), id_, self.x)
        return following, [w if self.is_probe else jnp.sum(w, axis=0) / N for w in made]

    def client(self, own, copy, id_, v, counters):
        """The next key of one client, and its contributions."""
        pool, following = _Pool([own], [], [copy]), own
        if self.often(0.6):
            following, used = jax.random.split(own)
            pool = _Pool([used], [], [copy])
        outside, self.ints = self.ints, [id_]
        for _ in range(int(self.rng.integers(0, 3))):
            self.derive(pool, counters)
        chosen = pool.take(self)
        if self.often(0.15):
            base = self.one([copy, jax.random.key(1, impl=_impl(self.program.kind))])
            chosen = jax.random.fold_in(base, jax.random.bits(chosen))
        elif self.ill():
            chosen = copy
        made = []
        if self.often(0.15) and pool.keys:
            mask = pool.take(self)
            made = [self.record(OTHER, mask)] if self.is_probe else []
            v = v * jax.random.uniform(mask, (3,))
        self.ints = outside
        if self.is_probe:
            return following, [*made, self.record(NOISE, chosen)]
        return following, [fad.clip(v, 1.0) + 1.2 * jax.random.normal(chosen, (3,))]

    # The server.

    def block(self, pool, counters, depth):
        """Some steps and releases, and perhaps a loop."""
        found = []
        for _ in range(int(self.rng.integers(1, 4))):
            for _ in range(int(self.rng.integers(0, 3))):
                self.derive(pool, counters)
            kind = self.rng.random()
            if kind < 0.6 or not (pool.keys or pool.arrays):
                found.append(self.release(pool.take(self)))
            elif kind < 0.67:
                found.append(self.record(OTHER, pool.take(self)))
            elif kind < 0.73:
                found.append(self.record(SHOWN, pool.take(self)))
            elif depth < DEPTH:
                found += self.loop(pool, counters, depth + 1)
        return found

    def release(self, key):
        """Noise on a sum of all clients."""
        if self.is_probe:
            return self.record(NOISE, key)
        return (self.total() + jax.random.normal(key, (3,))) / N

    def record(self, use, key):
        """What is released of a key that is not used for noise; in a probe, its words."""
        if self.is_probe:
            return jnp.concatenate([jnp.full(1, use, jnp.uint32), jax.random.key_data(key)])
        return jax.random.uniform(key, (5,)) if use == OTHER else jax.random.key_data(key)

    def total(self):
        if self.program.style == "native":
            return fad.sum(fad.clip(self.x, 1.0))
        return jnp.sum(jax.vmap(lambda v: fad.clip(v, 1.0))(self.x), axis=0)

    def loop(self, pool, counters, depth):
        """A loop over keys, numbers or nothing, with keys as carries."""
        length = int(self.rng.integers(2, 4))
        rows = self.rows(pool, length)
        carried = [pool.take(self) for _ in range(int(self.rng.integers(0, 3)))]
        start, plan = int(self.rng.integers(0, 3)), int(self.rng.integers(3))
        seed, after = int(self.rng.integers(1 << 30)), self.rng
        outside = list(pool.keys)

        def body(carry, row):
            self.rng = np.random.default_rng(seed)
            t, *keys = carry
            inner, here = _Pool([], []), [*counters, t]
            if row is not None:
                inner.take_in(row) if _is_key(row) else here.append(row)
            following = [self.following(key, inner, here) for key in keys]
            if self.often(0.25) or not (inner.keys or inner.arrays):
                inner.outer += outside or [self.open]
            if self.ill():
                following = following[::-1]
            return (t + 1, *following), self.block(inner, here, depth)

        first = (jnp.int32(start), *carried)
        if plan == 0 and rows is None:
            last, found = self.by_fori(body, first, length)
        else:
            last, found = lax.scan(body, first, rows, length=length, reverse=self.often(0.1))
        self.rng = after
        pool.keys += list(last[1:])
        return found

    def by_fori(self, body, first, length):
        """The same as a `fori_loop` that collects its results in arrays."""
        shapes = jax.eval_shape(lambda c: body(c, None)[1], first)
        kept = [jnp.zeros((length, *s.shape), s.dtype) for s in shapes]

        def turn(k, state):
            carry, kept = state
            carry, made = body(carry, None)
            return carry, [lax.dynamic_update_index_in_dim(a, b, k, 0) for a, b in zip(kept, made)]

        return lax.fori_loop(0, length, turn, (first, kept))

    def rows(self, pool, length):
        kind = self.rng.random()
        if kind < 0.35 and (pool.keys or pool.arrays):
            key = pool.take(self)
            if self.ill():
                return jnp.stack([key] * length)
            return jax.random.split(key, length if self.often(0.7) else (length, 2))
        if kind < 0.6:
            return jnp.arange(length) + int(self.rng.integers(3))
        if kind < 0.7:
            return jnp.asarray(self.rng.integers(0, 4, length), jnp.int32)
        return None

    def following(self, key, inner, counters):
        """The next carry, and what the body may use of this one."""
        kind = self.rng.random()
        if self.ill():
            inner.keys.append(key)
            return self.one([key, jax.random.clone(key), jax.random.split(key)[0]])
        if kind < 0.6:
            following, *used = jax.random.split(key, int(self.rng.integers(2, 4)))
            inner.keys += used
            return following
        if kind < 0.8:
            inner.keys.append(jax.random.fold_in(key, 1))
            return jax.random.fold_in(key, 0)
        inner.keys.append(jax.random.split(key)[1])
        return jax.random.fold_in(jax.random.split(key)[0], self.one(counters))

    # Steps.

    def derive(self, pool, counters):
        """One random step."""
        if self.ill():
            return self.damage(pool, counters)
        kind = self.rng.random()
        if pool.arrays and kind < 0.3:
            array = pool.arrays.pop(int(self.rng.integers(len(pool.arrays))))
            return self.index(pool, array, counters)
        key = pool.take(self)
        if kind < 0.6:
            children = jax.random.split(key, int(self.rng.integers(2, 5)))
            if self.often(0.4):
                pool.arrays.append(children)
            else:
                pool.keys += list(children)
            return None
        if kind < 0.85:
            numbers = self.one([[0, 1], [2, 5, 3], [7]])
            if counters and self.often(0.7):
                numbers = [self.one(counters) + self.one([0, 1, -2])]
            pool.keys += [jax.random.fold_in(key, n) for n in numbers]
            return None
        pool.keys.append(self.same(key))
        return None

    def index(self, pool, array, counters):
        flat = array.reshape(-1)
        count = flat.shape[0]
        if counters and self.often(0.4):
            pool.keys.append(flat[self.one(counters)])
        elif self.often(0.2):
            pool.keys.append(flat[self.one(self.ints)])
        else:
            for k in self.rng.permutation(count)[: int(self.rng.integers(1, count + 1))]:
                pool.keys.append(flat[int(k)])

    def same(self, key):
        """The same key again."""
        kind = int(self.rng.integers(5))
        if kind == 0:
            return jax.random.clone(key)
        if kind == 1:
            impl = _impl(self.program.kind)
            return jax.random.wrap_key_data(jax.random.key_data(key), impl=impl)
        if kind == 2:
            return key.reshape(1, 1)[0, 0]
        if kind == 3:
            return jax.jit(lambda k: k)(key)
        return jnp.stack([key, jax.random.fold_in(key, 3)])[0]

    def damage(self, pool, counters):
        """A step that costs entropy, or makes one key of two."""
        key = pool.peek(self)
        impl = _impl(self.program.kind)
        wrap = lambda words: jax.random.wrap_key_data(words, impl=impl)
        words = jax.random.key_data(key)
        count = self.one(counters) if counters else self.ints[0]
        kind = int(self.rng.integers(15))
        steps = [
            lambda: wrap(words * jnp.uint32(0)),
            lambda: wrap(words ^ jnp.uint32(0)),
            lambda: wrap(words + jnp.uint32(1)),
            lambda: wrap(words[::-1]),
            lambda: wrap(jnp.stack([words[0]] * words.shape[0])),
            lambda: jax.random.key(count, impl=impl),
            lambda: jax.random.fold_in(jax.random.key(0, impl=impl), count),
            lambda: jax.random.fold_in(self.open, count),
            lambda: jax.random.fold_in(key, count // 2),
            lambda: jax.random.fold_in(key, count * 0),
            lambda: jax.random.split(key, 3)[count % 2],
            lambda: jnp.where(count > 1, key, self.same(key)),
            lambda: lax.cond(count > 1, lambda: key, lambda: jax.random.split(key)[1]),
            lambda: self.of_data(impl),
            lambda: wrap(jnp.maximum(words, words)),
        ]
        pool.keys.append(steps[kind]())

    def of_data(self, impl):
        """A key of data: of the exact sum at the server."""
        if self.program.at_clients:
            return jax.random.key(0, impl=impl)
        width = GENERATORS[self.program.kind]
        sums = jnp.concatenate([self.total(), self.total()])[:width]
        return jax.random.wrap_key_data(lax.bitcast_convert_type(sums, jnp.uint32), impl=impl)


class _Pool:
    """The keys at hand."""

    def __init__(self, keys, arrays, outer=()):
        self.keys, self.arrays, self.outer = list(keys), list(arrays), list(outer)

    def take_in(self, row):
        (self.keys if row.shape == () else self.arrays).append(row)

    def take(self, run):
        """A key that is then gone; now and then it stays and will be used again."""
        if run.ill() or not (self.keys or self.arrays):
            return self.peek(run)
        if not self.keys:
            flat = self.arrays.pop().reshape(-1)
            self.keys += list(flat)
        return self.keys.pop(int(run.rng.integers(len(self.keys))))

    def peek(self, run):
        """A key that stays."""
        items = self.keys or self.outer
        if not items and self.arrays:
            return self.arrays[-1].reshape(-1)[0]
        return run.one(items) if items else run.open


def _impl(kind):
    return {"fry": "threefry2x32", "rbg": "rbg", "urbg": "unsafe_rbg"}[kind]


def _is_key(value):
    return jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


# The oracle.


def values(program, server, clients, data):
    """Arguments that depend on three seeds: of the server's keys, of the clients' keys, and of data."""
    rng = np.random.default_rng([data, 5])

    def one(arg):
        if arg.placement.endswith("_key"):
            source = jax.random.key(server if arg.placement == "server_key" else clients)
            return _secret(arg, jax.random.fold_in(source, len(arg.name)), program)
        if arg.name == "x":
            return jnp.asarray(rng.uniform(-0.2, 0.2, arg.shape), jnp.float32)
        if arg.name == "open":
            return jnp.arange(arg.shape[0], dtype=jnp.uint32)
        return jnp.full(arg.shape, 2, jnp.int32)  # numbers that somebody chose

    return [one(arg) for arg in program.args]


def _secret(arg, source, program):
    if program.raw_keys:
        return jax.random.bits(source, arg.shape)
    words = jax.random.bits(source, (*arg.shape, GENERATORS[program.kind]))
    return jax.random.wrap_key_data(words, impl=_impl(program.kind))


def finished(closed, arguments):
    """The results of a program, equation by equation; a sum over clients is that of one client."""
    world, answer = run(closed, arguments), None
    try:
        while True:
            message = world.send(answer)
            answer = list(message.values[1]) if message.kind in SENT else local(message)
    except StopIteration as end:
        return end.value


def used(program, closed, arguments):
    """The words of all keys of a run of a traced probe, by use."""
    outs = finished(closed, arguments)
    width = 1 + GENERATORS[program.kind]
    rows = [row for out in outs for row in np.asarray(out).reshape(-1, width)]
    return {
        use: [tuple(row[1:].tolist()) for row in rows if row[0] == use]
        for use in (NOISE, OTHER, SHOWN)
    }


@functools.cache
def _children(kind):
    """A function from the words of keys to those of their first children."""
    impl = _impl(kind)

    @jax.jit
    def children(words):
        keys = jax.random.wrap_key_data(words, impl=impl)
        made = [jax.vmap(lambda k, i=i: jax.random.fold_in(k, i))(keys) for i in range(5)]
        if kind != "fry":
            made += [jax.vmap(lambda k, n=n: jax.random.split(k, n))(keys) for n in (2, 3)]
        flat = [jax.random.key_data(k).reshape(-1, words.shape[-1]) for k in made]
        return jnp.concatenate(flat)

    return children


def descendants(words, kind, depth):
    """The words of children, of their children, and so on."""
    found, level = set(), list(words)
    for _ in range(depth):
        level = level[:128]
        if not level:
            break
        size = next(n for n in (8, 32, 128) if len(level) <= n)
        padded = np.array([*level, *[level[0]] * size][:size], np.uint32)
        made = {tuple(row) for row in np.asarray(_children(kind)(padded)).tolist()}
        level = list(made - found)
        found |= made
    return found


def flaw(program):
    """What is wrong with the noise keys of one run; nothing if the noise hides what it should."""
    closed = jax.make_jaxpr(program.probe)(*values(program, 1, 2, 3))
    seen = lambda *seeds: used(program, closed, values(program, *seeds))
    base = seen(1, 2, 3)
    noise, shown = base[NOISE], [*base[OTHER], *base[SHOWN]]
    if len(set(noise)) < len(noise):
        return "two noises of one key"
    if set(noise) & set(shown):
        return "a noise key is used for something else"
    other_secret = (1, 9, 3) if program.at_clients else (8, 2, 3)
    if set(noise) & set(seen(*other_secret)[NOISE]):
        return "a noise key holds no secret of its holder"
    if not program.at_clients and set(noise) != set(seen(1, 2, 4)[NOISE]):
        return "a noise key depends on exact sums"
    if program.kind != "urbg" and descendants(noise, program.kind, 2) & {*noise, *shown}:
        return "a child of a noise key is used"
    if descendants(shown, program.kind, 3) & set(noise):
        return "a noise key is the child of a key that is shown or drawn from"
    return ""


def covariance(program, runs=400):
    """That of all released noise, over the secret keys, in units of the deviation that was drawn."""
    traced = jax.make_jaxpr(program)(*values(program, 1, 2, 3))
    fun = jax.jit(lambda *v: [
        jnp.ravel(out) for out in jax.core.eval_jaxpr(traced.jaxpr, traced.consts, *v)
        if out.shape[-1:] == (3,) and jnp.issubdtype(out.dtype, jnp.floating)
    ])  # fmt: skip
    released = [np.concatenate(fun(*values(program, k, 1000 + k, 3))) for k in range(runs)]
    scale = np.sqrt(N) / 1.2 if program.at_clients else N
    return np.cov(np.asarray(released, np.float64).T * scale)
