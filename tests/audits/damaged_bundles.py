"""Bundles of five kinds, and ways to damage one."""

import json

from usual_rounds import ROUNDS

import audits
import privacy
from audits.certifying import check_modes, issue
from audits.proofs.bundles import Bundle
from secagg.crypto.primitives import SigningKey

KEY = SigningKey(bytes(range(32)))
MECHANISM = privacy.Gaussian(noise_multiplier=1.0, clip_norm=0.5)


def bundle_of(subject, *specs, modes=("primal",), key=None):
    results = check_modes(subject, *specs, modes=modes)
    issued = issue(subject, results)
    made = issued if key is None else audits.sign(issued, key)
    return Bundle.of(made, {m: p for m, (_, p) in results.items()}, issued="2026-12-01")


def private(name):
    round_, specs = ROUNDS[name]
    return privacy.privatize(round_, *specs, mechanism=MECHANISM)


def make_bundles():
    """Bundles by name."""
    average, specs = ROUNDS["average"]
    histogram = ROUNDS["histogram_of_labels"]
    return {
        "plain": bundle_of(average, *specs, modes=("primal", "forward", "reverse", "mixed")),
        "signed": bundle_of(average, *specs, key=KEY),
        "loops": bundle_of(private("newton_by_hand")),
        "slots": bundle_of(histogram[0], *histogram[1]),
        "tree": bundle_of(private("low_rank_adapters")),
    }


NAMES = ["plain", "signed", "loops", "slots", "tree"]


def damaged(text, rng):
    """A bundle with one value, character or piece changed."""
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        piece = rng.choice(["", "9", "-1", "null", '"', "]", "1e999", "K", "S", "C", "B"])
        return text[:at] + piece + text[at + rng.randrange(3) :]
    found = json.loads(text)
    if rng.random() < 0.5:
        mode = rng.choice(list(found["programs"]))
        found["programs"][mode] = damaged_form(found["programs"][mode], rng)
    else:
        _change(found["certificate"], rng)
    return json.dumps(found)


def damaged_form(text, rng):
    """A canonical form with one value changed."""
    form = json.loads(text)
    _change(form, rng)
    return json.dumps(form, separators=(",", ":"))


def _change(form, rng):
    """Changes one value somewhere inside."""
    while True:
        keys = list(form) if isinstance(form, dict) else list(range(len(form)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(form[key], dict | list) and form[key] and rng.random() < 0.9:
            form = form[key]
            continue
        kind = rng.randrange(4)
        if kind == 0 and isinstance(form, dict):
            del form[key]
        elif kind == 1:
            form[key] = rng.choice(VALUES)
        elif kind == 2 and isinstance(form, list):
            form.insert(key, form[rng.choice(keys)])
        else:
            form[key] = form[rng.choice(keys)]
        return


VALUES = [
    None,
    True,
    0,
    1,
    -1,
    2**70,
    1.5,
    float("inf"),
    "",
    "C",
    "S",
    "KKKK",
    [],
    {},
    [[]],
    "federated_sum",
]
