"""E1-E14 of the acceptance list: values, encoding, rings, one test per row."""

import math

import numpy as np
import pytest

from secagg import Drop, Encoding, EncodingError, ParameterError, Parameters, SecureStream, simulate
from secagg.encoding import small_ring_bits, wrap_deviations
from secagg.layout import Layout


def stream():
    return SecureStream(b"a seed for tests")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("policy", ["error", "clip"])
def test_e1_values_that_are_not_finite_are_refused_whatever_the_policy(bad, policy):
    encoding = Encoding(clip=1.0, scale=100.0, clients=10, on_excess=policy)
    x = np.zeros(40_000)
    x[20_001] = bad
    with pytest.raises(EncodingError, match=r"finite values, got .* at entry 20001"):
        encoding.encode(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_e1_the_leaf_is_named(bad):
    arrays = {"bias": np.zeros(3), "kernel": np.array([[0.0, bad]])}
    with pytest.raises(EncodingError, match="finite values in 'kernel', got 1"):
        Layout.of(arrays).join(arrays)


@pytest.mark.parametrize("sign", [1, -1])
def test_e2_inside_and_at_the_clip_is_exact(sign):
    encoding = Encoding(clip=1.0, scale=1024.0, clients=10)
    x = sign * np.array([1.0, 1023 / 1024, 0.5])
    assert (encoding.decode(encoding.encode(x)) == x).all()


@pytest.mark.parametrize("x", [1.0 + 1e-12, -1.0 - 1e-12, 1e300])
def test_e2_outside_the_clip_is_an_error_by_default(x):
    with pytest.raises(EncodingError, match=r"values in \[-1.0, 1.0\], got .* at entry 1"):
        Encoding(clip=1.0, scale=1024.0, clients=10).encode(np.array([0.0, x]))


def test_e2_or_is_clipped_and_counted():
    encoding = Encoding(clip=1.0, scale=1024.0, clients=10, on_excess="clip")
    vector, clipped = encoding.encode_counted(np.array([2.0, -3.0, 1.0, 0.5]))
    assert clipped == 2
    assert (encoding.decode(vector) == [1.0, -1.0, 1.0, 0.5]).all()


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
        match=r"1000 \* 1 \* 1048576 = 1048576000 .* 2\*\*23 - 1.*Use modulus_bits=31",
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


@pytest.mark.parametrize("weight", [-1, 6, math.nan, 1.5, None])
def test_e6_impossible_weights_are_refused(weight):
    encoding = Encoding(clip=1.0, scale=100.0, clients=10, max_weight=5)
    with pytest.raises(EncodingError, match="integer weight from 0 to 5"):
        encoding.encode_weighted(np.zeros(3), weight)


def test_e6_weights_travel_inside_the_mask_and_zero_weight_counts_nothing():
    encoding = Encoding(clip=1.0, scale=100.0, clients=10, max_weight=5)
    values, weights = [0.5, -1.0, 1.0, 0.25], [1, 2, 0, 5]
    vectors = np.stack(
        [encoding.encode_weighted(np.full(2, v), w) for v, w in zip(values, weights)]
    )
    total = simulate(vectors, Parameters(clients=4, length=3)).sum
    mean, weight = encoding.decode_weighted(total)
    assert weight == 8
    assert np.allclose(mean, (0.5 - 2.0 + 1.25) / 8)


def test_e6_a_total_weight_of_zero_is_a_typed_error():
    encoding = Encoding(clip=1.0, scale=100.0, clients=10, max_weight=5)
    with pytest.raises(EncodingError, match="positive total weight, got 0"):
        encoding.decode_weighted(encoding.encode_weighted(np.ones(3), 0))


def test_e6_the_weight_is_part_of_the_no_wrap_bound():
    with pytest.raises(ParameterError, match=r"10 \* 1000 \* 1048576"):
        Encoding(clip=1.0, scale=2.0**20, clients=10, max_weight=1000)


def test_e7_integers_out_of_range_are_refused():
    encoding = Encoding(clip=1.0, scale=100.0, clients=10)
    assert encoding.decode_integers(encoding.encode_integers(np.array([-100, 100]))).sum() == 0
    for bad in (101, -101, -(2**63)):
        with pytest.raises(EncodingError, match=r"integers in \[-100, 100\]"):
            encoding.encode_integers(np.array([bad]))


@pytest.mark.parametrize("dtype", [np.bool_, np.complex128, object, "U3"])
def test_e7_what_is_not_real_is_refused(dtype):
    encoding = Encoding(clip=1.0, scale=100.0, clients=10)
    with pytest.raises(EncodingError, match="real numbers"):
        encoding.encode(np.zeros(3, dtype))
    with pytest.raises(EncodingError, match="Expected integers"):
        encoding.encode_integers(np.zeros(3, dtype))


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


def test_e8_no_arrays_at_all():
    layout = Layout.of({})
    assert layout.length == 0
    assert layout.join({}).shape == (0,)
    assert layout.split(np.zeros(0)) == {}


def test_e8_masks_far_beyond_four_gigabytes_do_not_repeat():
    from secagg.crypto import masks

    pieces = []
    for first_word in (0, 2**30, 2**32, 2**34):
        piece = np.zeros(8, np.uint32)
        masks.accumulate(piece, [(bytes(16), 1)], first_word=first_word)
        pieces.append(tuple(piece))
    assert len(set(pieces)) == 4


def test_e9_other_names_or_shapes_are_another_round(new_round):
    a, b = Layout.of({"w": np.zeros(4)}), Layout.of({"w": np.zeros((2, 2))})
    assert a.length == b.length == 4
    r = new_round(Parameters(clients=3, length=4), context=a.canonical())
    odd = r.client(0, r.parameters, context=b.canonical())
    assert "belongs to another round" in r.refused(odd.advertise())


def test_e9_arrays_that_do_not_fit_the_layout_are_refused():
    layout = Layout.of({"w": np.zeros(4), "b": np.zeros(())})
    with pytest.raises(
        EncodingError, match=r"entries named \['b', 'w'\] in 'the tree', got \['w'\]"
    ):
        layout.join({"w": np.zeros(4)})
    with pytest.raises(EncodingError, match=r"shape \(4,\) in 'w', got shape \(5,\)"):
        layout.join({"w": np.zeros(5), "b": 0.0})
    with pytest.raises(EncodingError, match="5 entries"):
        layout.split(np.zeros(6))
    x = {"w": np.arange(4.0), "b": np.float64(7)}
    back = layout.split(layout.join(x))
    assert all((back[name] == x[name]).all() for name in x)


TREE = {
    "model": [{"w": np.arange(6.0).reshape(2, 3)}, (np.float64(7), np.zeros((0, 2)))],
    "empty": (),
    "loss": 0.5,
}


def test_e8_trees_come_back_as_they_were():
    layout = Layout.of(TREE)
    assert layout.length == 8
    back = layout.split(layout.join(TREE))
    assert list(back) == sorted(TREE)
    assert back["empty"] == ()
    (first, (second, third)) = back["model"]
    assert (first["w"] == TREE["model"][0]["w"]).all()
    assert (second, third.shape, back["loss"]) == (7, (0, 2), 0.5)
    with pytest.raises(EncodingError, match="finite values in 'model/0/w'"):
        layout.join({**TREE, "model": [{"w": np.full((2, 3), np.inf)}, TREE["model"][1]]})


@pytest.mark.parametrize(
    "other",
    [
        {**TREE, "model": tuple(TREE["model"])},
        {**TREE, "model": TREE["model"][::-1]},
        {**TREE, "empty": []},
        {**TREE, "extra": 1.0},
    ],
)
def test_e9_other_trees_are_other_rounds_and_are_refused(other):
    layout = Layout.of(TREE)
    assert Layout.of(other).canonical() != layout.canonical()
    with pytest.raises(EncodingError, match="Expected"):
        layout.join(other)


def test_e9_names_must_be_strings():
    with pytest.raises(EncodingError, match="names as strings"):
        Layout.of({1: np.zeros(2)})


@pytest.mark.parametrize("y", [0.1, -0.1, 2.5, -2.5, 99.99, -7.0])
def test_e10_stochastic_rounding_is_unbiased_and_stays_within_one(y):
    encoding = Encoding(clip=1000.0, scale=1.0, clients=10)
    q = encoding.round(np.full(1_000_000, y), stream()).vector
    assert set(np.unique(q)) <= {math.floor(y), math.ceil(y)}
    fraction = y - math.floor(y)
    error = math.sqrt(fraction * (1 - fraction) / len(q))
    assert abs(q.mean() - y) <= 5 * error + 1e-15  # false alarm once in 1.7 million


def test_e10_rounding_of_great_integers_is_unbiased_too():
    encoding = Encoding(clip=1.0, scale=2.0**40, clients=10, modulus_bits=64)
    y = -(2.0**39) + 0.25
    q = encoding.round(np.full(100_000, y / 2.0**40), stream()).vector
    assert set(np.unique(q)) == {-(2**39), -(2**39) + 1}
    assert abs((q + 2**39).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(q))


def test_e10_rounding_is_not_to_nearest():
    encoding = Encoding(clip=1.0, scale=1.0, clients=10)
    q = encoding.round(np.full(10_000, 0.1), stream()).vector
    assert 700 < q.sum() < 1300


def test_e11_wrap_probability_is_per_vector_and_holds():
    length, probability = 1000, 0.05
    z = wrap_deviations(length, probability)
    rounds = 4000
    rng = np.random.default_rng(0)
    wrapped = sum((np.abs(rng.standard_normal(length)) > z).any() for _ in range(rounds))
    error = math.sqrt(probability * (1 - probability) * rounds)
    assert wrapped <= probability * rounds + 5 * error
    assert wrapped >= 0.9 * probability * rounds - 5 * error  # the bound is not wasteful either


@pytest.mark.parametrize(
    ("length", "probability", "z"),
    [(10**4, 1e-3, 5.33), (10**5, 1e-6, 6.81), (10**6, 1e-6, 7.13), (10**7, 1e-9, 8.30)],
)
def test_e11_deviations_match_the_table(length, probability, z):
    assert abs(wrap_deviations(length, probability) - z) < 0.006


def test_e11_small_ring_bits_cover_the_deviations():
    bits = small_ring_bits(1000.0, length=10**6, wrap_probability=1e-6)
    assert 2 ** (bits - 1) >= 7130 > 2 ** (bits - 2)
    with pytest.raises(ParameterError, match="needs"):
        small_ring_bits(1e30, length=10, wrap_probability=0.1)


@pytest.mark.parametrize("survivors", [3, 4, 5])
def test_e12_decoding_needs_no_count_of_survivors(survivors):
    encoding = Encoding(clip=2.0, scale=64.0, clients=5)
    vectors = np.stack([encoding.encode(np.full(2, -1.5))] * 5)
    faults = [Drop(i, "mask") for i in range(survivors, 5)]
    outcome = simulate(vectors, Parameters(clients=5, length=2), faults=faults)
    assert (encoding.decode(outcome.sum) == -1.5 * survivors).all()


@pytest.mark.parametrize(
    ("parameters", "honest"),
    [
        (Parameters(clients=100, length=1, corrupt=0.1), 51 - 10),
        (Parameters(clients=100, length=1, corrupt=0.1, adversary="active"), 67 - 10),
        (Parameters(clients=1000, length=1, graph="ring"), 501 - 50),
    ],
)
def test_e13_noise_is_to_be_sized_for_the_honest_survivors_that_are_guaranteed(parameters, honest):
    assert parameters.guaranteed_honest == honest


def test_e14_the_derivative_is_one_inside_the_clip_and_zero_outside():
    encoding = Encoding(clip=1.0, scale=16.0, clients=4, on_excess="clip")
    x = np.array([-2.0, -1.0, 0.0, 0.999, 1.0, 1.001])
    assert (encoding.straight_through(x) == [0, 1, 1, 1, 1, 0]).all()
    assert encoding.encode_counted(x).clipped == 2
    step, draws = 0.25, 4000
    inside = [encoding.decode(encoding.encode(np.full(draws, v))).mean() for v in (0.3, 0.3 + step)]
    assert abs((inside[1] - inside[0]) / step - 1) < 0.03


@pytest.mark.parametrize(
    "arguments",
    [
        {"clip": 0.0},
        {"clip": math.nan},
        {"scale": math.inf},
        {"scale": -1.0},
        {"clients": 0},
        {"modulus_bits": 65},
        {"max_weight": 0},
        {"on_excess": "ignore"},
    ],
)
def test_nonsense_encodings_are_refused(arguments):
    with pytest.raises(ParameterError, match="Expected"):
        Encoding(**{"clip": 1.0, "scale": 1.0, "clients": 3, **arguments})


def test_canonical_bytes_tell_encodings_apart():
    one, other = (Encoding(clip=c, scale=8.0, clients=3) for c in (1.0, 2.0))
    assert one.canonical() != other.canonical()


EXTREMES = [5e-324, 4e-310, 2.3e-308, 1e-200, 1e-9, 1.0, 3.7e5, 1e154, 4e298, 4.2e298, 1.7e308]


@pytest.mark.parametrize("weight", [1, 1 << 40])
@pytest.mark.parametrize("scale", EXTREMES)
@pytest.mark.parametrize("clip", EXTREMES)
def test_an_encoding_that_can_be_made_decodes_sums_to_within_a_step_of_each_client(
    clip, scale, weight
):
    """Refused, or right; never silently wrong, and never with a warning (warnings are errors)."""
    clients = 5
    try:
        encoding = Encoding(clip, scale, clients, modulus_bits=64, max_weight=weight)
    except ParameterError:
        return
    x = clip * np.array([-1.0, -0.7, 0.0, 0.3, 1.0])
    total = np.zeros(5, dtype=np.uint64)
    for _ in range(clients):
        total += encoding.encode(x, stream())
    decoded = encoding.decode(total)
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded - clients * x) * scale <= clients * (1 + clip * scale * 2**-50)).all()
    words = encoding.encode_weighted(x, weight, stream())
    mean = encoding.decode_weighted(words)
    assert mean.weight == weight
    assert (np.abs(mean.mean - x) * scale <= 1 + clip * scale * 2**-50).all()


@pytest.mark.parametrize(
    ("clip", "scale", "what"),
    [
        (4e-296, 3e300, r"scale \* 2\*\*32"),
        (1e308, 1e-310, r"/ scale to be positive and finite, got inf"),
        (1e-300, 4e298, r"scale \* clients \* max_weight"),
        (1e300, 1e300, r"clip \* scale"),
        (10**400, 1.0, "clip to be positive and finite"),
        (1.0, "many", "scale to be positive and finite"),
    ],
)
def test_what_float64_cannot_scale_is_refused_by_name(clip, scale, what):
    with pytest.raises(ParameterError, match=what):
        Encoding(clip, scale, clients=1 << 30, modulus_bits=64, max_weight=64)


def test_the_no_wrap_bound_is_that_of_the_exact_product_for_float32_arguments():
    clip, scale = np.float32(0.1), np.float32(1000.0)
    encoding = Encoding(clip, scale, clients=1, modulus_bits=8)
    assert encoding.greatest_integer == math.ceil(float(clip) * float(scale)) == 101
