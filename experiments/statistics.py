"""Paired comparisons: bootstrap confidence intervals over seeds.

The seed is the unit: two arms share a seed's data, sampling and initialisation, and what is
resampled is the difference or the ratio within a seed.
"""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean with a 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}], n = {self.count}"


def interval(values, *, seed: int = 0) -> Interval:
    """Of the mean of paired differences or ratios; NaN counts as no value and fails every test."""
    values = np.asarray(values, float)
    if np.isnan(values).any():
        return Interval(float("nan"), float("nan"), float("nan"), len(values))
    picks = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def best_of(values, trials: int, *, seed: int = 0) -> float:
    """Expected best of some trials drawn with replacement."""
    values = np.asarray(values, float)
    picks = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, trials))
    return float(values[picks].max(axis=1).mean())
