"""Random edits of certificates: whatever is verified afterwards says nothing false.

The oracle compares the edited certificate with the program's own, field by field, in the direction in
which a statement becomes stronger. It does not look at what the verifier computed.
"""

import functools
import json
import math
import random

import pytest
from wild_programs import WILD

import audits
import privacy
from audits.certifying import check_modes, issue
from audits.proofs.verification import VerificationError, verify
from privacy.certificates.certificates import Certificate, CertificateError
from privacy.mechanisms.mechanisms import Gaussian

HONEST = [w for w in WILD if w.style == "native" and w.verdicts["primal"][0] != "reject"]
MECHANISMS = (
    Gaussian(noise_multiplier=1.0, clip_norm=0.5),
    Gaussian(noise_multiplier=2.0, clip_norm={"*": 1.5}, joint=False, noise="distributed"),
)
EDITS = 100  # of one test


@functools.cache
def issued():
    """Twenty programs with their certificates: plain ones, derivatives and private ones."""
    made = []
    for index, wild in enumerate(HONEST):
        mode = ("primal", "forward", "reverse")[index % 3]
        reports = check_modes(wild.program, *wild.args, modes=(mode,))
        report, program = reports.get(mode, (None, None))
        if report is not None and report.kind != "reject":
            made.append((issue(wild.program, reports), program, mode))
    for index, wild in enumerate(HONEST):
        try:
            private = privacy.privatize(
                wild.program, *wild.args, mechanism=MECHANISMS[index % len(MECHANISMS)]
            )
            made.append((audits.certify(private), private.program, "primal"))
        except (audits.certifying.CertificationError, privacy.PrivacyError):
            continue
    return made[:10] + made[-10:]


