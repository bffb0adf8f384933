"""Noise whose key others know, that is used twice, or that has two names is refused; the honest
spellings are not.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from key_programs import KeyProgram, covariance, flaw
from noise_key_cases import CASES

import audits


def answered(style, args, fn):
    settings = {"style": style, "profile": "secagg+dp", "neighbouring": "add_remove"}
    return audits.check(fn, list(args), **settings)


@pytest.mark.parametrize(("name", "rule", "style", "args", "fn"), CASES, ids=[c[0] for c in CASES])
def test_noise_is_judged_by_its_keys(name, rule, style, args, fn):
    report = answered(style, args, fn)
    found = {f.rule for f in report.findings}
    if rule:
        assert report.kind == "reject"
        assert rule in found, found
    else:
        assert report.kind != "reject", [f.message for f in report.findings]
        assert not found & {"FAD501", "FAD502", "FAD503", "FAD504", "FAD505"}, found


def test_split_and_fold_number_the_same_children():
    key = jax.random.key(5)
    words = lambda k: jax.random.key_data(k).tolist()
    for k in range(3):
        assert words(jax.random.fold_in(key, k)) == words(jax.random.split(key, 3)[k])
        assert words(jax.random.fold_in(key, k)) == words(jax.random.split(key, 7)[k])


def test_a_draw_shows_the_words_of_a_child():
    key = jax.random.key(5)
    (one, other) = jax.random.key_data(jax.random.fold_in(key, 0)).tolist()
    assert int(jax.random.bits(key, (1,))[0]) == one ^ other


def test_mapped_draws_of_the_fast_generator_use_its_first_key():
    first, *rest = jax.random.split(jax.random.key(5, impl="rbg"), 4)
    draw = jax.vmap(lambda k: jax.random.bits(k, (2,)))
    one, other = (draw(jnp.stack([first, k])) for k in rest[:2])
    assert (one == other).all()


@pytest.mark.sample(quick=1, slow=50)
@pytest.mark.parametrize("start", range(0, 10_000, 20))
def test_accepted_random_programs_have_secret_and_separate_keys(start):
    accepted = 0
    for seed in range(start, start + 20):
        program = KeyProgram(seed, "native" if seed % 3 == 0 else "stacked")
        if answered(program.style, program.args, program).kind != "reject":
            accepted += 1
            assert not (found := flaw(program)), (seed, found)
    assert accepted >= 3


@pytest.mark.sample(quick=1, slow=10)
@pytest.mark.parametrize("seed", range(50))
def test_released_noise_is_independent_and_as_strong_as_stated(seed):
    """False alarms: at most 500 entries of a covariance of 400 runs, each off by five deviations with
    probability 6e-7.
    """
    program = next(
        p
        for k in range(40 * seed, 40 * seed + 40)
        if answered("stacked", (p := KeyProgram(k)).args, p).kind == "accept"
    )
    measured = np.atleast_2d(covariance(program))
    assert np.abs(measured - np.eye(len(measured))).max() < 5 * np.sqrt(2 / 400)
