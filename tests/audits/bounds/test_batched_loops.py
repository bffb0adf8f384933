"""Batched `while` loops: rows come from different iterations, so norms over rows do not hold."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import audits
import privacy
import secfad as fad

ROWS = 4


def turned_rows(v):
    """Row i stops after i transpositions; in every iteration all rows together have norm one."""
    once = lambda c: (c[0] + 1, lax.all_to_all(c[1], "rows", 0, 0))
    one = lambda i, row: lax.while_loop(lambda c: c[0] < i, once, (0, row))[1]
    return jax.vmap(one, axis_name="rows")(jnp.arange(ROWS), fad.clip(v, 1.0))


def test_a_norm_over_rows_is_not_kept_by_a_loop_that_they_leave_one_by_one():
    args = [audits.Arg("v", (ROWS, ROWS), "float32", "clients")]
    sent = float(np.linalg.norm(turned_rows(jnp.zeros((ROWS, ROWS)).at[0, 1].set(1.0))))
    assert sent > 1.4
    report = audits.check(lambda v: fad.sum(turned_rows(v)), args, profile="secagg+dp")
    assert report.kind == "reject" or report.facts.sensitivity[0] >= sent


def test_examples_may_stop_at_their_own_time_in_a_private_program():
    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def program(w, x):
        halve = lambda r: lax.while_loop(lambda c: jnp.sum(c**2) > 1, lambda c: 0.5 * c, r)
        return fad.sum(jnp.mean(jax.vmap(halve)(x), axis=0) * fad.broadcast(w))

    specs = jax.ShapeDtypeStruct((3,), "float32"), jax.ShapeDtypeStruct((5, 3), "float32")
    audits.certify(program, *specs)
    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    audits.certify(privacy.privatize(program, *specs, mechanism=mechanism))