def places(value, path=()):
    """The paths of all parts of a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def edited(body, draw):
    """A copy with one to three changes, somewhere."""
    body = json.loads(json.dumps(body))
    for _ in range(draw.choice((1, 1, 2, 3))):
        parts = [p for p in places(body) if p and not (p[0] == "evidence" and draw.random() < 0.8)]
        path = draw.choice(parts)
        holder = functools.reduce(lambda v, k: v[k], path[:-1], body)
        holder[path[-1]] = changed(holder[path[-1]], body, parts, draw)
        if draw.random() < 0.1:
            del holder[path[-1]]
    return body


def changed(value, body, parts, draw):
    """Another value of the same kind, or that of another place."""
    if draw.random() < 0.2:
        return json.loads(json.dumps(functools.reduce(lambda v, k: v[k], draw.choice(parts), body)))
    match value:
        case bool():
            return not value
        case int() | float():
            return draw.choice((0, -value, value + 1, value - 1, value * 2, value / 2, 1000, 1e-6))
        case str():
            letters = "S" * len(value)
            return draw.choice((value[1:], value + "x", value[::-1], "", "clip0", letters))
        case list():
            return draw.choice((value[1:], value + value[:1], value[::-1], []))
        case dict():
            return {k: v for k, v in value.items() if draw.random() < 0.7}
    return draw.choice((0, "", [], {}))


def lie(edited, true, mode):
    """A statement of a certificate about one mode that is stronger than what is true; "" if none is."""
    ours, own = edited.to_dict(), true.to_dict()
    if ours["digests"].get(mode) != own["digests"][mode]:
        return "digest"
    if ours["profile"] != own["profile"] and ours["profile"] != "secagg":
        return "profile"
    if ours["arguments"] != own["arguments"]:
        return "arguments"
    keep = ("kind", "name", "shape", "dtype", "bytes", "count", "phase")
    messages = [[[m[k] for k in keep] for m in c["schedule"][mode]] for c in (ours, own)]
    if messages[0] != messages[1]:
        return "schedule"
    if set(own["assumptions"]) - set(ours["assumptions"]):
        return "assumptions"
    if own["clients"]["readdress"] and not ours["clients"].get("readdress"):
        return "clients"
    if own["clients"]["residual_bytes"] > ours["clients"]["residual_bytes"]:
        return "state"
    again = [{o["rule"] for o in c["obligations"]} & {"FAD306"} for c in (ours, own)]
    if again[1] - again[0]:
        return "obligations"
    if 1 in range(ours["cohort"]["minimum"], 1 + (ours["cohort"]["maximum"] or 2)):
        return "cohort"
    if ours["profile"] == "secagg":
        return "bounds" if ours["bounds"] or ours["mechanism"] else ""
    rounded = [{o["rule"] for o in c["obligations"]} & {"FAD408"} for c in (ours, own)]
    if rounded[1] - rounded[0]:
        return "obligations"
    return lie_about_bounds(ours["bounds"].get(mode), own["bounds"][mode], ours["mechanism"])


def lie_about_bounds(stated, true, mechanism):
    """A bound, or a clip norm of the mechanism, that the program exceeds."""
    if [b["sum"] for b in stated] != [b["sum"] for b in true]:
        return "sums"
    for ours, own in zip(stated, true):
        if not isinstance(ours["norm"], int | float) or ours["norm"] < own["norm"] * (1 - 1e-6):
            return "norm"
        if ours["slack"] < own["slack"] * (1 - 1e-6):
            return "slack"
        if ours["proof"] != own["proof"] or not math.isclose(ours["unit"], own["unit"]):
            return "proof or unit"
        if not mechanism:
            continue
        limit = mechanism["clip_norm"]
        largest = limit if isinstance(limit, int | float) else max(limit.values())
        if largest < own["norm"] * (1 - 1e-6):
            return "mechanism"
    pairs = [(a, b) for a in range(len(true)) for b in range(a)]
    joined = [stated[a]["group"] == stated[b]["group"] for a, b in pairs]
    jointly = [true[a]["group"] == true[b]["group"] for a, b in pairs]
    # Clipped jointly but stated apart is a weaker statement.
    return "groups" if any(x and not y for x, y in zip(joined, jointly)) else ""


def test_there_are_twenty_certificates_of_three_kinds():
    kinds = [(c.profile, mode) for c, _, mode in issued()]
    assert len(kinds) == 20
    assert {"primal", "forward"} <= {mode for _, mode in kinds}
    assert sum(profile == "secagg+dp" for profile, _ in kinds) == 10
    for certificate, program, mode in issued():
        verify(certificate, program, mode)


@pytest.mark.sample(quick=3)
@pytest.mark.parametrize("seed", range(200))
def test_an_edited_certificate_that_is_verified_says_nothing_false(seed):
    draw, verified = random.Random(seed), 0
    for index in range(EDITS):
        certificate, program, mode = issued()[(seed + index) % 20]
        text = json.dumps(edited(json.loads(certificate.to_json()), draw))
        try:
            found = Certificate.from_json(text)
            verify(found, program, mode)
        except (CertificateError, VerificationError):
            continue
        verified += 1
        assert not lie(found, certificate, mode), text
    assert verified, "every edit was refused, so nothing was tested"


def test_the_oracle_sees_lies():
    """Edits of every kind that the oracle is for are lies to it."""
    certificate, _, mode = next(c for c in issued() if c[0].profile == "secagg+dp")
    body = json.loads(certificate.to_json())
    for path, value in (
        (("bounds", mode, 0, "norm"), 1e-6),
        (("bounds", mode, 0, "unit"), 1000.0),
        (("bounds", mode, 0, "slack"), 0.5),
        (("bounds", mode, 0, "proof"), "audited"),
        (("mechanism", "clip_norm"), 1e-6),
        (("digests", mode), "0" * 64),
        (("schedule", mode, 0, "count"), 99),
        (("assumptions",), []),
    ):
        copy = json.loads(json.dumps(body))
        functools.reduce(lambda v, k: v[k], path[:-1], copy)[path[-1]] = value
        assert lie(Certificate.from_json(json.dumps(copy)), certificate, mode), path
    assert not lie(certificate, certificate, mode)
