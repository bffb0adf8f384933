"""What is accepted keeps to its bound: spellings of clips, measured on hostile values."""

import pytest
from clip_spellings import AFTER_A_CLIP, HONEST, UNSOUND, V
from measured_clients import broken_bounds, checked

NOT_GUARDED = {"optax", "optax in brain floats", "compared"}
CASES = [(family, name) for family, table in UNSOUND.items() for name in table]


@pytest.mark.sample(quick=24)
@pytest.mark.parametrize(("family", "name"), CASES, ids=lambda word: word)
def test_what_lets_something_through_is_refused_or_keeps_to_its_bound(family, name):
    client, args = UNSOUND[family][name]
    _, broken = broken_bounds(client, args)
    assert not broken


@pytest.mark.parametrize("name", HONEST)
def test_usual_spellings_of_a_clip_are_accepted_and_keep_to_their_bound(name):
    client, args = HONEST[name]
    accepted, broken = broken_bounds(client, args)
    assert accepted, checked(client, args).findings
    assert not broken
    found = {f.rule for f in checked(client, args).findings}
    assert ("FAD407" in found) == (name in NOT_GUARDED)


@pytest.mark.parametrize("name", AFTER_A_CLIP)
def test_what_follows_a_clip_has_a_tight_bound(name):
    client, limit = AFTER_A_CLIP[name]
    accepted, broken = broken_bounds(client, [V])
    assert accepted, checked(client, [V]).findings
    assert not broken
    (bound,) = checked(client, [V]).facts.bounds
    assert bound.amount.number <= limit * (1 + 1e-4)
