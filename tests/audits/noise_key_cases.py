"""Noise and its keys, in the spellings of users: known to others, repeated, renamed, and honest ones.

Each case is a name, the rule that must be among the findings ("" for an honest program), the names
of its arguments, and the program.
"""

import jax
import jax.numpy as jnp
from jax import lax

import audits
import secfad as fad

N = 6
ARGS = {
    "x": audits.Arg("x", (N, 3), "float32", "clients"),
    "v": audits.Arg("v", (3,), "float32", "clients"),
    "ids": audits.Arg("ids", (N,), "int32", "clients"),
    "id": audits.Arg("id", (), "int32", "clients"),
    "key": audits.Arg("key", (), "key<fry>", "server_key"),
    "rbg": audits.Arg("rbg", (), "key<rbg>", "server_key"),
    "urbg": audits.Arg("urbg", (), "key<urbg>", "server_key"),
    "many": audits.Arg("many", (4,), "key<fry>", "server_key"),
    "words": audits.Arg("words", (2,), "uint32", "server_key"),
    "seed": audits.Arg("seed", (), "uint32", "server_key"),
    "raw": audits.Arg("raw", (2,), "uint32", "server"),
    "keys": audits.Arg("keys", (N,), "key<fry>", "client_key"),
    "rbgs": audits.Arg("rbgs", (N,), "key<rbg>", "client_key"),
    "urbgs": audits.Arg("urbgs", (N,), "key<urbg>", "client_key"),
    "pairs": audits.Arg("pairs", (N, 2), "uint32", "client_key"),
    "own": audits.Arg("own", (), "key<fry>", "client_key"),
    "own_rbg": audits.Arg("own_rbg", (), "key<rbg>", "client_key"),
    "t": audits.Arg("t", (), "int32", "server"),
    "u": audits.Arg("u", (), "int32", "server"),
    "flag": audits.Arg("flag", (), "bool", "server"),
}
R, W, D = jax.random, jax.random.wrap_key_data, jax.random.key_data
CASES: list[tuple] = []


def case(rule, *names, style="stacked", name=None):
    """Adds the program below to the cases."""

    def add(fn):
        CASES.append((name or fn.__name__, rule, style, tuple(ARGS[n] for n in names), fn))
        return fn

    return add


def total(x):
    return jnp.sum(jax.vmap(lambda v: fad.clip(v, 1.0))(x), axis=0)


def normal(key):
    return R.normal(key, (3,))


def tail(key, x):
    return (total(x) + normal(key)) / N


def noisy(key, v):
    return fad.clip(v, 1.0) + 0.6 * normal(key)


def over(f, *a):
    return jnp.sum(jax.vmap(f)(*a), axis=0)


def words_of(v):
    return lax.bitcast_convert_type(v[:2], jnp.uint32)


# The key of a client's noise, as the clients have it from: a key of their own, a copy of a key of the
# server, their id, their data.

KNOWN = {
    "a copy of the server's key": lambda k, s, i, v: s,
    "the copy and an id": lambda k, s, i, v: R.fold_in(s, i),
    "the copy, split, and an id": lambda k, s, i, v: R.fold_in(R.split(s)[1], i),
    "one of many children, by id": lambda k, s, i, v: R.split(s, 8)[i],
    "an id": lambda k, s, i, v: R.key(i),
    "an id and a constant": lambda k, s, i, v: R.fold_in(R.key(0), i),
    "data": lambda k, s, i, v: W(words_of(v)),
    "data, folded": lambda k, s, i, v: R.fold_in(s, words_of(v)[0]),
    "own key times zero": lambda k, s, i, v: W(D(k) * jnp.uint32(0)),
    "own key and not itself": lambda k, s, i, v: W(D(k) ^ D(k)),
    "the first word twice": lambda k, s, i, v: W(jnp.stack([D(k)[0], D(k)[0]])),
    "a few bits of the own key": lambda k, s, i, v: R.key(D(k)[1] & 7),
    "the larger of own and constant": lambda k, s, i, v: W(
        jnp.maximum(D(k), jnp.uint32(2**32 - 1))
    ),
    "own, chosen never": lambda k, s, i, v: jnp.where(i < 0, k, s),
    "own, chosen by a branch": lambda k, s, i, v: lax.cond(i > 0, lambda: k, lambda: s),
    "a word of the own key as a number": lambda k, s, i, v: R.fold_in(s, D(k)[0]),
    "a few drawn bits": lambda k, s, i, v: R.fold_in(s, R.bits(k) & 1),
    "drawn bits as a float": lambda k, s, i, v: R.key(R.uniform(k).astype(jnp.int32)),
    "own key as float words": lambda k, s, i, v: W(D(k).astype(jnp.float32).astype(jnp.uint32)),
    "own key as small words": lambda k, s, i, v: W(D(k).astype(jnp.uint8).astype(jnp.uint32)),
    "sorted with a constant": lambda k, s, i, v: W(
        jnp.sort(jnp.append(D(k), jnp.zeros(2, "u4")))[:2]
    ),
    "put over by a constant": lambda k, s, i, v: W(D(k).at[:].set(3)),
}
OWN = {
    "itself": lambda k, s, i, v: k,
    "a child": lambda k, s, i, v: R.split(k, 3)[1],
    "an id folded in": lambda k, s, i, v: R.fold_in(k, i),
    "data folded in": lambda k, s, i, v: R.fold_in(k, words_of(v)[0]),
    "unwrapped and wrapped": lambda k, s, i, v: W(D(k)),
    "drawn bits folded in": lambda k, s, i, v: R.fold_in(s, R.bits(k)),
    "bits folded into a constant": lambda k, s, i, v: R.fold_in(R.key(0), R.bits(R.split(k)[0])),
    "cloned in a jit": lambda k, s, i, v: jax.jit(R.clone)(k),
    "one child by a key of shape": lambda k, s, i, v: R.split(k, (2, 2))[1, 0],
    "moved about": lambda k, s, i, v: jnp.stack([s, k])[::-1][0].reshape(1)[0],
}
for _table, _rule in ((KNOWN, "FAD503"), (OWN, "")):
    for _name, _pick in _table.items():

        def _stacked(keys, key, ids, x, pick=_pick):
            client = lambda k, s, i, v: noisy(pick(k, s, i, v), v)
            return over(client, keys, jnp.broadcast_to(key, (N,)), ids, x)

        def _native(own, key, id_, v, pick=_pick):
            k = pick(own, fad.broadcast(key), id_, v)
            return fad.sum(fad.clip(v, 1.0) + 2.0 * normal(k))

        case(_rule, "keys", "key", "ids", "x", name=f"client: {_name}")(_stacked)
        case(_rule, "own", "key", "id", "v", style="native", name=f"native client: {_name}")(
            _native
        )


