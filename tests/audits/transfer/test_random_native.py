"""Random native programs: acceptance implies that the oracles pass, and most of what is right is accepted."""

import collections

import pytest
from native_programs import ARGS, random_program
from oracles import examine
from worlds import Leak

import audits

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # hostile numbers overflow
SIZES = [pytest.param(30, id="short"), pytest.param(20_000, id="long", marks=pytest.mark.slow)]


@pytest.mark.sample(quick=1, slow=0)
@pytest.mark.parametrize("count", SIZES)
def test_acceptance_implies_that_the_oracles_pass(count):
    seen = collections.Counter()
    for seed in range(count):
        program = random_program(seed)
        report = audits.check(
            program, ARGS, style="native", profile=program.profile, mode=program.mode,
            wrt=program.wrt,
        )  # fmt: skip
        accepted = report.kind != "reject"
        seen["ill" if program.ill else "well", accepted] += 1
        if not accepted:
            continue
        try:
            examine(program, ARGS, report, style="native", mode=program.mode, wrt=program.wrt)
        except Leak as leak:
            pytest.fail(f"seed {seed}: accepted, but {leak}")
    share = seen["well", True] / (seen["well", True] + seen["well", False])
    print(f"{count} programs, {share:.1%} of the well-formed accepted: {dict(seen)}")
    assert share >= 0.6
    assert seen["ill", False] > 0
