import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.events import MAX_DEPTH, canonical_json, event_of, parse_event
from privacy.accounting.terms import GaussianTerm, joint_noise_multiplier
from privacy.errors import InvalidEvent, UnsupportedEvent

GAUSSIAN = {"type": "gaussian", "noise_multiplier": 1.0}


def leaves():
    numbers = st.floats(0.01, 1e6)
    return st.one_of(
        st.builds(lambda z: {"type": "gaussian", "noise_multiplier": z}, numbers),
        st.builds(lambda z: {"type": "laplace", "noise_multiplier": z}, numbers),
        st.builds(lambda r, x: {"type": "zcdp", "rho": r, "xi": x}, numbers, st.floats(0, 3)),
        st.builds(
            lambda n: {"type": "tree", "noise_multiplier": 2.0, "steps": n}, st.integers(1, 9)
        ),
        st.just({"type": "non_private"}),
        st.builds(
            lambda v, n: {"type": "skellam", "variance": v, "l2": 1.0, "l1": 2.0, "rounds": n},
            numbers,
            st.integers(1, 5),
        ),
        st.builds(
            lambda q, z: {
                "type": "poisson",
                "q": q,
                "event": {"type": "gaussian", "noise_multiplier": z},
            },
            st.floats(1e-6, 1.0),
            numbers,
        ),
        st.builds(
            lambda z, m: {
                "type": "sampled_without_replacement",
                "dataset_size": 50,
                "sample_size": m,
                "event": {"type": "gaussian", "noise_multiplier": z},
            },
            numbers,
            st.integers(1, 50),
        ),
    )


def events():
    return st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.builds(lambda e: {"type": "composed", "events": e}, st.lists(inner, max_size=4)),
            st.builds(
                lambda e, n: {"type": "self_composed", "event": e, "count": n},
                inner,
                st.integers(1, 9),
            ),
            st.builds(
                lambda e: {"type": "repeat_and_select", "event": e, "mean": 2.0, "shape": "inf"},
                inner,
            ),
        ),
        max_leaves=6,
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(events())
def test_canonical_json_round_trips(event):
    terms = parse_event(event)
    text = canonical_json(event_of(terms))
    assert parse_event(json.loads(text)) == terms
    assert canonical_json(event_of(parse_event(json.loads(text)))) == text


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(leaves(), min_size=2, max_size=5), st.randoms())
def test_order_does_not_matter(parts, random):
    shuffled = list(parts)
    random.shuffle(shuffled)
    forward = parse_event({"type": "composed", "events": parts})
    assert forward == parse_event({"type": "composed", "events": shuffled})


def test_releases_on_one_cohort_are_one_gaussian_inside_the_sample():
    parts = [{"type": "gaussian", "noise_multiplier": z} for z in (2.0, 3.0, 6.0)]
    sample = {"type": "poisson", "q": 0.2, "event": {"type": "composed", "events": parts}}
    ((leaf, count),) = parse_event(sample)
    assert isinstance(leaf, GaussianTerm)
    assert count == 1
    assert leaf.q == 0.2
    assert math.isclose(leaf.noise_multiplier, (1 / 4 + 1 / 9 + 1 / 36) ** -0.5, rel_tol=1e-15)


def test_everyone_sampled_is_no_sampling():
    assert parse_event({"type": "poisson", "q": 1, "event": GAUSSIAN}) == parse_event(GAUSSIAN)


BAD_NUMBERS = [math.nan, math.inf, -math.inf, 0, -1, True, "1", None, [1], 10**400]


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: {"type": "poisson", "q": 0.1, "event": e}])
def test_noise_must_be_a_positive_finite_number(value, wrap):
    with pytest.raises(InvalidEvent, match="Expected"):
        parse_event(wrap({"type": "gaussian", "noise_multiplier": value}))


@pytest.mark.parametrize("value", [*BAD_NUMBERS, 1.0000001])
def test_sampling_rate_must_lie_in_the_half_open_unit_interval(value):
    with pytest.raises(InvalidEvent, match="Expected"):
        parse_event({"type": "poisson", "q": value, "event": GAUSSIAN})


@pytest.mark.parametrize("value", [0, -5, True, 1.5, 2.0, "3", None, 10**13])
def test_counts_must_be_integers_of_at_least_one_at_every_depth(value):
    event = {"type": "self_composed", "event": GAUSSIAN, "count": value}
    for wrapped in (event, {"type": "composed", "events": [GAUSSIAN, event]}):
        with pytest.raises(InvalidEvent, match="Expected"):
            parse_event(wrapped)


def test_counts_cannot_overflow_by_nesting():
    event = GAUSSIAN
    for _ in range(5):
        event = {"type": "self_composed", "event": event, "count": 10**9}
    with pytest.raises(InvalidEvent, match="at most"):
        parse_event(event)


@pytest.mark.parametrize(
    "event",
    [
        {},
        [],
        "gaussian",
        None,
        {"type": None},
        {"type": ["gaussian"]},
        {"type": "gaussian"},
        {"type": "gaussian", "noise_multiplier": 1.0, "sensitivity": 2.0},
        {"type": "composed", "events": "gaussian"},
        {"type": "composed", "events": GAUSSIAN},
        {"type": "composed", "events": [GAUSSIAN, 3]},
        {"type": "DpEvent", "module_name": "subprocess", "class_name": "getoutput"},
    ],
)
def test_malformed_events_are_refused(event):
    with pytest.raises(InvalidEvent, match="Expected"):
        parse_event(event)


def test_a_type_is_never_imported():
    script = (
        "import sys, privacy.accounting.events as e\n"
        "try: e.parse_event({'type': 'antigravity'})\n"
        "except ValueError: print('antigravity' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_depth_is_bounded_before_the_interpreter_is():
    event = GAUSSIAN
    for _ in range(100_000):
        event = {"type": "composed", "events": [event]}
    with pytest.raises(InvalidEvent, match=f"at most {MAX_DEPTH}"):
        parse_event(event)


@pytest.mark.parametrize(
    "inner",
    [
        {"type": "poisson", "q": 0.5, "event": GAUSSIAN},
        {"type": "composed", "events": [GAUSSIAN, {"type": "laplace", "noise_multiplier": 1.0}]},
        {
            "type": "self_composed",
            "event": {"type": "laplace", "noise_multiplier": 1.0},
            "count": 2,
        },
        {
            "type": "distributed_discrete_gaussian",
            "clients": 9,
            "local_sigma": 3.0,
            "l2": 1.0,
            "l1": 1.0,
            "dim": 1,
        },
    ],
)
def test_samples_without_a_bound_are_refused(inner):
    with pytest.raises(UnsupportedEvent, match="Poisson sample of"):
        parse_event({"type": "poisson", "q": 0.1, "event": inner})


def test_numpy_numbers_are_numbers():
    event = {"type": "gaussian", "noise_multiplier": np.float64(2.0)}
    counted = {"type": "self_composed", "event": event, "count": np.int64(3)}
    assert parse_event(counted) == ((GaussianTerm(2.0), 3),)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.integers(1, 100)), min_size=1, max_size=6))
def test_joint_noise_is_exact_and_below_every_part(parts):
    z = joint_noise_multiplier(parts)
    assert z <= min(part for part, _ in parts) * (1 + 1e-15)
    exact = math.fsum(count / part**2 for part, count in parts) ** -0.5
    assert math.isclose(z, exact, rel_tol=1e-12)
