"""Programs from papers: the verdict of every mode, and the shipped algorithms beside them."""

import functools

import pytest
import wild_arrays  # adds to the table
from wild_programs import MODES, WILD

import audits
from audits.certifying import check_modes, issue
from audits.proofs.verification import verify

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
assert wild_arrays
WORDS = {"primal": "primal", "forward": "jvp", "reverse": "vjp"}


@functools.cache
def native_results(name):
    wild = next(w for w in WILD if w.name == name)
    return check_modes(wild.program, *wild.args, modes=MODES)


def judged(wild):
    """Reports by mode; a program that cannot be traced has none but the primal's."""
    if wild.style == "native":
        return {mode: report for mode, (report, _) in native_results(wild.name).items()}
    args = [audits.Arg(*a) for a in wild.args]
    return {
        mode: audits.check(
            wild.program, args, style=wild.style, mode=word, wrt=(wild.wrt,) * (mode != "primal")
        )
        for mode, word in WORDS.items()
    }


@pytest.mark.sample(quick=10)
@pytest.mark.parametrize("wild", WILD, ids=lambda w: w.name)
def test_program_is_judged_in_every_mode_as_its_paper_demands(wild):
    for mode, report in judged(wild).items():
        kind, rules = wild.verdicts.get(mode, wild.verdicts["primal"])
        found = {f.rule for f in report.findings}
        assert report.kind in kind.split(" or "), (mode, found)
        assert found <= rules, mode
        assert report.kind == "accept" or found, mode


def test_there_are_twenty_native_and_stacked_programs_and_drjax_ones():
    assert sum(w.style != "drjax" for w in WILD) >= 20
    assert sum(w.style == "drjax" for w in WILD) >= 5
    assert len({w.name for w in WILD}) == len(WILD)


@pytest.mark.sample(quick=5)
@pytest.mark.parametrize(
    "wild",
    [w for w in WILD if w.style == "native" and w.verdicts["primal"][0] != "reject"],
    ids=lambda w: w.name,
)
def test_evidence_of_every_accepted_mode_is_confirmed(wild):
    results = native_results(wild.name).items()
    accepted = {m: found for m, found in results if found[0].kind != "reject"}
    certificate = issue(wild.program, accepted)
    for mode, (_, program) in accepted.items():
        verify(certificate, program, mode)


def test_rejected_derivative_of_a_client_result_names_the_reason():
    ditto = next(w for w in WILD if w.name == "ditto")
    finding = judged(ditto)["reverse"].findings[0]
    assert "returns client values" in finding.message
