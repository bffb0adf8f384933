"""Exactness where it can be checked exactly, and goodness of fit where it cannot.

False alarms: every statistical test here uses a fixed seed and a threshold that a right sampler
passes with probability 1 - 1e-6; that a wrong scale fails it is tested too.
"""

import hashlib
import json
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ive

from privacy.errors import InvalidEvent
from privacy.noise import enclosures, samplers
from privacy.noise.enclosures import BlockLaw, PoissonLaw, Table, bernoulli_exp, exp_interval
from privacy.noise.samplers import discrete_gaussian, skellam
from secagg.crypto.streams import SecureStream

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "samplers.json").read_text())
SAMPLERS = {
    "discrete_gaussian": discrete_gaussian,
    "skellam": skellam,
}
ALARM = 1e-6


class ShakeStream:
    """SHAKE-256 in counter mode: the same seed gives the same bits on every machine."""

    def __init__(self, seed):
        self._seed = str(seed).encode()
        self._counter = 0

    def bytes(self, count):
        self._counter += 1
        return hashlib.shake_256(self._seed + self._counter.to_bytes(8, "big")).digest(count)

    def uint64(self, size):
        words = np.frombuffer(self.bytes(8 * int(np.prod(size))), dtype="<u8")
        return words.astype(np.uint64).reshape(size)

    def uniform(self, size):
        return (self.uint64(size) >> np.uint64(11)) * 2.0**-53


def pmf(name, scale, x):
    if name == "skellam":
        return ive(np.abs(x), scale)
    far = math.ceil(40 * scale) + 40
    support = np.arange(-far, far + 1, dtype=np.float64)
    weights = [np.exp(-np.square(y, dtype=np.float64) / (2 * scale**2)) for y in (x, support)]
    return weights[0] / np.sum(weights[1])


def fit(name, claimed, draws):
    """p-value of the chi-square test of draws against a claimed scale, in bins of at least 30."""
    scale = math.sqrt(claimed) if name == "skellam" else claimed
    width = max(1, int(scale / 8))
    far = math.ceil(9 * scale / width) + 9
    edges = np.arange(-far, far + 1) * width
    support = np.arange(edges[0], edges[-1])
    expected = np.add.reduceat(pmf(name, claimed, support), edges[:-1] - edges[0]) * len(draws)
    observed = np.histogram(draws, bins=edges)[0]
    common = expected >= 30
    observed = np.append(observed[common], len(draws) - observed[common].sum())
    expected = np.append(expected[common], len(draws) - expected[common].sum())
    statistic = np.sum((observed - expected) ** 2 / np.maximum(expected, 1e-9))
    return stats.chi2.sf(statistic, len(observed) - 1)


@pytest.mark.parametrize(
    "case", VECTORS["cases"], ids=lambda case: f"{case['name']} {case['scale']}"
)
def test_known_answers(case):
    sampler = SAMPLERS[case["name"]]
    draws = sampler(case["scale"], len(case["draws"]), ShakeStream(case["seed"]))
    assert draws.tolist() == case["draws"]


CASES = [
    ("discrete_gaussian", 0.5),
    ("discrete_gaussian", 3.0),
    ("discrete_gaussian", 16.0),
    ("discrete_gaussian", 37.3),
    ("discrete_gaussian", 5000.5),
    ("skellam", 0.8),
    ("skellam", 90.0),
    ("skellam", 250_000.0),
]


@pytest.mark.parametrize(("name", "scale"), CASES)
def test_draws_fit_their_distribution_and_no_wrong_scale(name, scale):
    draws = SAMPLERS[name](scale, 300_000, ShakeStream(f"{name} {scale}"))
    assert draws.dtype == np.int64
    assert fit(name, scale, draws) > ALARM
    for wrong in (0.97, 1.03):
        assert fit(name, scale * (wrong**2 if name == "skellam" else wrong), draws) < ALARM


def test_low_bits_and_signs_are_even():
    draws = discrete_gaussian(37.3, 400_000, ShakeStream("bits"))
    for share in (np.mean(draws & 1), np.mean(draws[draws != 0] < 0), np.mean((draws >> 1) & 1)):
        assert abs(share - 0.5) < stats.norm.isf(ALARM / 2) * 0.5 / math.sqrt(300_000)


