"""In forward mode the noise of a private hypergradient does not grow with the model; else it does."""

import numpy as np
import pytest
import scipy.stats

from experiments.private_noise import deviations

SETTINGS = {"clients": 20, "noise multiplier": 2.0, "draws": 40, "seed": 1}
SMALL, LARGE = 16, 1024


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize("mode", ["forward", "mixed"])
def test_noise_is_as_computed_and_grows_only_where_a_gradient_is_released(mode):
    small, large = (deviations(mode, size, SETTINGS) for size in (SMALL, LARGE))
    freedom = SETTINGS["draws"] - 1
    # Chi-square band: the two deviations of two sizes leave it by chance with at most 1e-6.
    low, high = np.sqrt(scipy.stats.chi2.ppf([1.25e-7, 1 - 1.25e-7], freedom) / freedom)
    for computed, measured, _ in (small, large):
        assert np.all(measured >= low * computed)
        assert np.all(measured <= high * computed)
    # The model is 64 times as large, the root of which is 8.
    growth = large[0] / small[0]
    assert np.all(growth < 2) if mode == "forward" else np.all(growth > 3)
