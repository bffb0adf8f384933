"""What is accepted keeps to its bound: spellings of clips, measured on hostile values."""

import pytest
from clip_spellings import HONEST, UNSOUND
from measured_clients import broken_bounds, checked

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