@pytest.mark.sample(quick=0, slow=3)
@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), CASES)
def test_thirty_million_draws_fit_their_distribution(name, scale):
    stream = SecureStream(hashlib.sha256(f"{name} {scale}".encode()).digest())
    draws = SAMPLERS[name](scale, 30_000_000, stream)
    assert fit(name, scale, draws) > ALARM
    wrong = 1.003
    assert fit(name, scale * (wrong**2 if name == "skellam" else wrong), draws) < ALARM


@pytest.mark.parametrize("sigma", [2.0**20, 2.0**30, 123456789.125])
def test_large_scales_have_the_right_moments(sigma):
    draws = discrete_gaussian(sigma, 400_000, ShakeStream(sigma)) / sigma
    band = stats.norm.isf(ALARM / 2)
    assert abs(draws.mean()) < band / math.sqrt(400_000)
    assert abs(draws.var() - 1) < band * math.sqrt(2 / 400_000)
    assert stats.kstest(draws, "norm").pvalue > ALARM


# Enclosures: what makes the comparisons exact.


def reference_exp(x, digits=90):
    with localcontext() as context:
        context.prec = digits
        return (-(Decimal(x.numerator) / Decimal(x.denominator))).exp()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.fractions(0, 150, max_denominator=10**9), st.sampled_from([32, 96, 160]))
def test_exp_intervals_hold_the_value_and_are_narrow(x, bits):
    low, high = exp_interval(x, bits)
    with localcontext() as context:
        context.prec = 120
        value = reference_exp(x, 120) * 2**bits
        assert low <= value <= high
    assert high - low <= 3


def true_cumulative(law, count):
    with localcontext() as context:
        context.prec = 90
        if isinstance(law, PoissonLaw):
            ratio = Decimal(law.mean.numerator) / Decimal(law.mean.denominator)
            places = law.outcome(np.arange(20 * count + 400))

            def weight(k):
                return Decimal(0) if k < 0 else ratio ** int(k) / Decimal(math.factorial(int(k)))

            weights = [weight(k) for k in places]
        else:
            weights = []
            for index in range(6 * count + 60):
                x = index * law.width
                weights.append(reference_exp(law.square * x * x))
        total, running, result = sum(weights), Decimal(0), []
        for value in weights[:count]:
            running += value
            result.append(running / total)
        return result


LAWS = [
    BlockLaw(1 / (2 * Fraction(1.5) ** 2), 1),
    BlockLaw(1 / (2 * Fraction(70.1) ** 2), 4),
    PoissonLaw(Fraction(7, 2)),
    PoissonLaw(Fraction(1, 10)),
    PoissonLaw(Fraction(40)),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_tables_enclose_the_true_cumulative_probabilities(law):
    table = Table(law)
    truth = true_cumulative(law, len(table.floors))
    for index, value in enumerate(truth):
        scaled = value * 2**enclosures.WORD
        assert int(table.floors[index]) <= scaled <= int(table.floors[index]) + 1 + Decimal("1e-9")
        assert scaled <= int(table.blurred[index + 1]) or index + 1 == len(truth)


class Script:
    """A stream that continues with given bytes."""

    def __init__(self, tail):
        self._tail = tail

    def bytes(self, count):
        part, self._tail = self._tail[:count], self._tail[count:]
        return part


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("more", [0, 2**63, 2**64 - 1])
def test_undecided_words_are_resolved_as_the_true_distribution_says(law, more):
    table = Table(law)
    truth = true_cumulative(law, len(table.floors))
    for word in [0, *(int(value) for value in table.floors[:-1:7]), 2**31 + 12345]:
        tail = more.to_bytes(8, "little")
        index = table.resolve(word, Script(tail * 4))
        uniform = Decimal(word << 64 | more) / 2**96
        if index < len(truth):
            assert uniform <= truth[index]
            assert index == 0 or uniform + Decimal(2) ** -96 >= truth[index - 1]
        else:
            assert uniform >= truth[-1]


class VagueLaw:
    """Thirds that are known badly until more than 200 bits are asked for."""

    def weights(self, bits):
        third, room = 2**bits // 3, 2 ** (bits - 40) if bits < 200 else 1
        return [third - room] * 3, [third + room + 1] * 3, 0


@pytest.mark.parametrize(("below", "outcome"), [(True, 0), (False, 1)])
def test_a_draw_waits_until_the_enclosures_decide_it(below, outcome):
    table = Table(VagueLaw())
    near = 2**160 // 3 + (-(2**100) if below else 2**100)  # within 2^-60 of one third
    tail = b"".join((near >> shift & 2**64 - 1).to_bytes(8, "little") for shift in (64, 0))
    assert table.resolve(near >> 128, Script(tail + bytes(64))) == outcome


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(16.0, 2.0**30), st.integers(0, 2**62))
def test_integer_bounds_of_gamma_hold(scale, seed):
    sampler = samplers._gaussian_sampler.__wrapped__(Fraction(scale))
    width = 1 << sampler.log_width
    random = np.random.default_rng(seed)
    block = random.integers(0, len(sampler.table.floors), 50)
    offset = random.integers(0, width, 50).astype(np.uint64)
    base = block.astype(np.uint64) << np.uint64(sampler.log_width)
    numbers = offset * (2 * base + offset)
    for low, b, o in zip(sampler.gamma.floor(numbers), base, offset, strict=True):
        exact = sampler._exact_gamma(int(b), int(o))
        assert exact < 1
        assert int(low) <= exact * 2**32 <= int(low) + sampler.gamma.slack
    assert sampler.gamma.slack < 16


