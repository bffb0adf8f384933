"""Delta of a composition of sampled Gaussians, without a grid of losses and without dp_accounting.

    delta(eps) = 1 / (2 pi i)  integral of  M(s) exp(-s eps) / (s (s + 1)) ds  along Re s = theta > 0

with M(s) = prod E[exp(s L)]^count. The expectation is a sum over Gauss-Legendre nodes in x; the path goes
through the saddle point, so that nothing cancels and small deltas keep their relative accuracy.

Source: Zhu, Dong, Wang (2022), for the characteristic function; the formula is the Laplace transform of
(1 - exp(-x))+, inverted.
"""

import math

import numpy as np

FAR = 13.0
_X, _XW = np.polynomial.legendre.leggauss(10)
_T, _TW = np.polynomial.legendre.leggauss(16)


def panels(cuts, nodes, weights):
    middle, half = (cuts[1:] + cuts[:-1]) / 2, (cuts[1:] - cuts[:-1]) / 2
    return (middle[:, None] + half[:, None] * nodes).ravel(), (half[:, None] * weights).ravel()


def law(z, q, direction):
    """Losses and their probabilities of one draw; direction is "remove", "add" or "replace"."""
    cuts = np.linspace(-FAR * z - 1, FAR * z + 1, 700)
    x, w = panels(cuts, _X, _XW)

    def normal(mean):
        return np.exp(-(((x - mean) / z) ** 2) / 2) / (z * math.sqrt(2 * math.pi))

    def ratio(sign):
        return np.logaddexp(
            math.log1p(-q) if q < 1 else -np.inf, math.log(q) + (sign * x - 0.5) / z**2
        )

    mixed = (1 - q) * normal(0) + q * normal(1)
    if direction == "remove":
        return ratio(1), mixed * w
    if direction == "add":
        return -ratio(1), normal(0) * w
    return ratio(1) - ratio(-1), mixed * w


def delta(schedule, eps, direction):
    """Delta at eps > 0 of [(z, q, count), ...]; NaN where the integral does not settle."""
    laws = [(*law(z, q, direction), count) for z, q, count in schedule]

    def cumulant(s):
        s = np.atleast_1d(s)
        total = np.zeros(len(s), complex)
        for values, masses, count in laws:
            shift = float(np.max(s.real)) * float(values.max())
            if shift < 500:
                total += count * np.log1p(np.expm1(np.outer(s, values)) @ masses)
            else:
                total += count * (shift + np.log(np.exp(np.outer(s, values) - shift) @ masses))
        return total

    def height(log_theta):
        theta = math.exp(log_theta)
        return float(cumulant(theta)[0].real) - theta * eps - math.log(theta) - math.log1p(theta)

    low, high, golden = math.log(1e-4), math.log(1e7), (math.sqrt(5) - 1) / 2
    for _ in range(70):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if height(left) < height(right) else (left, high)
    theta = math.exp((low + high) / 2)
    top = float(cumulant(theta)[0].real) - theta * eps
    step = 1e-3 * theta
    bend = (
        height(math.log(theta + step))
        + height(math.log(theta - step))
        - 2 * height(math.log(theta))
    ) / step**2
    width = 1 / math.sqrt(max(bend, 1e-12))
    total, at = 0.0, 0.0
    for _ in range(6000):
        t, w = panels(np.array([at, at + width / 2]), _T, _TW)
        s = theta + 1j * t
        values = np.exp(cumulant(s) - s * eps - top) / (s * (s + 1))
        total += float(values.real @ w)
        at += width / 2
        if np.abs(values).max() * at < 1e-8 * abs(total):
            return math.exp(top) * total / math.pi
    return math.nan


def largest_delta(schedule, eps, relation):
    """The larger of the two directions, or the one of replacement."""
    ways = ("replace",) if relation == "REPLACE_ONE" else ("remove", "add")
    return max(delta(schedule, eps, way) for way in ways)


def gaussian_delta(mu, eps):
    """Closed form for one Gaussian, in 50 digits."""
    import mpmath

    with mpmath.workdps(50):
        mu, eps = mpmath.mpf(mu), mpmath.mpf(eps)
        return mpmath.ncdf(mu / 2 - eps / mu) - mpmath.e**eps * mpmath.ncdf(-mu / 2 - eps / mu)
