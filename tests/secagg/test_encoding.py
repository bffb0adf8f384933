"""Real numbers become ring elements and come back: E1 to E12 of docs/secagg-spec.md."""

import math

import numpy as np
import pytest

from secagg import Drop, Encoding, EncodingError, ParameterError, Parameters, SecureStream, simulate


def stream():
    return SecureStream(b"a seed for tests")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_e1_values_that_are_not_finite_are_refused(bad):
    encoding = Encoding(clip=1.0, scale=100.0, clients=10)
    x = np.zeros(40_000)
    x[20_000], x[20_001] = 2.0, bad
    with pytest.raises(EncodingError, match=r"finite values, got .* at entry 20001"):
        encoding.encode(x)


@pytest.mark.parametrize("sign", [1, -1])
def test_e2_inside_and_at_the_clip_is_exact(sign):
    encoding = Encoding(clip=1.0, scale=1024.0, clients=10)
    x = sign * np.array([1.0, 1023 / 1024, 0.5])
    assert (encoding.decode(encoding.encode(x)) == x).all()


@pytest.mark.parametrize("x", [1.0 + 1e-12, -1.0 - 1e-12, 1e300])
def test_e2_outside_the_clip_is_an_error(x):
    with pytest.raises(EncodingError, match=r"values in \[-1.0, 1.0\], got .* at entry 1"):
        Encoding(clip=1.0, scale=1024.0, clients=10).encode(np.array([0.0, x]))


@pytest.mark.parametrize("bits", [8, 16, 24, 32, 48])
@pytest.mark.parametrize("sign", [1, -1])
def test_e3_every_client_at_the_clip_does_not_wrap(bits, sign):
    clients = 7
    scale = float((2 ** (bits - 1) - 1) // clients)
    encoding = Encoding(clip=1.0, scale=scale, clients=clients, modulus_bits=bits)
    one = encoding.encode(np.full(3, sign * 1.0))
    outcome = simulate(
        np.stack([one] * clients), Parameters(clients=clients, length=3, modulus_bits=bits)
    )
    assert (encoding.decode(outcome.sum) == sign * clients).all()


def test_e3_one_client_more_than_fits_would_wrap():
    clients, bits = 7, 8
    scale = float((2 ** (bits - 1) - 1) // clients)
    Encoding(clip=1.0, scale=scale, clients=clients, modulus_bits=bits)
    with pytest.raises(ParameterError):
        Encoding(clip=1.0, scale=scale, clients=clients + 1, modulus_bits=bits)


def test_e4_a_configuration_that_can_overflow_is_refused_with_the_numbers():
    with pytest.raises(
        ParameterError,
        match=r"1000 \* 1048576 = 1048576000 .* 2\*\*23 - 1.*Use modulus_bits=31",
    ):
        Encoding(clip=1.0, scale=2.0**20, clients=1000, modulus_bits=24)
    Encoding(clip=1.0, scale=2.0**20, clients=1000, modulus_bits=31)


def test_e4_what_no_ring_can_hold_is_refused_as_such():
    with pytest.raises(ParameterError, match=r"No ring up to 2\*\*64 is enough"):
        Encoding(clip=1.0, scale=2.0**62, clients=1000, modulus_bits=64)


def test_e5_more_clients_than_planned_are_refused():
    encoding = Encoding(clip=1.0, scale=100.0, clients=10)
    encoding.check(10, 32)
    with pytest.raises(ParameterError, match="at most 10 clients"):
        encoding.check(11, 32)
    with pytest.raises(ParameterError, match="ring of 32 bits"):
        encoding.check(10, 31)


@pytest.mark.parametrize("dtype", [np.bool_, np.complex128, object, "U3"])
def test_e7_what_is_not_a_number_is_refused(dtype):
    encoding = Encoding(clip=1.0, scale=100.0, clients=10)
    with pytest.raises(EncodingError, match="real numbers"):
        encoding.encode(np.zeros(3, dtype))
    with pytest.raises(EncodingError, match="vector of integers"):
        encoding.decode(np.zeros(3, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "uint16"])
def test_e7_real_dtypes_are_converted_exactly(dtype):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    encoding = Encoding(clip=8.0, scale=4.0, clients=10)
    x = np.array([1, 2, 8]).astype(dtype)
    assert (encoding.decode(encoding.encode(x)) == [1.0, 2.0, 8.0]).all()


def test_e7_integers_that_a_float64_cannot_hold_are_refused():
    with pytest.raises(EncodingError, match=r"2\*\*53"):
        Encoding(clip=1e17, scale=1e-10, clients=10).encode(np.array([2**53 + 1]))


@pytest.mark.parametrize("shape", [(0,), (), (1,), (3, 0, 2), (2, 3), (40_001,)])
def test_e8_every_shape_is_exact(shape):
    encoding = Encoding(clip=10.0, scale=2.0**10, clients=3)
    x = np.random.default_rng(0).integers(-9, 9, (3, *shape)).astype(float)
    vectors = np.stack([encoding.encode(row) for row in x])
    outcome = simulate(vectors, Parameters(clients=3, length=math.prod(shape)))
    assert (encoding.decode(outcome.sum) == x.sum(axis=0).ravel()).all()


@pytest.mark.parametrize("y", [0.1, -0.1, 2.5, -2.5, 99.99, -7.0])
def test_e10_stochastic_rounding_is_unbiased_and_stays_within_one(y):
    encoding = Encoding(clip=1000.0, scale=1.0, clients=10)
    q = encoding.decode(encoding.encode(np.full(1_000_000, y), stream()))
    assert set(np.unique(q)) <= {math.floor(y), math.ceil(y)}
    fraction = y - math.floor(y)
    error = math.sqrt(fraction * (1 - fraction) / len(q))
    assert abs(q.mean() - y) <= 5 * error + 1e-15  # false alarm once in 1.7 million


def test_e10_rounding_of_great_integers_is_unbiased_too():
    encoding = Encoding(clip=1.0, scale=2.0**40, clients=10, modulus_bits=64)
    y = -(2.0**39) + 0.25
    q = encoding.decode(encoding.encode(np.full(100_000, y / 2.0**40), stream())) * 2.0**40
    assert set(np.unique(q)) == {-(2**39), -(2**39) + 1}
    assert abs((q + 2**39).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(q))


def test_e10_rounding_is_not_to_nearest():
    encoding = Encoding(clip=1.0, scale=1.0, clients=10)
    q = encoding.decode(encoding.encode(np.full(10_000, 0.1), stream()))
    assert 700 < q.sum() < 1300


@pytest.mark.parametrize("survivors", [3, 4, 5])
def test_e12_decoding_needs_no_count_of_survivors(survivors):
    encoding = Encoding(clip=2.0, scale=64.0, clients=5)
    vectors = np.stack([encoding.encode(np.full(2, -1.5))] * 5)
    faults = [Drop(i, "mask") for i in range(survivors, 5)]
    outcome = simulate(vectors, Parameters(clients=5, length=2), faults=faults)
    assert (encoding.decode(outcome.sum) == -1.5 * survivors).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"clip": 0.0},
        {"clip": math.nan},
        {"scale": math.inf},
        {"scale": -1.0},
        {"clients": 0},
        {"modulus_bits": 65},
    ],
)
def test_nonsense_encodings_are_refused(arguments):
    with pytest.raises(ParameterError, match="Expected"):
        Encoding(**{"clip": 1.0, "scale": 1.0, "clients": 3, **arguments})


