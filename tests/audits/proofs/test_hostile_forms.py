"""Forms that nobody traced: a hostile bundle states the digest of whatever it holds.

Damaged forms get the digest that they have, so that every check behind the digest must hold by itself.
Of what is believed, a reader of a few lines, which shares nothing with the verifier, counts the messages,
looks for operations that are never accepted, and recomputes the bounds.
"""

import copy
import hashlib
import json
import math
import random

import pytest
from damaged_bundles import NAMES, damaged_form

from audits.proofs.verification import VerificationError, verify

FORBIDDEN = ("foreign:", "pure_callback", "io_callback", "all_gather", "ppermute", "custom_lin")


def rehashed(certificate, mode, form):
    """The certificate with the digest of another form."""
    digest = hashlib.sha256(form.encode()).hexdigest()
    body = certificate.to_dict() | {"digests": {**certificate.digests, mode: digest}}
    return type(certificate).from_json(json.dumps(body))


def equations(form, index, seen=()):
    """Every equation at any depth, with the list of equations that it is in."""
    body = form["bodies"][index]
    for equation in body["equations"]:
        yield equation, body
        for value in equation[2].values():
            for inner in programs(value):
                yield from equations(form, inner)


def programs(value):
    if isinstance(value, list) and value:
        if value[0] in ("program", "body"):
            yield value[1]
        elif value[0] == "items":
            for item in value[2]:
                yield from programs(item)


def lies(certificate, mode, text):
    """What a believed certificate says falsely about its form."""
    form = json.loads(text)
    found = list(equations(form, form["program"][0]))
    for (primitive, *_), _ in found:
        if primitive.startswith(FORBIDDEN):
            return f"{primitive} is accepted"
    sent = sum(
        sum(type(atom) is int for atom in operands)
        for (primitive, operands, *_), _ in found
        if primitive.startswith("federated_sum@")
    )
    stated = sum(m.kind == "sum" for m in certificate.schedule[mode])
    if stated > sent:
        return f"{stated} sums are stated of {sent}"
    return _false_bounds(certificate, mode, found)


def _false_bounds(certificate, mode, found):
    norms = {b.norm for b in certificate.bounds.get(mode, ())}
    for (primitive, operands, params, _), _ in found:
        if norms and primitive.startswith("federated_clip@"):
            limit = abs(operands[0][1][3])
            units = [abs(float(text)) for _, text in params["norms"][2]]
            if not any(limit * max(units) <= n * (1 + 1e-6) for n in norms):
                return f"a clip to {limit} times {units} beside bounds of {norms}"
    return ""


@pytest.mark.parametrize(
    "count",
    [pytest.param(400, id="short"), pytest.param(12_000, id="long", marks=pytest.mark.slow)],
)
def test_damaged_forms_with_their_own_digest_are_refused_or_say_nothing_false(bundles, count):
    rng, believed, refused = random.Random(count), 0, set()
    for number in range(count):
        bundle = bundles[NAMES[number % len(NAMES)]]
        mode = rng.choice(sorted(bundle.programs))
        form = damaged_form(bundle.programs[mode], rng)
        certificate = rehashed(bundle.certificate, mode, form)
        try:
            verify(certificate, form, mode)
        except VerificationError as error:
            refused.add(str(error)[:20])
            continue
        believed += 1
        assert not lies(certificate, mode, form)
    assert believed < count / 2
    assert len(refused) > 5  # not all for one reason


def edited(bundle, mode, edit):
    form = json.loads(bundle.programs[mode])
    edit(form)
    text = json.dumps(form, separators=(",", ":"))
    return rehashed(bundle.certificate, mode, text), text


def _clips(form):
    return [e for b in form["bodies"] for e in b["equations"] if e[0].startswith("federated_clip@")]


def negative_unit(form):
    for clip in _clips(form):
        clip[2]["norms"][2] = [["float", "-1000.0"] for _ in clip[2]["norms"][2]]


def infinite_unit(form):
    for clip in _clips(form):
        clip[2]["norms"][2] = [["float", "inf"] for _ in clip[2]["norms"][2]]


def nan_limit(form):
    for clip in _clips(form):
        clip[1][0][1][3] = math.nan


def hashed_limit(form):
    for clip in _clips(form):
        clip[1][0][1][3] = "sha256:00"


def foreign_clip(form):
    for clip in _clips(form):
        clip[0] = "foreign:" + clip[0]


def itself(form):
    body = form["program"][0]
    equation = copy.deepcopy(form["bodies"][body]["equations"][0])
    equation[0], equation[2] = "jit@jax", {"jaxpr": ["program", body, []]}
    form["bodies"][body]["equations"][0] = equation


def message_in_a_scatter(form):
    body = form["bodies"][form["program"][0]]
    inner = next(
        k for k, b in enumerate(form["bodies"]) if any("federated" in e[0] for e in b["equations"])
    )
    body["equations"][-1][0] = "scatter-add@jax"
    body["equations"][-1][2] = {"update_jaxpr": ["body", inner]}


def used_before_defined(form):
    body = form["bodies"][form["program"][0]]
    body["equations"][0][1][0] = len(body["avals"]) - 1


def dropped_result(form):
    form["bodies"][form["program"][0]]["results"].pop()


def client_result_at_the_server(form):
    form["words"][form["words"].index("->") + 1] = "clients"


EDITS = [negative_unit, infinite_unit, nan_limit, hashed_limit, foreign_clip, itself,
         message_in_a_scatter, used_before_defined, dropped_result]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: e.__name__)
def test_a_form_that_no_program_has_is_refused(bundles, edit):
    bundle = bundles["tree"]
    certificate, text = edited(bundle, "primal", edit)
    for norm in (1e-9, 0.5, 1e9):
        bounds = [{**vars(b), "norm": norm, "unit": u} for b in bundle.certificate.bounds["primal"]
                  for u in (-1000.0,)]  # fmt: skip
        body = certificate.to_dict() | {"bounds": {"primal": bounds}}
        for stated in (certificate, type(certificate).from_json(json.dumps(body))):
            with pytest.raises(VerificationError):
                verify(stated, text)


def test_bodies_that_stand_for_exponentially_many_are_refused_in_time(bundles):
    bundle = bundles["plain"]

    def bombed(form):
        empty = {"avals": [], "inputs": [0, 0], "equations": [], "results": []}
        bodies = [empty]
        for k in range(40):
            call = lambda k=k: ["jit@jax", [], {"jaxpr": ["program", k, []]}, 0]
            bodies.append({**empty, "equations": [call(), call()]})
        main = copy.deepcopy(form["bodies"][form["program"][0]])
        main["equations"] = [["jit@jax", [], {"jaxpr": ["program", 40, []]}, 0]]
        main["avals"] = main["avals"][: sum(main["inputs"])]
        form["bodies"], form["program"] = [*bodies, main], [41, []]

    certificate, text = edited(bundle, "primal", bombed)
    paths = {"": "S" * 1, "0": ""}
    body = certificate.to_dict()
    body["evidence"]["primal"] = paths
    with pytest.raises(VerificationError):
        verify(type(certificate).from_json(json.dumps(body)), text)
