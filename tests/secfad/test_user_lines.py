"""An equation is placed at the user's line, never at one of the code that traces it."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

import secfad as fad
from secfad._jax import make_jaxpr, spec, user_line

ROOT = Path(fad.__file__).parent
OURS = [
    *("_jax.py", "_jax_interpreters.py", "clipping.py", "computations.py", "primitives.py"),
    *("derivatives/new.py", "engines/new.py", "interop/new.py", "jaxprs/new.py", "programs/new.py"),
]


def line_of_equation_in(path):
    """The user's place of an equation whose innermost frame is in the given file."""
    names: dict[str, Any] = {"jnp": jnp}
    exec(compile("def sine(x):\n    return jnp.sin(x)\n", str(ROOT / path), "exec"), names)
    made, _ = make_jaxpr(lambda x: names["sine"](x), [spec(jnp.ones(3))])
    return user_line(made.jaxpr.eqns[0])


@pytest.mark.parametrize("path", OURS)
def test_lines_of_ours_are_no_users(path):
    assert line_of_equation_in(path).startswith(f"{__file__}:")


@pytest.mark.parametrize(
    "path", ["algorithms/new.py", "data/new.py", "cohorts.py", "../secfadx/a.py"]
)
def test_lines_of_what_is_written_as_users_write_are_kept(path):
    assert Path(path).name in line_of_equation_in(path)
