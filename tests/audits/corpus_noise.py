"""Noise inside a program: its scale, its keys, and what is released beside it."""

import jax
import jax.numpy as jnp
from corpus_cases import KEY, Case, N, X, guarded, recording
from jax import lax

CASES: list[Case] = []
case = recording(CASES)
DP = {"profile": "secagg+dp"}
CLIENT_KEYS = ("keys", (N,), "client_key", "key<fry>")


# Keys.


@case("accept", args=[KEY, X], **DP)
def key_split_in_every_iteration(key, x):
    def step(c, _):
        w, k = c
        k, here = jax.random.split(k)
        s = jnp.sum(jax.vmap(guarded)(x), axis=0) + jax.random.normal(here, (3,))
        return (w - s / N, k), None

    return lax.scan(step, (jnp.zeros(3), key), None, length=4)[0][0]


@case("accept", args=[KEY, X], **DP)
def next_key_returned(key, x):
    here, following = jax.random.split(key)
    z = jax.random.normal(here, (3,))
    return (jnp.sum(jax.vmap(guarded)(x), axis=0) + z) / N, following


@case("reject", "FAD501", args=[KEY, X], **DP)
def one_draw_for_two_sums(key, x):
    z = jax.random.normal(key, (3,))
    u = jax.vmap(guarded)(x)
    return jnp.sum(u, axis=0) + z, jnp.sum(u * 0.5, axis=0) + z


@case("reject", "FAD501", args=[KEY, X], **DP)
def key_used_in_every_iteration(key, x):
    def step(w, _):
        s = jnp.sum(jax.vmap(guarded)(x), axis=0) + jax.random.normal(key, (3,))
        return w - s / N, None

    return lax.scan(step, jnp.zeros(3), None, length=4)[0]


@case("reject", "FAD504", args=[KEY, X], **DP)
def noise_key_returned_too(key, x):
    z = jax.random.normal(jax.random.split(key)[0], (3,))
    return (jnp.sum(jax.vmap(guarded)(x), axis=0) + z) / N, jax.random.key_data(key)


# Too little of it, or of another kind.


@case("reject", "FAD406", args=[KEY, X], **DP)
def too_little_noise(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    return (s + 0.01 * jax.random.normal(key, (3,))) / N


@case("reject", "FAD406", "FAD415", args=[KEY, X], **DP)
def one_number_of_noise_for_all_entries(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    return (s + jax.random.normal(key, ())) / N


@case("reject", "FAD406", "FAD415", args=[KEY, X], **DP)
def uniform_noise_is_not_gaussian(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    keys = jax.random.split(key)
    other = jnp.sum(jax.vmap(guarded)(x), axis=0) + jax.random.normal(keys[1], (3,))
    return (s + jax.random.uniform(keys[0], (3,))) / N, other / N


@case("reject", "FAD406", "FAD415", args=[KEY, X], **DP)
def noise_with_a_clipped_tail(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    k1, k2 = jax.random.split(key)
    z = jnp.clip(jax.random.normal(k1, (3,)), -0.1, 0.1)
    t = jnp.sum(jax.vmap(guarded)(x), axis=0) + jax.random.normal(k2, (3,))
    return (s + z) / N, t / N


# Undone.


@case("reject", "FAD504", args=[KEY, X], **DP)
def noise_taken_away_again(key, x):
    z = jax.random.normal(key, (3,))
    return (jnp.sum(jax.vmap(guarded)(x), axis=0) + z) / N - z / N


@case("reject", "FAD504", args=[KEY, X], **DP)
def noise_returned_too(key, x):
    z = jax.random.normal(key, (3,))
    return (jnp.sum(jax.vmap(guarded)(x), axis=0) + z) / N, jnp.exp(z)


@case("caveat", "FAD414", args=[KEY, X], **DP)
def one_sum_noised_twice(key, x):
    s = jnp.sum(jax.vmap(guarded)(x), axis=0)
    a, b = (jax.random.normal(k, (3,)) for k in jax.random.split(key))
    return (s + a) / N, (s + b) / N


# By the clients.


@case("accept", args=[CLIENT_KEYS, X], **DP)
def noise_by_the_clients(keys, x):
    add = lambda k, v: guarded(v) + 0.5 * jax.random.normal(k, v.shape)
    return jnp.sum(jax.vmap(add)(keys, x), axis=0) / N


@case("reject", "FAD406", args=[CLIENT_KEYS, X], **DP)
def too_little_noise_by_the_clients(keys, x):
    add = lambda k, v: guarded(v) + 0.01 * jax.random.normal(k, v.shape)
    return jnp.sum(jax.vmap(add)(keys, x), axis=0) / N


@case("reject", "FAD415", args=[CLIENT_KEYS, X], **DP)
def one_sum_without_the_clients_noise(keys, x):
    add = lambda k, v: guarded(v) + jax.random.normal(k, v.shape)
    exact = jnp.sum(jnp.clip(jnp.where(jnp.isfinite(x), x, 0.0), 0, 1), axis=0)
    return jnp.sum(jax.vmap(add)(keys, x), axis=0) / N, exact / N