@case("FAD504", "keys", "x")
def client_sends_its_key(keys, x):
    shown = over(lambda k: jnp.tanh(D(k).astype(jnp.float32)), keys)
    return over(noisy, keys, x), shown


@case("FAD504", "keys", "x")
def client_masks_with_the_bits_that_seed_the_noise(keys, x):
    def client(k, v):
        bits = R.bits(k)
        masked = jnp.where(bits > 5, v, 0.0)
        return fad.clip(masked, 1.0) + 0.6 * normal(R.fold_in(R.key(0), bits))

    return over(client, keys, x)


@case("FAD501", "keys", "x")
def two_noises_of_one_client_key(keys, x):
    return over(noisy, keys, x), over(noisy, keys, 0.5 * x)


@case("FAD501", "keys", "x")
def noise_of_a_key_and_of_its_bits(keys, x):
    again = jax.vmap(lambda k: R.fold_in(R.key(0), R.bits(k)))(keys)
    return over(noisy, keys, x), over(noisy, again, 0.5 * x)


# The key of the server's noise.

PREDICTABLE = {
    "a constant": lambda key, raw, t, s: R.key(0),
    "the round": lambda key, raw, t, s: R.key(t),
    "a constant and the round": lambda key, raw, t, s: R.fold_in(R.key(0), t),
    "a child of a constant": lambda key, raw, t, s: R.split(R.key(3), 5)[t],
    "words that are not a key": lambda key, raw, t, s: W(raw),
    "a fold of such words": lambda key, raw, t, s: R.fold_in(W(raw), t),
    "the key times zero": lambda key, raw, t, s: W(D(key) * jnp.uint32(0)),
    "the key shifted away": lambda key, raw, t, s: W(D(key) >> 31),
    "a key and a constant, chosen": lambda key, raw, t, s: jnp.where(t > 0, key, R.key(0)),
    "a branch with a constant": lambda key, raw, t, s: lax.cond(
        t > 0, lambda: key, lambda: R.key(1)
    ),
    "words of both": lambda key, raw, t, s: W(jnp.stack([D(key)[0], raw[1]])),
    "a seed of a word": lambda key, raw, t, s: R.key(D(key)[0]),
    "out of range": lambda key, raw, t, s: jnp.take(
        R.split(key), t + 7, mode="fill", fill_value=None
    ),
    "the exact sum": lambda key, raw, t, s: W(words_of(s)),
    "the exact sum, folded": lambda key, raw, t, s: R.fold_in(R.key(0), words_of(s)[0]),
    "a minimum with a constant": lambda key, raw, t, s: W(jnp.minimum(D(key), jnp.uint32(1))),
    "a carry that is overwritten": lambda key, raw, t, s: lax.fori_loop(
        0, 3, lambda _, k: R.fold_in(R.key(0), t), key
    ),
    "a key that a loop wears off": lambda key, raw, t, s: W(
        lax.fori_loop(0, 40, lambda _, w: w >> 1, D(key))
    ),
    "scattered into a constant": lambda key, raw, t, s: W(jnp.zeros(2, "u4").at[9].set(D(key)[0])),
}
for _name, _pick in PREDICTABLE.items():

    def _server(key, raw, t, x, pick=_pick):
        s = total(x)
        return (s + normal(pick(key, raw, t, s))) / N

    case("FAD505", "key", "raw", "t", "x", name=f"server: {_name}")(_server)


@case("FAD504", "key", "x")
def secret_key_and_the_exact_sum(key, x):
    s = total(x)
    return (s + normal(R.fold_in(key, words_of(s)[0]))) / N


