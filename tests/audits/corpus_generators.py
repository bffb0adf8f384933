"""Random generators: JAX's own, and records of other functions that call themselves like one of them.

`SPY` is a generator whose draws, splits, folds and seeds hand the key to host Python; `SEEN` is what it
saw. `ZERO` draws one constant. Both have the name and the tag of JAX's default generator.
"""

import jax
import jax.numpy as jnp
import numpy as np
from corpus_cases import Case, N, V, X, guarded, recording
from jax import lax
from jax.extend import random as extended

import secfad as fad

CASES: list[Case] = []
case = recording(CASES)
SEEN: list = []
THREEFRY = extended.threefry_prng_impl


def generator(**changed):
    """JAX's default generator with some of its functions changed."""
    own = {
        "key_shape": (2,),
        "seed": THREEFRY.seed,
        "split": THREEFRY.split,
        "random_bits": THREEFRY.random_bits,
        "fold_in": THREEFRY.fold_in,
        "name": "threefry2x32",
        "tag": "fry",
    }
    return extended.define_prng_impl(**(own | changed))


def watched(fun):
    def look(key, *rest):
        jax.debug.callback(lambda a: SEEN.append(np.asarray(a)), key)
        return fun(key, *rest)

    return look


SPY = generator(
    random_bits=watched(THREEFRY.random_bits),
    split=watched(THREEFRY.split),
    fold_in=watched(THREEFRY.fold_in),
    seed=watched(THREEFRY.seed),
)
ZERO = generator(random_bits=lambda key, width, shape: jnp.full(shape, 1 << 31, jnp.uint32))
COPY = generator()
RENAMED = generator(name="mine", tag="mine")
RBG = extended.rbg_prng_impl
FALSE_RBG = extended.define_prng_impl(
    key_shape=(4,),
    seed=RBG.seed,
    split=RBG.split,
    random_bits=RBG.random_bits,
    fold_in=RBG.fold_in,
    name="rbg",
    tag="rbg",
)
SPY_DTYPE = jax.eval_shape(lambda: jax.random.key(0, impl=SPY)).dtype
SPY_KEY = ("key", (), "client_key", SPY_DTYPE)
SPY_KEYS = ("key", (N,), "client_key", SPY_DTYPE)
SERVER_SPY = ("key", (), "server_key", SPY_DTYPE)
CONSTANT = jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32), impl=SPY)
OWN_KEY = ("key", (), "client_key", "key<fry>")
NATIVE = {"style": "native"}


def words(v):
    """The bits of a client's data, as the words of a key."""
    return lax.bitcast_convert_type(v[:2], jnp.uint32)


def of(v, impl):
    return jax.random.wrap_key_data(words(v), impl=impl)


# Other generators.


@case("reject", "FAD002", args=[V], **NATIVE)
def draw_from_a_wrapped_key(v):
    return fad.sum(v + 0 * jax.random.bits(of(v, SPY), ()).astype(jnp.float32))


@case("reject", "FAD002", args=[V], **NATIVE)
def normal_draw(v):
    return fad.sum(v + jax.random.normal(of(v, SPY), (3,)))


@case("reject", "FAD002", args=[V], **NATIVE)
def split_of_a_key(v):
    return fad.sum(v * jax.random.split(of(v, SPY)).shape[0] + unwrapped(of(v, SPY)))


def unwrapped(key):
    return 0.0 * jnp.sum(jax.random.key_data(jax.random.split(key)).astype(jnp.float32))


@case("reject", "FAD002", args=[V], **NATIVE)
def fold_of_a_key(v):
    key = jax.random.fold_in(of(v, SPY), 3)
    return fad.sum(v + 0.0 * jax.random.key_data(key)[0].astype(jnp.float32))


@case("reject", "FAD002", args=[V], **NATIVE)
def seed_of_a_key(v):
    key = jax.random.key(words(v)[0].astype(jnp.int32), impl=SPY)
    return fad.sum(v + 0.0 * jax.random.key_data(key)[0].astype(jnp.float32))