@pytest.mark.parametrize("x", [Fraction(0), Fraction(1, 3), Fraction(1), Fraction(5, 2)])
def test_bernoulli_exp_has_its_probability(x):
    stream, tries = ShakeStream(x), 20_000
    hits = sum(bernoulli_exp(x, stream) for _ in range(tries))
    assert stats.binomtest(hits, tries, math.exp(-x)).pvalue > ALARM


def test_every_draw_decided_the_slow_way_has_the_same_distribution(monkeypatch):
    """With all comparisons undecided at first, only the exact big-integer paths are left."""
    sampler = samplers._gaussian_sampler.__wrapped__(Fraction(40))
    sampler.table.blurred[:] = 2**32
    object.__setattr__(sampler.gamma, "slack", 2**33)
    monkeypatch.setattr(samplers, "_gaussian_sampler", lambda sigma: sampler)
    draws = discrete_gaussian(40, 8000, ShakeStream("slow"))
    assert fit("discrete_gaussian", 40.0, draws) > ALARM
    assert fit("discrete_gaussian", 40.0 * 1.15, draws) < ALARM


def test_blocks_beyond_the_table_are_accepted_exactly():
    sampler = samplers._gaussian_sampler.__wrapped__(Fraction(64))
    count, width = 6000, 1 << sampler.log_width
    block = np.full(count, len(sampler.table.floors) + 3, dtype=np.uint64)
    base, offset = block * np.uint64(width), np.full(count, width - 1, dtype=np.uint64)
    words = ShakeStream("far").uint64(count) >> np.uint64(32)
    keep = sampler._accepted(block, base, offset, words, ShakeStream("more"))
    chance = math.exp(-sampler._exact_gamma(int(base[0]), width - 1))
    assert stats.binomtest(int(keep.sum()), count, chance).pvalue > ALARM


# The interface.


@pytest.mark.parametrize("name", SAMPLERS)
def test_shapes_and_blocks(name):
    assert SAMPLERS[name](3.0, (2, 3, 4), ShakeStream(0)).shape == (2, 3, 4)
    assert SAMPLERS[name](3.0, 0, ShakeStream(0)).shape == (0,)
    assert SAMPLERS[name](3.0, samplers.BLOCK + 7, ShakeStream(0)).shape == (samplers.BLOCK + 7,)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf, True, None, 2**40, 1e-9])
def test_scales_out_of_range_are_refused(name, scale):
    with pytest.raises(InvalidEvent, match="grid steps"):
        SAMPLERS[name](scale, 3, ShakeStream(0))


def test_different_seeds_give_different_noise_and_equal_seeds_the_same():
    first, again, other = (discrete_gaussian(99.5, 50, ShakeStream(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_the_discrete_gaussian_has_at_most_the_variance_it_is_charged_for():
    for sigma in (0.3, 0.5, 1.0, 2.0):
        support = np.arange(-60, 61)
        variance = float(np.sum(support**2 * pmf("discrete_gaussian", sigma, support)))
        assert variance <= sigma**2 * (1 + 1e-12)
        draws = discrete_gaussian(sigma, 300_000, ShakeStream(sigma))
        assert math.isclose(draws.var(), variance, rel_tol=0.03)
