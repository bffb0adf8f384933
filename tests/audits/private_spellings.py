"""Private sums that people write by hand: a clip and noise in the usual spellings.

`SPELLINGS` maps a name to a native round `(key, v) -> released`, with the key and the noise at the
server and one vector per client, and to the rule of its refusal; "" if it is accepted. All of them add
noise of multiplier 2 or more; those that are refused have no proof.
"""

import jax
import jax.numpy as jnp
import optax

import secfad as fad

C, Z = 0.5, 2.0
SPELLINGS: dict[str, tuple] = {}


def spelling(name, rule=""):
    def add(fn):
        SPELLINGS[name] = (fn, rule)
        return fn

    return add


def length(v):
    return jnp.sqrt(jnp.sum(v**2))


def finite(v):
    return jnp.where(jnp.all(jnp.isfinite(v)), v, 0.0)


def noise(key, like, scale=Z * C):
    return scale * jax.random.normal(key, like.shape)


# The clip, with the same noise.

CLIPS = {
    "fad.clip": ("", lambda v: fad.clip(v, C)),
    "Abadi, guarded": ("", lambda v: (lambda u: u / jnp.maximum(1.0, length(u) / C))(finite(v))),
    "Abadi, norm guarded": (
        "",
        lambda v: jnp.where(
            jnp.isfinite(length(v)), v / jnp.maximum(1.0, length(v) / C), jnp.zeros_like(v)
        ),
    ),
    "smaller factor": (
        "",
        lambda v: jnp.where(
            jnp.isfinite(length(v)), v * jnp.minimum(1.0, C / jnp.maximum(length(v), 1e-6)), 0.0
        ),
    ),
    "jnp.linalg.norm": (
        "",
        lambda v: (lambda u: u * jnp.minimum(1.0, C / jnp.maximum(jnp.linalg.norm(u), 1e-12)))(
            finite(v)
        ),
    ),
    "norm plus a constant": (
        "",
        lambda v: (lambda u: u * jnp.minimum(1.0, C / (length(u) + 1e-6)))(finite(v)),
    ),
    "normalised": ("", lambda v: (lambda u: C * (u / jnp.maximum(length(u), 1e-6)))(finite(v))),
    # The multiple could overflow before the division, if C were large.
    "multiple first": (
        "FAD407",
        lambda v: (lambda u: C * u / jnp.maximum(length(u), 1e-6))(finite(v)),
    ),
    "optax, guarded": (
        "",
        lambda v: optax.clip_by_global_norm(C).update(finite(v), optax.EmptyState())[0],
    ),
    "optax projection": ("", lambda v: optax.projections.projection_l2_ball(finite(v), C)),
    "where on the norm": (
        "",
        lambda v: (lambda u: jnp.where(length(u) > C, u * (C / length(u)), u))(finite(v)),
    ),
    "chosen factor": (
        "",
        lambda v: (lambda u, n: u * jnp.where(n > C, C / n, 1.0))(finite(v), length(finite(v))),
    ),
    "nan_to_num before": (
        "",
        lambda v: (lambda u: u / jnp.maximum(1.0, length(u) / C))(
            jnp.clip(jnp.nan_to_num(v), -1e6, 1e6)
        ),
    ),
    "jnp.clip, guarded": ("", lambda v: jnp.clip(finite(v), -C / 2, C / 2)),
    "jnp.clip, entries guarded": (
        "",
        lambda v: jnp.clip(jnp.where(jnp.isfinite(v), v, 0.0), -C / 2, C / 2),
    ),
    "tanh, guarded": ("", lambda v: C / 2 * jnp.tanh(finite(v))),
    "sign": ("", lambda v: C / 2 * jnp.sign(finite(v))),
    "vote": ("", lambda v: C * jax.nn.one_hot(jnp.argmax(v), 4)),
    "Abadi, no guard": ("FAD407", lambda v: v / jnp.maximum(1.0, length(v) / C)),
    "optax, no guard": (
        "FAD407",
        lambda v: optax.clip_by_global_norm(C).update(v, optax.EmptyState())[0],
    ),
    "jnp.clip, no guard": ("FAD407", lambda v: jnp.clip(v, -C / 2, C / 2)),
    "no clip": ("FAD401", lambda v: v),
}
for _name, (_rule, _clip) in CLIPS.items():
    SPELLINGS[f"clip: {_name}"] = (
        lambda key, v, clip=_clip: (lambda s: s + noise(key, s))(fad.sum(clip(v))),
        _rule,
    )