@case("reject", "FAD002", args=[V], **NATIVE)
def key_that_is_only_wrapped(v):
    return fad.sum(v + 0.0 * jax.random.key_data(of(v, SPY))[0].astype(jnp.float32))


@case("reject", "FAD002", args=[V, SPY_KEY], **NATIVE)
def key_as_an_argument(v, key):
    return fad.sum(v + jax.random.normal(key, (3,)))


@case("reject", "FAD002", args=[V, SPY_KEY], **NATIVE)
def key_as_an_unused_argument(v, key):
    return fad.sum(v)


@case("reject", "FAD002", args=[V, SERVER_SPY], **NATIVE)
def key_of_the_server(v, key):
    return fad.sum(v), jax.random.normal(key, (3,))


@case("reject", "FAD002", args=[V], **NATIVE)
def captured_key(v):
    return fad.sum(v + jax.random.normal(CONSTANT, (3,)))


@case("reject", "FAD002", args=[V], **NATIVE)
def draw_inside_a_jit(v):
    return fad.sum(jax.jit(lambda u: u + jax.random.normal(of(u, SPY), (3,)))(v))


@case("reject", "FAD002", args=[V], **NATIVE)
def draw_inside_a_scan(v):
    body = lambda u, _: (u + jax.random.uniform(of(u, SPY), (3,)), None)
    return fad.sum(lax.scan(body, v, None, length=2)[0])


@case("reject", "FAD002", args=[V], **NATIVE)
def key_as_a_carry(v):
    def body(key, _):
        key, own = jax.random.split(key)
        return key, jax.random.uniform(own)

    return fad.sum(v + jnp.sum(lax.scan(body, of(v, SPY), None, length=2)[1]))


@case("reject", "FAD002", args=[V], **NATIVE)
def draw_inside_a_branch(v):
    noisy = lambda u: u + jax.random.normal(of(u, SPY), (3,))
    return fad.sum(lax.cond(v[0] > 0, noisy, lambda u: u, v))


@case("reject", "FAD002", args=[V], **NATIVE)
def draw_inside_a_while_loop(v):
    body = lambda u: u * 0.5 + 0 * jax.random.normal(of(u, SPY), (3,))
    return fad.sum(lax.while_loop(lambda u: jnp.sum(u**2) > 1, body, v))


@case("reject", "FAD002", args=[V], **NATIVE)
def draw_inside_a_checkpoint(v):
    return fad.sum(jax.checkpoint(lambda u: u + jax.random.normal(of(u, SPY), (3,)))(v))


@case("reject", "FAD002", args=[V], **NATIVE)
def draw_inside_a_custom_rule(v):
    @jax.custom_jvp
    def noisy(u):
        return u + jax.random.normal(of(u, SPY), (3,))

    noisy.defjvp(lambda p, t: (noisy(*p), t[0]))
    return fad.sum(noisy(v))


@case("reject", "FAD002", args=[V], **NATIVE)
def draw_inside_a_solver(v):
    solve = lambda mv, b: mv(b) + jax.random.normal(of(b, SPY), (3,))
    return fad.sum(lax.custom_linear_solve(lambda p: p, v, solve))


@case("reject", "FAD002", args=[V], **NATIVE)
def mapped_draws(v):
    keys = jax.random.split(of(v, SPY), 3)
    return fad.sum(v + jax.vmap(jax.random.normal)(keys))


@case("reject", "FAD002", args=[V], **NATIVE)
def shuffle_by_a_key_of_data(v):
    return fad.sum(jax.random.permutation(of(v, SPY), v))


@case("reject", "FAD002", args=[V], mode="jvp", wrt=(0,), **NATIVE)
def derivative_of_a_draw(v):
    return fad.sum(jnp.sin(v) + jax.random.normal(jax.random.key(1, impl=SPY), (3,)))


@case("reject", "FAD002", args=[V], mode="vjp", wrt=(0,), **NATIVE)
def reverse_derivative_of_a_draw(v):
    return fad.sum(jnp.sin(v) * jax.random.normal(jax.random.key(1, impl=SPY), (3,)))


