"""A client's own draws: noise if they are added last, part of its data if something follows.

After any operation but the sum, a noisy value has no bound, because a draw has none. Draws of a
private program protect nothing: its mechanism adds the noise.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import audits
import privacy
import secfad
from audits import Arg

A, B = (Arg(n, (), "key<fry>", "client_key") for n in "ab")
SERVER_KEY = Arg("key", (), "key<fry>", "server_key")
V = Arg("v", (3,), "float32", "clients")


def draw(key, shape=(3,)):
    return jax.random.normal(key, shape)


def norm(v):
    return jnp.sqrt(jnp.sum(v**2))


def finite(v):
    return jnp.where(jnp.isfinite(v), v, 0.0)


def entries(v):
    return jnp.clip(finite(v), -1, 1)


def factor(n):
    return jnp.where(jnp.isfinite(n), 0.01 / jnp.maximum(n, 1e-6), 0.0)


# What the noisy value is made into is bounded only for draws of zero.
AFTER_NOISE = {
    "noisy norm": lambda a, v: finite(v) * factor(norm(finite(v)) + draw(a, ())),
    "reciprocal": lambda a, v: 1.0 / (entries(v) + draw(a) + 2.0),
    "multiple": lambda a, v: (2.0 * finite(v) + draw(a)) * factor(norm(finite(v))),
    "product": lambda a, v: finite(v) * (entries(v) + draw(a)),
    "square": lambda a, v: (entries(v) + draw(a)) ** 2,
    "power": lambda a, v: jnp.exp(entries(v) + draw(a)),
    "scaled": lambda a, v: 100.0 * (entries(v) + draw(a)),
    "rounded": lambda a, v: jnp.round(entries(v) + draw(a)),
    "difference": lambda a, v: (entries(v) + draw(a)) - finite(v),
    "norm of the noisy value": lambda a, v: finite(v) * factor(norm(entries(v) + draw(a))),
    "root": lambda a, v: lax.rsqrt(entries(v) + draw(a) + 1.5),
    "clipped norm, shifted": lambda a, v: secfad.clip(v, 1.0) + draw(a) + finite(v),
}


@pytest.mark.parametrize("name", AFTER_NOISE)
def test_nothing_is_known_of_a_noisy_value_but_for_its_sum(name):
    report = audits.check(
        lambda a, b, v: secfad.sum(AFTER_NOISE[name](a, v) + 3.0 * draw(b)),
        [A, B, V],
        style="native",
        profile="secagg+dp",
    )
    assert report.kind == "reject"
    assert report.facts.sensitivity == (None,)


@pytest.mark.parametrize(
    "client",
    [
        lambda a, b, v: secfad.clip(v, 1.0) + draw(a),
        lambda a, b, v: entries(v) + 2.0 * draw(a),
        lambda a, b, v: (secfad.clip(v, 1.0) + draw(a)) + draw(b),
        lambda a, b, v: secfad.clip(v + 0.1 * draw(a), 1.0) + draw(b),
    ],
)
def test_noise_that_a_client_adds_last_protects_its_sum(client):
    report = audits.check(
        lambda a, b, v: secfad.sum(client(a, b, v)),
        [A, B, V],
        style="native",
        profile="secagg+dp",
        neighbouring="add_remove",
    )
    assert report.kind != "reject", report.findings
    (bound,) = report.facts.sensitivity
    assert 1.0 <= bound < 1.8


def test_a_client_may_augment_its_data_where_the_server_adds_the_noise():
    def program(v, key, c):
        return secfad.sum(secfad.clip(v + 0.1 * draw(c), 1.0)) + draw(key)

    report = audits.check(
        program, [V, SERVER_KEY, A], style="native", profile="secagg+dp", neighbouring="add_remove"
    )
    assert report.kind == "accept", report.findings
    assert report.facts.noise_multipliers == pytest.approx((1.0,))


def test_one_draw_is_not_both_augmentation_and_noise():
    def program(a, v):
        z = draw(a)
        return secfad.sum(secfad.clip(v - z, 1.0) + z)

    report = audits.check(program, [A, V], style="native", profile="secagg+dp")
    assert "FAD501" in {f.rule for f in report.findings}
    assert report.kind == "reject"


def test_a_sum_without_noise_beside_one_with_the_clients_is_refused():
    def program(a, v):
        return secfad.sum(secfad.clip(v, 1.0) + draw(a)), secfad.sum(entries(v))

    report = audits.check(program, [A, V], style="native", profile="secagg+dp")
    assert "FAD415" in {f.rule for f in report.findings}


K = jax.eval_shape(lambda: jax.random.key(0))
MECHANISM = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
PRIVATE = {
    "augmentation": (
        lambda w, x, k: secfad.mean((x + 0.1 * draw(k)) * secfad.broadcast(w)),
        {"k": secfad.CLIENTS},
    ),
    "a common seed": (
        lambda w, x, k: secfad.mean((x + 0.1 * draw(secfad.broadcast(k))) * secfad.broadcast(w)),
        {"k": secfad.SERVER},
    ),
    "Langevin steps": (
        lambda w, x, k: secfad.mean(
            lax.scan(
                lambda c, key: (c - 0.1 * (c - x) + 0.01 * draw(key), None),
                secfad.broadcast(w),
                jax.random.split(k, 4),
            )[0]
        ),
        {"k": secfad.CLIENTS},
    ),
    "the server's model": (
        lambda w, x, k: w - secfad.mean(x) + 0.1 * draw(k),
        {"k": secfad.SERVER},
    ),
}


@pytest.mark.parametrize("name", PRIVATE)
def test_draws_of_a_private_program_are_not_its_noise(name):
    fun, places = PRIVATE[name]
    computation = secfad.computation(w=secfad.SERVER, x=secfad.CLIENTS, **places)(fun)
    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    private = privacy.privatize(computation, spec, spec, K, mechanism=MECHANISM)
    certificate = audits.certify(private)
    audits.verify(certificate, private.program)


def noised(client, **noise):
    return audits.check(
        lambda v, key: client(v) + 0.3 * draw(key),
        [V, SERVER_KEY],
        style="native",
        profile="secagg+dp",
        neighbouring="add_remove",
    )


def test_a_limit_that_nan_passes_is_refused_for_nan():
    refused = noised(lambda v: secfad.sum(jnp.clip(v, -0.1, 0.1)))
    assert "FAD407" in {f.rule for f in refused.findings}
    assert any("NaN" in f.message for f in refused.findings)
    remedied = noised(lambda v: secfad.sum(secfad.clip(v, 0.3)))
    assert remedied.kind == "accept"


def test_a_mean_names_its_divisor():
    refused = noised(lambda v: secfad.mean(secfad.clip(v, 1.0)))
    (found,) = [f for f in refused.findings if f.rule == "FAD406"]
    assert "the number of clients" in found.message
    assert "divided by the same number" in found.message


# A normal draw, step by step; every other constant gives another distribution.


def drawn_by_hand(
    key, *, shift=9, one=0x3F800000, start=1.0, scale=2.0, move=-1.0, least=-1.0, root=2**0.5
):
    bits = jax.random.bits(key, (3,), "uint32")
    mantissa = lax.shift_right_logical(bits, jnp.uint32(shift)) | jnp.uint32(one)
    uniform = lax.bitcast_convert_type(mantissa, jnp.float32) - jnp.float32(start)
    whole = jnp.maximum(uniform * jnp.float32(scale) + jnp.float32(move), jnp.float32(least))
    return jnp.float32(root) * lax.erf_inv(whole)


OTHER_CONSTANTS = [
    {"shift": 10},
    {"shift": 8},
    {"one": 0x3F000000},
    {"one": 0x3FC00000},
    {"start": 1.5},
    {"start": 0.5},
    {"scale": 1.0},
    {"scale": -2.0},
    {"move": -0.5},
    {"move": -1.5},
    {"least": 0.0},
]


def stated_of(**constants):
    report = audits.check(
        lambda v, key: secfad.sum(secfad.clip(v, 1.0)) + drawn_by_hand(key, **constants),
        [V, SERVER_KEY],
        style="native",
        profile="secagg+dp",
        neighbouring="add_remove",
    )
    return report.kind, report.facts.noise_multipliers


def test_normal_draw_by_hand_is_noise():
    assert stated_of() == ("accept", pytest.approx((1.0,)))
    assert stated_of(root=2.0) == ("accept", pytest.approx((2**0.5,)))


@pytest.mark.parametrize("constants", OTHER_CONSTANTS, ids=str)
def test_draw_of_another_distribution_is_not_noise(constants):
    assert stated_of(**constants)[0] == "reject"


OPEN_KEY = Arg("open", (), "key<fry>", "server")
UNKNOWN = {
    "a sum": lambda total, open: total,
    "a sum times a draw": lambda total, open: total * jax.random.uniform(open, (3,)),
    "a sum plus a draw of no kind": lambda total, open: total + jax.random.uniform(open, (3,)),
    "a sum over a draw": lambda total, open: total / (1 + jax.random.uniform(open, (3,))),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_noise_of_an_unknown_kind_is_named_whatever_was_drawn_before(name):
    def program(open, key, v):
        total = UNKNOWN[name](secfad.sum(secfad.clip(v, 1.0)), open)
        return total + jax.random.laplace(key, (3,))

    report = audits.check(program, [OPEN_KEY, SERVER_KEY, V], profile="secagg+dp")
    assert report.kind == "reject"
    assert "FAD406" in {f.rule for f in report.findings}
