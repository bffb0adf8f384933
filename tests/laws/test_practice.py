"""Programs of practice in every mode: exact to ten digits, or refused for a reason that is true.

The default profile runs one cell in many, the nightly one all of them, simulated and message by message.
"""

import functools

import pytest
from practice_cells import assert_close, computed, expected
from programs_of_practice import MODES, PROGRAMS

from secfad.errors import SecfadError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of optional libraries
    pytest.mark.filterwarnings("ignore:.*Jacobian:UserWarning"),
]
CELLS = [(c, mode) for c in PROGRAMS.values() for mode in ("value", *MODES)]
# A stride that is coprime to the number of modes meets every mode.
STRIDE = 251


def cells():
    for position, (case, mode) in enumerate(CELLS):
        marks = () if position % STRIDE == 0 else (pytest.mark.slow,)
        yield pytest.param(case, mode, marks=marks, id=f"{case.name}-{mode}")


@functools.cache
def wanted(name, derivative):
    return expected(PROGRAMS[name], "derivative" if derivative else "value")


@pytest.mark.sample(quick=2, slow=150)
@pytest.mark.parametrize("execute", [False, True], ids=["simulated", "executed"])
@pytest.mark.parametrize(("case", "mode"), list(cells()))
def test_cell_is_exact_or_refused_as_stated(case, mode, execute):
    if mode in case.refused:
        kind, words = case.refused[mode]
        with pytest.raises(kind, match=words):
            computed(case, mode, execute=execute)
        return
    got = computed(case, mode, execute=execute)
    assert_close(got, wanted(case.name, mode != "value"), case.tolerance)


def test_refusals_of_the_table_are_typed_and_the_table_is_large():
    assert len(PROGRAMS) >= 150
    assert all(
        issubclass(kind, SecfadError) for c in PROGRAMS.values() for kind, _ in c.refused.values()
    )
