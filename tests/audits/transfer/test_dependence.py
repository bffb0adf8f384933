"""Every transfer rule against exact dependence: where a rule says "row by row", rows are independent.

An array with an axis of clients goes through one random operation. If the checker says that the result
has an axis of clients, changing one client's input may change that client's row of it only.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from axis_operations import OPERATIONS, N

import audits
from audits.checking.checking import walk
from audits.checking.frontends import trace_mode
from audits.transfer.labels import Place
from audits.transfer.styles import STYLES

DRAWS = [pytest.param(2, id="short"), pytest.param(40, id="long", marks=pytest.mark.slow)]


def differing(fun, base, other, client):
    """Which entries of the result change when one client's data do."""
    changed = base.copy()
    changed[client] = other[client]
    a, b = np.asarray(fun(jnp.asarray(base))), np.asarray(fun(jnp.asarray(changed)))
    return ~((a == b) | ((a != a) & (b != b)))


@pytest.mark.sample(quick=3, slow=60)
@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_rows_are_independent_where_the_rule_says_so(name, draws):
    argument = audits.Arg("x", (N, N, N), "float32", "clients")
    for seed in range(draws):
        fun = lambda x: OPERATIONS[name](np.random.default_rng(seed), x)  # noqa: B023
        try:
            traced = trace_mode(fun, [argument], style=STYLES["stacked"], mode="primal", wrt=())
        except (TypeError, ValueError):
            continue
        checker, (label, *_) = walk(traced, STYLES["stacked"])
        if checker.findings or label.poisoned or label.place < Place.CLIENT:
            continue
        base, other = np.random.default_rng(seed).normal(size=(2, N, N, N)).astype("float32")
        run, size = jax.jit(fun), traced.closed.jaxpr.outvars[0].aval.shape  # type: ignore[attr-defined]
        for client in range(N):
            entries = np.argwhere(differing(run, base, other, client))
            if not len(entries):
                continue
            where = label.tags.find("c") if "c" in label.tags else label.tags.find("m")
            assert where >= 0, (seed, label.tags)
            # An axis that merges clients with data has the clients first.
            block = 1 if label.tags[where] == "c" else size[where] // label.axes[where].rows
            rows = set((entries[:, where] // block).tolist())
            assert rows <= {client}, (seed, label.tags, rows)
