import math

import numpy as np
import pytest
from scipy import stats

from privacy.errors import MechanismError
from privacy.noise.capacity import Load, ring_bits
from privacy.noise.rotation import Rotation
from privacy.noise.samplers import discrete_gaussian, skellam
from secagg import SecureStream
from secagg.crypto import ring


def test_without_rotation_or_noise_by_clients_nothing_can_wrap():
    bits = ring_bits([Load(clients=100, bound=65537.9, size=10**6)])
    half = 2 ** (bits - 1)
    assert half / 2 <= 100 * 65537 < half
    greatest = np.array([100 * 65537, -100 * 65537])
    assert (ring.centred(ring.wrapped(greatest, bits), bits) == greatest).all()
    assert ring.centred(ring.wrapped(greatest, bits - 1), bits - 1)[0] != greatest[0]


def test_a_ring_that_is_too_large_is_refused_with_the_remedy():
    with pytest.raises(
        MechanismError, match=r"64 bits, got ones that need 67\. Use a coarser grid"
    ):
        ring_bits([Load(clients=2**20, bound=2.0**45, size=10)])


def test_the_greatest_load_and_the_least_ring_count():
    loads = [Load(clients=10, bound=2.0**i, size=4) for i in (3, 9, 5)]
    assert ring_bits(loads) == ring_bits([loads[1]]) == 14
    assert ring_bits(loads, least=32) == 32


@pytest.mark.parametrize("size", [16, 1024, 1 << 20])
def test_rotation_never_needs_a_larger_ring(size):
    load = {"clients": 100, "bound": 3000.0, "size": size}
    assert ring_bits([Load(**load, rotated=True)]) <= ring_bits([Load(**load)])


@pytest.mark.parametrize("shape", ["even", "one hot", "half"])
def test_no_rotated_sum_passes_its_bound(shape):
    clients, size = 50, 256
    load = Load(clients=clients, bound=1000.0, size=size, rotated=True)
    x = np.zeros((1, size))
    x[0, : {"even": size, "one hot": 1, "half": size // 2}[shape]] = 1.0
    x *= 1000.0 / np.linalg.norm(x)
    # All clients the same vector, the worst: 400 seeds, false alarms below 1e-6 each.
    turned = [Rotation(size, seed.to_bytes(2, "big")).forward(x) for seed in range(400)]
    greatest = clients * np.ceil(np.abs(turned)).max()
    assert greatest <= load.largest(1e-6)
    assert load.largest(1e-6) < clients * 1000.0
    if shape == "even":
        assert greatest > load.largest(1e-6) / 2


@pytest.mark.parametrize("family", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("variance", [0.3, 20.0, 1e6])
def test_noise_tails_are_bounds_and_not_loose(family, variance):
    probability = 1e-3
    load = Load(1, 1.0, 1, noise=family, share_variance=variance)
    beyond = load.largest(probability) - 1  # what the signal itself needs
    # Half of the probability is kept for a rotation, so the noise passes this with at most 5e-4.
    if family == "skellam":
        tail = 2 * stats.skellam.sf(math.floor(beyond), variance / 2, variance / 2)
        draws = skellam(variance, 100_000, SecureStream(bytes(16)))
    else:
        tail = 2 * stats.norm.sf(beyond / math.sqrt(variance))
        draws = discrete_gaussian(math.sqrt(variance), 100_000, SecureStream(bytes(16)))
    assert tail <= probability / 2
    assert beyond < 5 * math.sqrt(variance) + 6
    # Expected at most 50 of 100,000; 100 or more has probability below 1e-9.
    assert np.count_nonzero(np.abs(draws) > beyond) < 100


def test_skellam_tails_are_those_of_a_gaussian_for_large_variance():
    loads = [
        Load(9, 1.0, 1000, noise=f, share_variance=1e9) for f in ("skellam", "discrete_gaussian")
    ]
    one, other = (load.largest(1e-12) for load in loads)
    assert math.isclose(one, other, rel_tol=1e-6)
    assert one >= other * (1 - 1e-12)