@case("FAD504", "key", "x")
def secret_key_chosen_by_the_exact_sum(key, x):
    s = total(x)
    return (s + normal(lax.cond(s[0] > 0, lambda: R.split(key)[0], lambda: R.split(key)[1]))) / N


@case("FAD504", "key", "v", style="native")
def native_key_of_the_exact_sum(key, v):
    s = fad.sum(fad.clip(v, 1.0))
    return (s + normal(R.fold_in(key, words_of(s)[0]))) * 0.1


# One key in every iteration.


def rounds(pick, rows=None):
    def program(key, x):
        def step(c, t):
            return c * 0.5, tail(pick(key, t), x * c)

        xs = jnp.arange(4) if rows is None else rows(key)
        return lax.scan(step, jnp.float32(1.0), xs)[1]

    return program


def carried(following, used=lambda ks: ks[0], start=lambda k: (k,), length=4):
    def program(key, x):
        def step(carry, _):
            scale, ks = carry
            return (scale * 0.5, following(ks)), tail(used(ks), x * scale)

        return lax.scan(step, (jnp.float32(1.0), start(key)), None, length=length)[1]

    return program


def drawn_before(key, x):
    z = normal(key)
    return lax.scan(lambda c, _: (c * 0.5, (total(x * c) + z) / N), 1.0, None, length=4)[1]


def nested(pick):
    def program(key, x):
        def outer(c, t):
            def inner(c, u):
                return c * 0.5, tail(pick(key, t, u), x * c)

            return lax.scan(inner, c, jnp.arange(3))

        return lax.scan(outer, jnp.float32(1.0), jnp.arange(2))[1]

    return program


def whiled(pick, following=lambda k: k):
    def program(key, x):
        def body(carry):
            t, k, w = carry
            return t + 1, following(k), w - tail(pick(k, t), x - w)

        return lax.while_loop(lambda c: c[0] < 4, body, (0, key, jnp.zeros(3)))[2]

    return program


