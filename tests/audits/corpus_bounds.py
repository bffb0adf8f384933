"""Is what a client adds bounded? Clips of every form, and clips that only look like one."""

import jax
import jax.numpy as jnp
from corpus_cases import Case, N, V, W, X, guarded, recording

import secfad as fad

CASES: list[Case] = []
case = recording(CASES)
DP = {"profile": "secagg+dp"}


# Proved.


@case("accept", args=[X], **DP)
def bounded_by_a_guarded_clip(x):
    return jnp.sum(jax.vmap(guarded)(x), axis=0)


@case("accept", style="native", args=[W, V], **DP)
def bounded_by_the_blessed_clip(w, v):
    return w - fad.mean(fad.clip(jnp.sin(fad.broadcast(w) * v), 0.5))


@case("accept", style="native", args=[V, ("u", (2, 2), "clients")], **DP)
def bounded_jointly(v, u):
    return fad.sum(fad.clip((v, u), 1.0))


# The clip is not of what is sent.


@case("reject", "FAD401", style="native", args=[V], **DP)
def unbounded_next_to_a_clip(v):
    return fad.sum((fad.clip(v, 1.0), v))


@case("reject", "FAD401", style="native", args=[V], **DP)
def clipped_then_divided_by_data(v):
    return fad.sum(fad.clip(v, 1.0) / v)


@case("reject", "FAD401", "FAD404", style="native", args=[V], **DP)
def clipped_then_multiplied_by_data(v):
    return fad.sum(fad.clip(v, 1.0) * v)


@case("reject", "FAD401", "FAD407", args=[X], **DP)
def norm_of_another_value(x):
    def client(v):
        n = jnp.sqrt(jnp.sum((0.1 * jnp.sin(v)) ** 2))
        good = jnp.isfinite(n)
        return jnp.where(good, v * jnp.minimum(1.0, 1 / jnp.maximum(n, 1e-9)), 0.0)

    return jnp.sum(jax.vmap(client)(x), axis=0)


@case("reject", "FAD401", args=[X], **DP)
def norm_over_part_of_the_value(x):
    def client(v):
        n = jnp.sqrt(jnp.sum(v[:2] ** 2))
        good = jnp.isfinite(n)
        return jnp.where(good, v * jnp.minimum(1.0, 1 / jnp.maximum(n, 1e-9)), 0.0)

    return jnp.sum(jax.vmap(client)(x), axis=0)


# The clip does not clip, or not always.


@case("reject", "FAD401", "FAD407", args=[X], **DP)
def clip_that_raises_small_norms(x):
    def client(v):
        n = jnp.linalg.norm(v)
        return jnp.where(jnp.isfinite(n), v * jnp.maximum(1.0, 1 / jnp.maximum(n, 1e-9)), 0.0)

    return jnp.sum(jax.vmap(client)(x), axis=0)


@case("reject", "FAD401", "FAD407", args=[X], **DP)
def guard_with_the_branches_swapped(x):
    def client(v):
        n = jnp.linalg.norm(v)
        return jnp.where(n < 1.0, v / n, v)

    return jnp.sum(jax.vmap(client)(x), axis=0)


@case("reject", "FAD407", "FAD401", args=[X], **DP)
def where_form_without_guard(x):
    return jnp.sum(
        jax.vmap(lambda v: jnp.where(jnp.linalg.norm(v) > 1, v / jnp.linalg.norm(v), v))(x), axis=0
    )


@case("caveat", "FAD407", args=[X], **DP)
def min_form_without_guard(x):
    return jnp.sum(jax.vmap(lambda v: v * jnp.minimum(1.0, 2.0 / jnp.linalg.norm(v)))(x), axis=0)


@case("reject", "FAD401", args=[X], **DP)
def nan_kept_out_but_infinity_kept_in(x):
    return jnp.sum(jnp.where(jnp.isnan(x), 0.0, x), axis=0)


@case("caveat", "FAD408", args=[("x", (N, 64), "clients", "bfloat16")], **DP)
def low_precision_clip(x):
    return jnp.sum(jax.vmap(guarded)(x).astype(jnp.float32), axis=0)


@case("reject", "FAD413", args=[("x", (N, 3), "clients", "int8")], **DP)
def small_integers(x):
    return jnp.sum(x, axis=0, dtype=jnp.int8)
