"""What people write is accepted: usual rounds, plain and private, and clips and noise by hand.

The shares are those of the whole tables, so a refusal that is added here must be argued for.
"""

import pytest
from private_spellings import SPELLINGS, Z
from usual_rounds import ROUNDS

import audits
import privacy
from audits.certifying import check_modes, issue
from privacy.mechanisms.mechanisms import MechanismError

MECHANISM = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
ARGS = [
    audits.Arg("key", (), "key<fry>", "server_key"),
    audits.Arg("v", (4,), "float32", "clients"),
]
# Neither knows its number of rounds before the run.
NOT_PRIVATE = {"newton_by_library"}
# These need the words that their finding offers: constants that anybody may know.
PUBLIC_CONSTANTS = {"histogram_of_numbers", "count_min_sketch", "line_search"}


def offered(report):
    """The digests that the remedies of a report offer to declare public."""
    remedies = [f.remedy for f in report.findings if f.rule == "FAD005"]
    return [r.partition('public=["')[2].partition('"')[0] for r in remedies]


def judged(subject, *specs):
    """The report, after the remedy for captured constants; and whether that was needed."""
    ((report, _),) = check_modes(subject, *specs).values()
    digests = offered(report)
    if not digests:
        return report, False
    results = check_modes(subject, *specs, public=digests)
    return results["primal"][0], True


def certificate(subject, *specs):
    results = check_modes(subject, *specs)
    return issue(subject, results), results["primal"][1]


@pytest.mark.parametrize("name", ROUNDS)
def test_usual_round_is_accepted(name):
    round_, specs = ROUNDS[name]
    report, helped = judged(round_, *specs)
    assert report.kind != "reject", report.findings
    assert {f.rule for f in report.findings} <= {"FAD602", "FAD204"}
    assert helped == (name in PUBLIC_CONSTANTS)


@pytest.mark.parametrize("name", ROUNDS)
def test_usual_round_is_accepted_with_a_mechanism(name):
    round_, specs = ROUNDS[name]
    if name in NOT_PRIVATE:
        with pytest.raises(MechanismError, match=r"jax\.lax\.scan with a fixed length"):
            privacy.privatize(round_, *specs, mechanism=MECHANISM)
        return
    report, _ = judged(privacy.privatize(round_, *specs, mechanism=MECHANISM))
    assert report.kind == "accept", report.findings


@pytest.mark.parametrize("name", sorted(ROUNDS.keys() - PUBLIC_CONSTANTS))
def test_certificate_of_a_usual_round_is_verified(name):
    round_, specs = ROUNDS[name]
    issued, program = certificate(round_, *specs)
    audits.verify(issued, program)


def test_there_are_enough_usual_rounds():
    assert len(ROUNDS) >= 34
    assert len(NOT_PRIVATE) <= 0.06 * len(ROUNDS)


def by_hand(name):
    return audits.check(
        SPELLINGS[name][0], ARGS, profile="secagg+dp", neighbouring="add_remove"
    )  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_sum_that_is_made_private_by_hand_has_the_stated_verdict(name):
    report, rule = by_hand(name), SPELLINGS[name][1]
    found = {f.rule for f in report.findings}
    assert rule in found if rule else report.kind == "accept", report.findings
    if not rule and name != "clip: vote":
        assert report.facts.noise_multipliers == pytest.approx([Z] * len(report.facts.bounds))


def test_refusals_of_clips_by_hand_name_the_blessed_form():
    for name, (_, rule) in SPELLINGS.items():
        if rule in ("FAD401", "FAD407"):
            assert any("fad.clip" in f.remedy for f in by_hand(name).findings), name


def test_most_spellings_by_hand_are_accepted():
    accepted = [name for name, (_, rule) in SPELLINGS.items() if not rule]
    assert len(accepted) >= 0.7 * len(SPELLINGS)