REPEATED = {
    "the key itself": rounds(lambda k, t: k),
    "a child": rounds(lambda k, t: R.split(k)[0]),
    "a fold of a constant": rounds(lambda k, t: R.fold_in(k, 0)),
    "a fold of half the counter": rounds(lambda k, t: R.fold_in(k, t // 2)),
    "a fold of the parity": rounds(lambda k, t: R.fold_in(k, t % 2)),
    "a fold of zero times the counter": rounds(lambda k, t: R.fold_in(k, 0 * t)),
    "a fold of a square": rounds(lambda k, t: R.fold_in(k, (t - 2) ** 2)),
    "a fold of a bounded counter": rounds(lambda k, t: R.fold_in(k, jnp.minimum(t, 1))),
    "a fold of few bits": rounds(lambda k, t: R.fold_in(k, (64 * t).astype(jnp.int8))),
    "a fold of a difference": rounds(lambda k, t: R.fold_in(k, t - t)),
    "a fold of a float": rounds(lambda k, t: R.fold_in(k, (t * 0.4).astype(jnp.int32))),
    "the first of many": rounds(lambda k, t: R.split(k, 4)[0 * t]),
    "a position out of range": rounds(lambda k, t: R.split(k, 2)[jnp.clip(t, 0, 1)]),
    "a clamped position": rounds(
        lambda k, t: lax.dynamic_index_in_dim(R.split(k), t, keepdims=False)
    ),
    "rows that are copies": rounds(lambda k, t: t, lambda k: jnp.broadcast_to(k, (4,))),
    "rows that are stacked copies": rounds(lambda k, t: t, lambda k: jnp.stack([k] * 4)),
    "rows, one of them twice": rounds(
        lambda k, t: t, lambda k: jnp.concatenate([R.split(k, 4)[:2], R.split(k, 4)[1:3]])
    ),
    "rows that are gathered once": rounds(
        lambda k, t: t, lambda k: R.split(k, 4)[jnp.zeros(4, "i4")]
    ),
    "rows and one of their children": rounds(
        lambda k, t: t, lambda k: jnp.stack([k, R.split(k)[0], R.split(k)[1], R.fold_in(k, 9)])
    ),
    "rows that come twice": rounds(lambda k, t: t, lambda k: jnp.concatenate([R.split(k)] * 2)),
    "numbers with a repetition": rounds(
        lambda k, t: R.fold_in(k, t), lambda k: jnp.concatenate([jnp.arange(2), jnp.arange(2)])
    ),
    "words of copies": rounds(lambda k, t: W(t), lambda k: jnp.broadcast_to(D(k), (4, 2))),
    "drawn before the loop": drawn_before,
    "carried as it is": carried(lambda ks: ks),
    "carried as a clone": carried(lambda ks: (R.clone(ks[0]),)),
    "carried and wrapped again": carried(lambda ks: (W(D(ks[0])),)),
    "carried and reshaped": carried(lambda ks: (ks[0].reshape(1)[0],)),
    "carried and used before it is split": carried(lambda ks: (R.split(ks[0])[0],)),
    "the carry that comes next": carried(
        lambda ks: (R.split(ks[0])[0],), lambda ks: R.split(ks[0])[0]
    ),
    "carried and folded, child used": carried(
        lambda ks: (R.fold_in(ks[0], 3),), lambda ks: R.fold_in(R.fold_in(ks[0], 3), 3)
    ),
    "carried and swapped": carried(lambda ks: ks[::-1], start=lambda k: tuple(R.split(k))),
    "carried in a circle": carried(
        lambda ks: (*ks[1:], ks[0]), start=lambda k: tuple(R.split(k, 3)), length=7
    ),
    "carried as an array that turns": carried(
        lambda ks: (jnp.roll(ks[0], 1, axis=0),), lambda ks: ks[0][0], lambda k: (R.split(k),)
    ),
    "carried and set back": carried(
        lambda ks: (lax.cond(jnp.bool_(True), lambda: ks[1], lambda: R.split(ks[0])[0]), ks[1]),
        start=lambda k: (k, k),
    ),
    "carried by split or fold": carried(
        lambda ks: (R.split(ks[0])[1],), lambda ks: R.fold_in(ks[0], 1)
    ),
    "the inner counter alone": nested(lambda k, t, u: R.fold_in(k, u)),
    "the outer counter alone": nested(lambda k, t, u: R.fold_in(k, t)),
    "the sum of both counters": nested(lambda k, t, u: R.fold_in(k, t + u)),
    "the same child, then the counter": nested(lambda k, t, u: R.fold_in(R.split(k)[0], u)),
    "while: the key itself": whiled(lambda k, t: k),
    "while: half the counter": whiled(lambda k, t: R.fold_in(k, t // 2)),
    "while: carried and used": whiled(lambda k, t: k, lambda k: R.split(k)[0]),
    "while: a child of a carried constant": whiled(lambda k, t: R.split(k)[1]),
}
for _name, _fn in REPEATED.items():
    case("FAD501", "key", "x", name=f"loop: {_name}")(_fn)


@case("FAD501", "keys", "x")
def own_key_in_every_round(keys, x):
    step = lambda w, _: (w - over(lambda k, v: noisy(k, v - w), keys, x) / N, None)
    return lax.scan(step, jnp.zeros(3), None, length=3)[0]


@case("FAD501", "key", "v", style="native")
def native_child_in_every_round(key, v):
    def step(c, _):
        s = fad.sum(fad.clip(v * fad.broadcast(c), 1.0))
        return c * 0.5, (s + normal(R.split(key)[0])) * 0.1

    return lax.scan(step, jnp.float32(1.0), None, length=4)[1]


@case("FAD501", "rbg", "x")
def mapped_draw_that_uses_its_first_key_alone(rbg, x):
    # A mapped draw of this generator draws all rows from the first key.
    first, rest = R.split(rbg)

    def step(c, k):
        z = jax.vmap(lambda k: R.normal(k))(jnp.stack([first, *R.split(k)]))
        return c * 0.5, (total(x * c) + z) / N

    return lax.scan(step, jnp.float32(1.0), R.split(rest, 4))[1]


@case("FAD505", "rbg", "x")
def mapped_bits_that_come_from_a_constant_key(rbg, x):
    bits = jax.vmap(R.bits)(jnp.stack([R.key(0, impl="rbg"), rbg]))
    return tail(R.fold_in(R.key(1), bits[1]), x)


@case("FAD501", "urbg", "x")
def folds_that_cancel(urbg, x):
    one = R.fold_in(R.fold_in(urbg, 1), 2)
    other = R.fold_in(R.fold_in(urbg, 2), 1)
    return tail(one, x), tail(other, 0.5 * x)


# Two names of one key.

TWO = {
    "the key twice": lambda k, t, u: (k, k),
    "two splits": lambda k, t, u: (R.split(k)[0], R.split(k, 3)[0]),
    "two equal splits": lambda k, t, u: (R.split(k)[1], R.split(k)[1]),
    "a split and a fold": lambda k, t, u: (R.split(k)[0], R.fold_in(k, 0)),
    "a split of shape and a fold": lambda k, t, u: (R.split(k, (2, 2))[1, 0], R.fold_in(k, 2)),
    "folds of two numbers": lambda k, t, u: (R.fold_in(k, t), R.fold_in(k, u)),
    "folds of one number in two ways": lambda k, t, u: (R.fold_in(k, t), R.fold_in(k, t + u - u)),
    "a fold and a constant": lambda k, t, u: (R.fold_in(k, t), R.fold_in(k, 2)),
    "a position and a constant": lambda k, t, u: (R.split(k, 4)[t], R.split(k, 4)[2]),
    "two positions": lambda k, t, u: (R.split(k, 4)[t], R.split(k, 4)[u]),
    "a wrapped number": lambda k, t, u: (
        R.fold_in(k, jnp.int32(-1)),
        R.fold_in(k, jnp.uint32(2**32 - 1)),
    ),
    "a wrapped word": lambda k, t, u: (W(D(k)), k),
    "words in a new order": lambda k, t, u: (W(D(k)[::-1]), R.clone(k)),
    "words plus nothing": lambda k, t, u: (W(D(k) + jnp.uint32(0)), k),
    "a key and its child": lambda k, t, u: (k, R.split(k)[0]),
    "a key and its grandchild": lambda k, t, u: (R.fold_in(k, 1), R.split(R.fold_in(k, 1))[1]),
    "a branch of equals": lambda k, t, u: (lax.cond(t > 0, lambda: k, lambda: R.fold_in(k, 1)), k),
    "a choice": lambda k, t, u: (
        jnp.where(t > 0, R.fold_in(k, 1), R.fold_in(k, 2)),
        R.fold_in(k, 1),
    ),
    "stacked and taken back": lambda k, t, u: (jnp.stack([R.fold_in(k, 1), k])[1], k),
    "in a jit": lambda k, t, u: (jax.jit(lambda q: R.split(q)[0])(k), R.split(k)[0]),
    "folds in a loop": lambda k, t, u: (
        lax.fori_loop(0, 2, lambda _, q: R.fold_in(q, 0), k),
        R.fold_in(R.fold_in(k, 0), 0),
    ),
    "folds in two loops": lambda k, t, u: tuple(
        lax.fori_loop(0, n, lambda _, q: R.split(q)[0], k) for n in (2, 3)
    ),
}
for _name, _pair in TWO.items():

    def _pairs(key, t, u, x, pair=_pair):
        one, other = pair(key, t, u)
        return tail(one, x), tail(other, 0.5 * x)

    case("FAD501", "key", "t", "u", "x", name=f"two: {_name}")(_pairs)


@case("FAD504", "key", "x")
def returned_child_of_the_noise_key(key, x):
    return tail(key, x), R.split(key)[0]


@case("FAD504", "key", "x")
def returned_parent(key, x):
    return tail(R.split(key)[1], x), D(key)


@case("FAD504", "key", "x")
def parent_returned_as_floats(key, x):
    return tail(R.fold_in(key, 3), x), D(key).astype(jnp.float32)


@case("FAD504", "key", "x")
def gamma_of_the_noise_key(key, x):
    return tail(key, x), R.gamma(key, jnp.ones(3))


@case("FAD504", "key", "x")
def gamma_of_a_child(key, x):
    one, _ = R.split(key)
    return tail(one, x), jax.lax.stop_gradient(R.gamma(one, 2.0))


@case("FAD501", "key", "x")
def noise_scaled_by_a_gamma_of_its_key(key, x):
    return total(x) + R.gamma(key, 9.0) * normal(key)


@case("FAD501", "urbg", "x")
def mapped_splits_of_the_third_generator(urbg, x):
    first, second = R.split(urbg)
    one = jax.vmap(R.split)(jnp.stack([first, first]))
    other = jax.vmap(R.split)(jnp.stack([first, second]))
    return total(x) + normal(one[1, 0]), total(2 * x) + normal(other[1, 0])


@case("FAD501", "key", "x")
def one_key_of_a_table(key, x):
    table = R.split(key, (2, 3))
    at = [lax.iota("int32", 2)[1], lax.iota("int32", 2)[0]]
    picked = lax.dynamic_slice(table, at[::-1], (1, 1)).reshape(())
    return total(x) + normal(picked), total(2 * x) + normal(table[0, 1])


@case("FAD501", "key", "x")
def folds_of_a_number_minus_the_counter(key, x):
    def step(c, i):
        return c + total(x) + normal(R.fold_in(key, 20 - i)), None

    last = jax.lax.fori_loop(20, 23, lambda i, c: step(c, i)[0], jnp.zeros(3))
    return last, total(2 * x) + normal(R.fold_in(key, jnp.uint32(2**32 - 1)))


@case("FAD504", "key", "x")
def other_draw_of_a_fold_that_may_be_the_split(key, x):
    return tail(R.split(key)[1], x), R.uniform(R.fold_in(key, 1), (3,))


@case("FAD502", "key", "x")
def parent_sent_to_clients(key, x):
    here, there = R.split(key)
    mask = jax.vmap(lambda k: R.bernoulli(R.fold_in(k, 1), 0.5, (3,)))(
        jnp.broadcast_to(there, (N,))
    )
    return (total(jnp.where(mask, x, 0.0)) + normal(R.fold_in(there, 2))) / N, tail(here, x)


@case("FAD501", "key", "x")
def draw_split_off_twice(key, x):
    sub = R.split(key)[1]
    following = R.split(key)[0]
    z = normal(sub)
    return (total(x) + z) / N, (total(0.5 * x) + z) / N, following


@case("FAD504", "key", "x")
def state_of_a_loop_before_its_last_split(key, x):
    def step(carry, _):
        k, c = carry
        k, sub = R.split(k)
        return (k, c * 0.5), (tail(sub, x * c), D(k))

    return lax.scan(step, (key, jnp.float32(1.0)), None, length=3)


def split_rounds(key, scale, x, length=3):
    def step(carry, _):
        k, sub = R.split(carry[0])
        return (k, carry[1] * 0.5), tail(sub, x * carry[1])

    return lax.scan(step, (key, jnp.float32(scale)), None, length=length)


@case("FAD501", "key", "x")
def two_loops_from_one_key(key, x):
    return split_rounds(key, 1.0, x)[1], split_rounds(key, 0.3, x, 2)[1]


@case("FAD501", "key", "x")
def loop_that_goes_on_and_a_draw_from_where_it_began(key, x):
    (k, c), first = split_rounds(key, 1.0, x)
    return first, tail(R.split(k)[1], x), split_rounds(k, c, x)[1]


@case("FAD501", "key", "x")
def inner_loop_begins_again(key, x):
    outer = lambda c, _: (c * 0.5, split_rounds(key, c, x)[1])
    return lax.scan(outer, jnp.float32(1.0), None, length=3)[1]


@case("FAD501", "key", "x")
def inner_loop_begins_one_split_later(key, x):
    outer = lambda k, _: (R.split(k)[0], split_rounds(k, 1.0, x)[1])
    return lax.scan(outer, key, None, length=3)[1]


@case("FAD501", "key", "x")
def predicate_draws_from_the_last_carry(key, x):
    go_on = lambda carry: R.uniform(R.fold_in(carry[0], 5)) < 0.9
    k, count = lax.while_loop(go_on, lambda c: (R.fold_in(c[0], 1), c[1] + 1), (key, 0))
    return tail(R.fold_in(k, 5), x), count


COUNTERS = {
    "two counters": (lambda i, j: (i + 1, j + 2), (0, 0), lambda k: (k, k)),
    "a counter that starts again": (
        lambda i, j: (jnp.where(i > 1, 0, i + 1), j + 1),
        (0, 0),
        R.split,
    ),
    "a counter of eight bits": (lambda i, j: (i + jnp.uint8(1), j + 1), (jnp.uint8(0), 0), R.split),
    "a step that wraps": (lambda i, j: (i + jnp.uint32(2**31), j + 1), (jnp.uint32(0), 0), R.split),
    "counters that are exchanged": (lambda i, j: (j + 1, i + 1), (0, 1), R.split),
    "a counter plus nothing": (lambda i, j: (i + 0, j + 1), (0, 0), R.split),
    "a number of the other counter": (lambda i, j: (j + 1, j - j), (0, 0), R.split),
}
for _name, (_step, _start, _two) in COUNTERS.items():

    def _counted(key, x, step=_step, start=_start, two=_two):
        one, other = two(key)

        def body(carry, _):
            (i, j), c = carry
            out = tail(R.fold_in(one, i), x * c), tail(R.fold_in(other, j), x * c)
            return (step(i, j), c * 0.5), out

        return lax.scan(body, (start, jnp.float32(1.0)), None, length=300)[1]

    case("FAD501", "key", "x", name=f"loop: {_name}")(_counted)


def _honest_counters(key, x):
    one, other = R.split(key)

    def body(carry, _):
        (i, j), c = carry
        out = tail(R.fold_in(one, i), x * c), tail(R.fold_in(other, j), x * c)
        return ((i + 1, j - 3), c * 0.5), out

    return lax.scan(body, ((0, 0), jnp.float32(1.0)), None, length=300)[1]


case("", "key", "x", name="counters up and down")(_honest_counters)
case("FAD501", "key", "x", name="loop: a fold of eight bits of the counter")(
    rounds(lambda k, t: R.fold_in(k, t.astype(jnp.int8)), lambda k: jnp.arange(300))
)
case("FAD501", "key", "flag", "x", name="loop: a fold of this counter or the next")(
    lambda key, flag, x: rounds(
        lambda k, t: lax.cond(flag, lambda: R.fold_in(k, t), lambda: R.fold_in(k, t + 1))
    )(key, x)
)


@case("FAD501", "key", "x")
def one_key_in_two_carries_that_are_drawn_together(key, x):
    def step(carry, _):
        a, b, c = carry
        z = jax.vmap(R.normal)(jnp.stack([R.split(a)[1], R.split(b)[1]]))
        out = (jnp.sum(jax.vmap(lambda v: fad.clip(v[:2], 1.0))(x * c), axis=0) + z) / N
        return (R.split(a)[0], R.split(b)[0], c * 0.5), out

    return lax.scan(step, (key, key, jnp.float32(1.0)), None, length=3)[1]


@case("FAD501", "key", "x")
def number_that_wraps(key, x):
    below = jnp.arange(1)[0] - 1
    return tail(R.fold_in(key, below), x), tail(R.fold_in(key, jnp.uint32(2**32 - 1)), 0.5 * x)


@case("FAD504", "key", "x")
def other_draws_of_a_loop_reach_the_noise_key(key, x):
    step = lambda k, _: (R.split(k)[0], R.uniform(R.split(k)[1], (3,)))
    return tail(R.split(R.split(key)[0])[1], x), lax.scan(step, key, None, length=3)[1]


@case("FAD504", "key", "x")
def draw_seeded_by_a_word_of_the_noise_key(key, x):
    return tail(key, x), R.uniform(R.fold_in(R.key(0), D(key)[1]), (3,))


@case("FAD504", "key", "many", "x")
def returned_key_that_a_bit_of_the_noise_key_chose(key, many, x):
    chosen = lax.cond(D(key)[0] > 5, lambda: many[0], lambda: many[1])
    return tail(key, x), D(chosen)


@case("FAD504", "key", "flag", "x")
def noise_returned_in_one_branch(key, flag, x):
    shown = lax.cond(flag, lambda: R.uniform(key, (3,)), lambda: jnp.zeros(3))
    return tail(key, x), shown


@case("FAD406", "key", "x")
def noise_rounded_to_integers(key, x):
    z = normal(key).astype(jnp.int32).astype(jnp.float32)
    return (total(x) + z) / N


@case("FAD501", "key", "x")
def counter_folded_into_a_carry_and_used(key, x):
    def step(carry, t):
        k, c = carry
        return (R.fold_in(k, t), c * 0.5), tail(R.fold_in(k, t), x * c)

    return lax.scan(step, (key, jnp.float32(1.0)), jnp.arange(4))[1]


@case("FAD501", "key", "x")
def carries_that_come_from_one(key, x):
    def step(carry, _):
        a, b, c = carry
        return (R.split(b)[0], R.split(b)[0], c * 0.5), tail(R.split(a)[1], x * c)

    return lax.scan(step, (*R.split(key), jnp.float32(1.0)), None, length=3)[1]


@case("FAD501", "key", "x")
def one_key_in_two_branches(key, x):
    draw = lambda k: tail(k, x)
    return lax.cond(True, draw, draw, key), lax.cond(False, draw, draw, key)


@case("FAD501", "key", "x")
def custom_rule_with_a_key(key, x):
    @jax.custom_jvp
    def draw(k):
        return normal(k)

    draw.defjvp(lambda p, t: (draw(*p), jnp.zeros(3)))
    return (total(x) + draw(key)) / N, (total(0.5 * x) + draw(key)) / N


@case("FAD501", "keys", "x")
def own_key_and_its_child(keys, x):
    return over(noisy, keys, x), over(noisy, jax.vmap(lambda k: R.split(k)[0])(keys), 0.5 * x)


@case("FAD501", "keys", "x")
def bits_folded_into_two_constants(keys, x):
    def client(k, v):
        bits = R.bits(k)
        return noisy(R.fold_in(R.key(0), bits), v), noisy(R.fold_in(R.key(1), bits), 0.5 * v)

    one, other = jax.vmap(client)(keys, x)
    return jnp.sum(one, axis=0), jnp.sum(other, axis=0)


@case("FAD504", "key", "x")
def position_chosen_by_the_exact_sum(key, x):
    s = total(x)
    return (s + normal(R.split(key, 4)[jnp.argmax(jnp.abs(s))])) / N


# Honest spellings.


@case("", "key", "x")
def rows_of_a_split(key, x):
    return rounds(lambda k, t: t, lambda k: R.split(k, 4))(key, x)


@case("", "key", "x")
def key_carried_and_returned(key, x):
    def step(carry, _):
        k, sub = R.split(carry[0])
        return (k, carry[1] * 0.5), tail(sub, x * carry[1])

    return lax.scan(step, (key, jnp.float32(1.0)), None, length=4)


@case("", "words", "x")
def words_carried_and_returned(words, x):
    return key_carried_and_returned(words, x)


@case("", "rbg", "x")
def another_generator_carried(rbg, x):
    return key_carried_and_returned(rbg, x)


@case("", "urbg", "x")
def third_generator_carried(urbg, x):
    return key_carried_and_returned(urbg, x)


@case("", "key", "x")
def key_used_after_its_loop(key, x):
    (k, c), out = key_carried_and_returned(key, x)
    k, sub = R.split(k)
    return out, tail(sub, x * c), k


@case("", "key", "x")
def two_noises_per_round(key, x):
    def step(carry, _):
        k, a, b = R.split(carry[0], 3)
        c = carry[1]
        return (k, c * 0.5), (tail(a, x * c), tail(b, x * c * 0.3))

    return lax.scan(step, (key, jnp.float32(1.0)), None, length=4)[1]


case("", "key", "x", name="counter")(rounds(lambda k, t: R.fold_in(k, t)))
case("", "key", "x", name="counter plus a constant")(rounds(lambda k, t: R.fold_in(k, t + 7)))
case("", "key", "x", name="position")(rounds(lambda k, t: R.split(k, 4)[t]))
case("", "key", "x", name="position from behind")(
    rounds(lambda k, t: R.split(k, 4)[t], lambda k: jnp.arange(4)[::-1])
)
case("", "key", "x", name="numbers of a table")(
    rounds(
        lambda k, t: R.fold_in(k, t), lambda k: jnp.concatenate([jnp.arange(2) + 5, jnp.arange(2)])
    )
)
case("", "key", "x", name="many rounds")(rounds(lambda k, t: t, lambda k: R.split(k, 5000)))
case("", "key", "x", name="both counters")(nested(lambda k, t, u: R.fold_in(R.fold_in(k, t), u)))
case("", "key", "x", name="while: counter")(whiled(lambda k, t: R.fold_in(k, t)))
case("", "key", "x", name="while: carried")(
    whiled(lambda k, t: R.split(k)[1], lambda k: R.split(k)[0])
)


@case("", "key", "x")
def counter_of_a_for_loop(key, x):
    keys = R.split(key, 4)
    return lax.fori_loop(0, 4, lambda i, w: w - tail(keys[i], x - w), jnp.zeros(3))


@case("", "key", "x")
def folds_of_a_for_loop_and_one_after_it(key, x):
    step = lambda i, w: w - tail(R.fold_in(key, i), x - w)
    w = lax.fori_loop(0, 4, step, jnp.zeros(3))
    return w - tail(R.fold_in(key, 4), x - w)


@case("", "key", "x")
def pairs_of_keys_as_rows(key, x):
    step = lambda w, k: (w - tail(k[0], x - w) - tail(k[1], x * 0.1), None)
    return lax.scan(step, jnp.zeros(3), R.split(key, (3, 2)))[0]


@case("", "key", "x")
def rows_that_are_split_again(key, x):
    step = lambda w, k: (w - tail(k[0], x - w) - tail(k[1], x * 0.1), None)
    return lax.scan(step, jnp.zeros(3), jax.vmap(R.split)(R.split(key, 3)))[0]


@case("", "key", "x")
def loop_in_a_loop(key, x):
    inner = lambda w, k: (w - tail(k, x - w), None)
    outer = lambda w, k: (lax.scan(inner, w, R.split(k, 3))[0], None)
    return lax.scan(outer, jnp.zeros(3), R.split(key, 4))[0]


@case("", "key", "x")
def carried_through_two_loops(key, x):
    def inner(carry, _):
        k, sub = R.split(carry[0])
        return (k, carry[1] - tail(sub, x - carry[1])), None

    outer = lambda carry, _: (lax.scan(inner, carry, None, length=3)[0], None)
    return lax.scan(outer, (key, jnp.zeros(3)), None, length=2)[0]


@case("", "keys", "x")
def own_keys_carried(keys, x):
    def step(carry, _):
        two = jax.vmap(R.split)(carry[0])
        w = carry[1]
        return (two[:, 0], w - over(lambda k, v: noisy(k, v - w), two[:, 1], x) / N), None

    return lax.scan(step, (keys, jnp.zeros(3)), None, length=3)[0][1]


@case("", "keys", "x")
def own_keys_and_the_round(keys, x):
    def step(w, t):
        return w - over(lambda k, v: noisy(R.fold_in(k, t), v - w), keys, x) / N, None

    return lax.scan(step, jnp.zeros(3), jnp.arange(3))[0]


@case("", "pairs", "x")
def own_words(pairs, x):
    return over(noisy, pairs, x)


# Bits that everyone knows.
FOLDED, FOLDED_IN_LOOP = (int(R.bits(k)) for k in (R.key(0), R.split(R.key(0))[1]))


@case("FAD504", "key", "v", style="native")
def fold_of_known_bits_is_shown(key, v):
    shown = R.key_data(R.fold_in(key, R.bits(R.key(0))))
    return fad.sum(fad.clip(v, 1.0)) + normal(R.fold_in(key, FOLDED)), shown


@case("FAD501", "key", "v", style="native")
def fold_of_known_bits_is_drawn_from(key, v):
    shown = normal(R.fold_in(key, R.bits(R.key(0))))
    return fad.sum(fad.clip(v, 1.0)) + normal(R.fold_in(key, FOLDED)), shown


@case("FAD501", "key", "x")
def fold_of_known_bits_in_a_loop(key, x):
    def step(k, _):
        k, sub = R.split(k)
        return k, normal(R.fold_in(key, R.bits(sub)))

    _, shown = lax.scan(step, R.key(0), length=2)
    return total(x) + normal(R.fold_in(key, FOLDED_IN_LOOP)), shown


@case("", "own_rbg", "v", style="native")
def own_key_of_another_generator(own_rbg, v):
    return fad.sum(noisy(own_rbg, v))


@case("FAD109", "rbgs", "x")
def own_keys_of_a_generator_that_draws_from_the_first(rbgs, x):
    return over(noisy, rbgs, x)


@case("", "keys", "x")
def own_mask_from_another_child(keys, x):
    def client(k, v):
        mask, noise = R.split(k)
        return noisy(noise, v * R.bernoulli(mask, 0.5, (3,)))

    return over(client, keys, x)


@case("", "many", "x")
def keys_as_an_argument(many, x):
    return lax.scan(lambda c, k: (c * 0.5, tail(k, x * c)), jnp.float32(1.0), many)[1]


@case("", "seed", "x")
def secret_seed(seed, x):
    return tail(R.key(seed), x)


@case("", "key", "t", "x")
def round_of_the_caller(key, t, x):
    return tail(R.fold_in(key, t), x)


@case("", "key", "x")
def keys_in_a_tree(key, x):
    values = {"a": x, "b": (x * 0.5, x * 0.1)}
    leaves, tree = jax.tree.flatten(values)
    keys = jax.tree.unflatten(tree, R.split(key, len(leaves)))
    return jax.tree.map(tail, keys, values)


@case("", "key", "x")
def mapped_draws(key, x):
    return (total(x) + jax.vmap(R.normal)(R.split(key, 3))) / N


@case("", "key", "x")
def mapped_folds(key, x):
    return (total(x) + jax.vmap(lambda i: R.normal(R.fold_in(key, i)))(jnp.arange(3))) / N


@case("", "key", "x")
def thirty_rounds_unrolled(key, x):
    found = []
    for _ in range(30):
        key, sub = R.split(key)
        found.append(tail(sub, x))
    return found, key