@case("reject", "FAD002", args=[V], **NATIVE)
def exact_copy_of_the_default(v):
    return fad.sum(v + jax.random.normal(jax.random.key(0, impl=COPY), (3,)))


@case("reject", "FAD002", args=[V], **NATIVE)
def generator_with_a_name_of_its_own(v):
    return fad.sum(v + jax.random.normal(jax.random.key(0, impl=RENAMED), (3,)))


@case("reject", "FAD002", args=[V], **NATIVE)
def false_rbg(v):
    return fad.sum(v + jax.random.normal(jax.random.key(0, impl=FALSE_RBG), (3,)))


@case("reject", "FAD002", args=[V, OWN_KEY], **NATIVE)
def own_key_wrapped_again(v, key):
    again = jax.random.wrap_key_data(jax.random.key_data(key), impl=ZERO)
    return fad.sum(v + jax.random.normal(again, (3,)))


@case("reject", "FAD002", args=[X])
def stacked_draws(x):
    noisy = lambda v: v + jax.random.normal(of(v, SPY), (3,))
    return jnp.sum(jax.vmap(noisy)(x), axis=0)


@case("reject", "FAD002", args=[X, SPY_KEYS])
def stacked_keys_of_clients(x, key):
    return jnp.sum(x + jax.vmap(lambda k: jax.random.normal(k, (3,)))(key), axis=0)


@case("reject", "FAD002", args=[X, ("key", (), "server_key", "key<fry>")], profile="secagg+dp")
def noise_of_a_generator_without_noise(x, key):
    silent = jax.random.wrap_key_data(jax.random.key_data(key), impl=ZERO)
    return (jnp.sum(jax.vmap(guarded)(x), axis=0) + jax.random.normal(silent, (3,))) / N


@case("reject", "FAD002", style="spmd", args=[V])
def draw_under_a_named_axis(v):
    return lax.psum(v + jax.random.normal(of(v, SPY), (3,)), "clients")


@case("reject", "FAD002", style="drjax", args=[X])
def draw_in_drjax_style(x):
    import drjax

    @drjax.program(placements={"clients": N})
    def program(values):
        noisy = lambda v: v + jax.random.normal(of(v, SPY), (3,))
        return drjax.reduce_sum(drjax.map_fn(noisy, values))

    return program(x)


# JAX's own.


def accepted(name, impl):
    """The ordinary uses of a generator: seed, split, fold, wrap, draws of every kind."""

    def seeded(v):
        return fad.sum(v + jax.random.normal(jax.random.key(0, impl=impl), (3,)))

    def split(v):
        one, other = jax.random.split(jax.random.key(0, impl=impl))
        return fad.sum(v * jax.random.uniform(one, (3,)) + jax.random.bernoulli(other))

    def folded(v):
        return fad.sum(v + jax.random.normal(jax.random.fold_in(jax.random.key(1, impl=impl), 2)))

    def own(v, key):
        return fad.sum(v + jax.random.normal(key, (3,)))

    def rewrapped(v, key):
        again = jax.random.wrap_key_data(jax.random.key_data(key), impl=impl)
        return fad.sum(v + jax.random.normal(again, (3,)))

    def looped(v, key):
        draw = lambda k, _: (jax.random.fold_in(k, 1), jax.random.uniform(k, (3,)))
        return fad.sum(v + jnp.sum(lax.scan(draw, key, None, length=2)[1], axis=0))

    def shuffled(v, key):
        return fad.sum(jax.random.permutation(key, v))

    key = ("key", (), "client_key", jax.eval_shape(lambda: jax.random.key(0, impl=impl)).dtype)
    for fun in (seeded, split, folded, own, rewrapped, looped, shuffled):
        fun.__name__ = f"{fun.__name__}_{name}"
        case("accept", args=[V, key][: fun.__code__.co_argcount], **NATIVE)(fun)


for _name in ("threefry2x32", "rbg", "unsafe_rbg"):
    accepted(_name, _name)