EXTREMES = [5e-324, 4e-310, 2.3e-308, 1e-200, 1e-9, 1.0, 3.7e5, 1e154, 4e298, 4.2e298, 1.7e308]


@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("clip", EXTREMES)
def test_an_encoding_that_can_be_made_decodes_sums_to_within_a_step_of_each_client(clip, scale):
    """Refused, or right; never silently wrong, and never with a warning (warnings are errors)."""
    clients = 5
    try:
        encoding = Encoding(clip, scale, clients, modulus_bits=64)
    except ParameterError:
        return
    x = clip * np.array([-1.0, -0.7, 0.0, 0.3, 1.0])
    total = np.zeros(5, dtype=np.uint64)
    for _ in range(clients):
        total += encoding.encode(x, stream())
    decoded = encoding.decode(total)
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded - clients * x) * scale <= clients * (1 + clip * scale * 2**-50)).all()


@pytest.mark.parametrize(
    ("clip", "scale", "what"),
    [
        (4e-296, 3e300, r"scale \* 2\*\*32"),
        (1e308, 1e-310, r"/ scale to be positive and finite, got inf"),
        (1e300, 1e300, r"clip \* scale"),
        (10**400, 1.0, "clip to be positive and finite"),
        (1.0, "many", "scale to be positive and finite"),
    ],
)
def test_what_float64_cannot_scale_is_refused_by_name(clip, scale, what):
    with pytest.raises(ParameterError, match=what):
        Encoding(clip, scale, clients=1 << 30, modulus_bits=64)


def test_the_no_wrap_bound_is_that_of_the_exact_product_for_float32_arguments():
    clip, scale = np.float32(0.1), np.float32(1000.0)
    encoding = Encoding(clip, scale, clients=1, modulus_bits=8)
    assert encoding.greatest_integer == math.ceil(float(clip) * float(scale)) == 101
