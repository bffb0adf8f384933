"""Explicit neighbouring populations whose privacy loss is computed from scratch, without the accountant.

Everyone but the target sends the same vector, and the adversary knows the size of every cohort, as it
does where clients add the noise. Losses of one release are rounded *down* to a grid and composed by FFT,
so that what comes out is below the true epsilon: no claimed epsilon may be below it.
"""

import math

import numpy as np
from scipy import special, stats

_REACH = 9.0  # deviations; what is left out is given to a loss of minus infinity
_ROUNDING = 1e-11  # of an FFT of 2^16 points, far above what it makes


def poisson_known_size(others, q, z, rounds, honest, delta):
    """Others send -e1, the target, who is added, +e1; cohorts are Poisson samples of known size."""
    sizes = np.arange(1, others + 2)
    without, with_target = stats.binom.pmf(sizes, others, q), stats.binom.pmf(sizes, others + 1, q)
    pairs = []
    for n, out, inside in zip(sizes, without, with_target, strict=True):
        if out + inside > 1e-9:
            share = n / (others + 1)
            std = z * math.sqrt(n / max(1, math.floor(honest * n)))
            pairs.append((inside, mixture(share, 2.0, std), out, mixture(0.0, 0.0, std)))
    return max(epsilon(pairs, rounds, delta), epsilon([_swapped(p) for p in pairs], rounds, delta))


def fixed_size(population, size, z, rounds, delta):
    """The target is replaced; of all cohorts of a fixed size. The worst of four pairs, both ways."""
    share = size / population
    pairs = [
        (mixture(share, 2.0, z), mixture(0.0, 0.0, z)),  # others send -e1, target +e1 or -e1
        (mixture(share, 1.0, z), mixture(share, -1.0, z)),  # others send 0
        (mixture(share, 1.0, z), mixture(0.0, 0.0, z)),  # others send 0, target +e1 or 0
        (mixture(share, 2.0, z, 1.0), mixture(share, 0.0, z, 1.0)),  # others move by 1
    ]
    both = [*pairs, *((b, a) for a, b in pairs)]
    return max(epsilon([(1.0, a, 1.0, b)], rounds, delta) for a, b in both)


def mixture(share, shift, std, rest=0.0):
    """Log density of (1 - share) N(rest, std^2) + share N(shift, std^2), and where to look."""

    def density(x):
        near = stats.norm.logpdf(x, rest, std)
        far = stats.norm.logpdf(x, shift, std)
        if share in (0.0, 1.0):
            return far if share else near
        return np.logaddexp(math.log1p(-share) + near, math.log(share) + far)

    low, high = min(rest, shift, -2.0), max(rest, shift, 2.0)
    return density, low - _REACH * std, high + _REACH * std


def _swapped(pair):
    weight, one, other_weight, other = pair
    return other_weight, other, weight, one


def epsilon(pairs, rounds, delta):
    """Below the epsilon of `rounds` releases by (weight, P, weight', Q), the weight being of a known size."""
    losses, masses = [], []
    for weight, (one, low, high), other_weight, (other, *_) in pairs:
        x = np.linspace(low, high, 4001)
        here, there = one(x), other(x)
        masses.append(weight * np.exp(here) * (x[1] - x[0]))
        gap = math.log(max(weight, 1e-300)) - math.log(max(other_weight, 1e-300))
        losses.append(here - there + gap)
    loss, mass = np.concatenate(losses), np.concatenate(masses)
    mass = mass / max(1.0, mass.sum())
    mean, spread = float(mass @ loss), math.sqrt(float(mass @ (loss - mass @ loss) ** 2))
    width = 2 * (12 * spread * math.sqrt(rounds) + float(np.ptp(loss[mass > 1e-14])))
    count = 1 << 16
    step = width / count
    return _composed(
        np.floor((loss - mean) / step).astype(int), mass, step, mean, rounds, delta, count
    )


def _composed(index, mass, step, mean, rounds, delta, count):
    one = np.bincount(index % count, weights=mass, minlength=count)
    many = np.fft.irfft(np.fft.rfft(one) ** rounds, count)
    place = (np.arange(count) + count // 2) % count - count // 2
    order = np.argsort(place)
    total, weight = (
        place[order] * step + rounds * mean,
        np.maximum(many[order] - _ROUNDING / count, 0),
    )

    def delta_at(target):
        above = total > target
        return float(np.sum(weight[above] * -np.expm1(target - total[above])))

    low, high = 0.0, float(total[-1])
    if delta_at(low) <= delta:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if delta_at(middle) <= delta else (middle, high)
    return low


def gaussian(shift_over_std, delta):
    """Closed form of one pair N(0, 1), N(mu, 1)."""
    mu = shift_over_std
    low, high = 0.0, 200.0
    for _ in range(80):
        e = (low + high) / 2
        value = special.ndtr(mu / 2 - e / mu) - math.exp(min(e, 700)) * special.ndtr(
            -mu / 2 - e / mu
        )
        low, high = (e, high) if value > delta else (low, e)
    return low