# The noise, with the same clip.


@spelling("noise: a key of its own")
def split(key, v):
    draw, _ = jax.random.split(key)
    total = fad.sum(fad.clip(v, C))
    return total + noise(draw, total)


@spelling("noise: a fold")
def folded(key, v):
    total = fad.sum(fad.clip(v, C))
    return total + noise(jax.random.fold_in(key, 3), total)


@spelling("noise: by leaf")
def leaves(key, v):
    total = fad.sum(fad.clip({"a": v, "b": v[:2] ** 2}, C))
    keys = jax.random.split(key, 2)
    return {k: total[k] + noise(keys[i], total[k]) for i, k in enumerate(total)}


@spelling("noise: a deviation with a name")
def deviation(key, v):
    std = jnp.float32(Z * C)
    total = fad.sum(fad.clip(v, C))
    return total + jax.random.normal(key, total.shape) * std


@spelling("noise: before the mean")
def mean_of_noisy(key, v):
    total = fad.sum(fad.clip(v, C))
    return (total + noise(key, total)) / 100.0


@spelling("noise: after a mean of a stated size")
def noisy_mean(key, v):
    total = fad.sum(fad.clip(v, C)) / 100.0
    return total + noise(key, total, Z * C / 100.0)


@spelling("noise: on a step down")
def on_a_step_down(key, v):
    step = -fad.sum(fad.clip(v, C)).reshape(2, 2)
    return step + noise(key, step)


@spelling("noise: after a product with other numbers", "FAD406")
def after_a_product(key, v):
    total = fad.sum(fad.clip(v, C)) * jax.lax.iota("float32", 4)
    return total + noise(key, total)


@spelling("noise: then an optimizer")
def optimised(key, v):
    total = fad.sum(fad.clip(v, C))
    gradient = (total + noise(key, total)) / 100.0
    update, _ = optax.sgd(0.1).update(gradient, optax.sgd(0.1).init(gradient))
    return update


@spelling("noise: in each of three rounds")
def rounds(key, v):
    def step(w, draw):
        total = fad.sum(fad.clip(v - fad.broadcast(w), C))
        return w + 0.01 * (total + noise(draw, total)), None

    return jax.lax.scan(step, jnp.zeros(4), jax.random.split(key, 3))[0]


@spelling("noise: keys split as a loop goes")
def carried(key, v):
    def step(carry, _):
        w, key = carry
        key, draw = jax.random.split(key)
        total = fad.sum(fad.clip(v - fad.broadcast(w), C))
        return (w + 0.01 * (total + noise(draw, total)), key), None

    return jax.lax.scan(step, (jnp.zeros(4), key), length=3)[0][0]


@spelling("noise: by fad.mean and a count", "FAD406")
def mean_with_a_count(key, v):
    mean = fad.mean(fad.clip(v, C))
    return mean + noise(key, mean, Z * C) / fad.sum(1.0)


@spelling("noise: Laplace", "FAD415")
def laplace(key, v):
    total = fad.sum(fad.clip(v, C))
    return total + jax.random.laplace(key, total.shape)


@spelling("noise: the key of another draw", "FAD501")
def reused(key, v):
    one, two = fad.sum(fad.clip(v, C)), fad.sum(fad.clip(v**2, C))
    return one + noise(key, one), two + noise(key, two)
