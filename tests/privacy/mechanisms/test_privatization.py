"""A private program bounds what a client sends, in every round of every mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import secfad as fad
from privacy import Gaussian, privatize
from privacy.errors import MechanismError
from secfad.engines.local import plain_sum

FLOAT = jnp.float32
SPECS = (
    jax.ShapeDtypeStruct((2,), FLOAT),
    jax.ShapeDtypeStruct((3,), FLOAT),
    jax.ShapeDtypeStruct((3,), FLOAT),
    jax.ShapeDtypeStruct((8, 3), FLOAT),
    jax.ShapeDtypeStruct((8,), FLOAT),
)
LOOSE = Gaussian(noise_multiplier=1.0, clip_norm=1e6)
MODES = ("forward", "reverse", "mixed")


def squared_loss(v, x, y):
    return jnp.mean((x @ v - y) ** 2)


@fad.computation(
    hyper=fad.SERVER, model=fad.SERVER, momentum=fad.SERVER, x=fad.CLIENTS, y=fad.CLIENTS
)
def round_loss(hyper, model, momentum, x, y):
    local = fad.broadcast(model, name="model")
    delta = fad.mean(0.1 * jax.grad(squared_loss)(local, x, y), name="delta")
    new = model - hyper[0] * (hyper[1] * momentum + delta)
    return fad.mean(squared_loss(fad.broadcast(new, name="new"), x, y), name="loss")


def arguments(clients=6, seed=0):
    draw = np.random.default_rng(seed)
    values = [np.array([0.5, 0.9]), draw.normal(size=3), draw.normal(size=3)]
    values += [draw.normal(size=(clients, 8, 3)), draw.normal(size=(clients, 8))]
    return [jnp.asarray(v, FLOAT) for v in values]


@pytest.fixture(scope="module", params=MODES)
def derivative(request):
    return fad.value_and_grad(round_loss, mode=request.param)


@pytest.fixture(scope="module")
def tight(derivative):
    mechanism = Gaussian(noise_multiplier=1.0, clip_norm={"delta": 0.05, "*": 0.5})
    return privatize(derivative, *SPECS, mechanism=mechanism, purpose="hypergradient")


def joint_norms(private, upload):
    """Norm of every client's upload, each sum in units of its clip norm."""
    norms = [s.clip_norm for s in private.releases[upload.round].sums for _ in range(s.size)]
    flat = np.concatenate([np.asarray(v).reshape(upload.clients, -1) for v in upload.values], 1)
    return np.linalg.norm(flat.astype(np.float64) / norms, axis=1)


def recorded(private, args):
    uploads = []

    def aggregate(upload):
        uploads.append(upload)
        return plain_sum(upload)

    fad.execute(private.program, *args, aggregate=aggregate)
    return uploads


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e18, np.inf, np.nan])
def test_joint_norm_of_every_round_is_at_most_one(tight, scale):
    args = arguments()
    args[3] = args[3].at[2].multiply(scale)
    uploads = recorded(tight, args)
    assert len(uploads) == len(tight.releases)
    for upload in uploads:
        assert np.all(joint_norms(tight, upload) <= 1 + 1e-6)


def test_clips_bind_for_ordinary_data(tight):
    assert any(np.any(joint_norms(tight, u) > 0.999) for u in recorded(tight, arguments()))


@pytest.mark.sample(quick=1)
def test_loose_clip_changes_nothing(derivative):
    args = arguments()
    private = privatize(derivative, *SPECS, mechanism=LOOSE, purpose="hypergradient")
    got = fad.execute(private.program, *args)
    want = fad.simulate(derivative)(*args)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, rtol=2e-5)


def test_derived_sums_are_releases_with_names_and_sizes():
    expected = {
        "forward": [["delta"], ["loss", "loss.tangent"]],
        "reverse": [["delta"], ["loss"], ["new.cotangent"]],
        "mixed": [["delta"], ["loss"]],
    }
    for mode, names in expected.items():
        private = privatize(
            fad.value_and_grad(round_loss, mode=mode),
            *SPECS,
            mechanism=LOOSE,
            purpose="hypergradient",
        )
        assert [[s.name for s in r.sums] for r in private.releases] == names, mode


def test_forward_hypergradient_releases_as_many_numbers_as_hyperparameters():
    private = privatize(
        fad.grad(round_loss, mode="forward"), *SPECS, mechanism=LOOSE, purpose="hypergradient"
    )
    assert [s.size for s in private.releases[-1].sums] == [2]


def test_separate_clips_bound_each_sum():
    @fad.computation(x=fad.CLIENTS)
    def two(x):
        return fad.sum(x, name="first") + fad.sum(2 * x, name="second")

    mechanism = Gaussian(noise_multiplier=1.0, clip_norm={"first": 1.0, "second": 3.0}, joint=False)
    private = privatize(two, jax.ShapeDtypeStruct((4,), FLOAT), mechanism=mechanism)
    (upload,) = recorded(private, [jnp.full((5, 4), 100.0)])
    norms = [np.linalg.norm(np.asarray(v), axis=1) for v in upload.values]
    np.testing.assert_allclose(norms[0], 1.0, rtol=1e-5)
    np.testing.assert_allclose(norms[1], 3.0, rtol=1e-5)


def test_every_iteration_of_a_scan_is_a_release():
    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def rounds(w, x):
        def body(w, _):
            return w - fad.mean(fad.broadcast(w) * x, name="step"), None

        return jax.lax.scan(body, w, None, length=4)[0]

    spec = jax.ShapeDtypeStruct((3,), FLOAT)
    private = privatize(rounds, spec, spec, mechanism=Gaussian(noise_multiplier=1.0, clip_norm=0.1))
    assert [r.name for r in private.releases] == ["step"] * 4
    uploads = recorded(private, [jnp.ones(3), jnp.ones((5, 3)) * 50])
    assert len(uploads) == 4
    for upload in uploads:
        assert np.all(joint_norms(private, upload) <= 1 + 1e-6)


def test_sum_without_clip_norm_is_refused():
    with pytest.raises(MechanismError, match="clip norm for the sum 'loss'"):
        privatize(
            round_loss, *SPECS, mechanism=Gaussian(noise_multiplier=1.0, clip_norm={"delta": 1.0})
        )


def test_sums_under_a_while_loop_are_refused():
    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def endless(w, x):
        return jax.lax.while_loop(
            lambda w: w < 10.0, lambda w: w + fad.sum(fad.broadcast(w) * x), w
        )

    spec = jax.ShapeDtypeStruct((), FLOAT)
    with pytest.raises(MechanismError, match="known before the run"):
        privatize(endless, spec, spec, mechanism=LOOSE)


def test_integer_sums_are_refused_at_the_users_line():
    @fad.computation(x=fad.CLIENTS)
    def count(x):
        return fad.sum((x > 0).astype(jnp.int32), name="positive")

    with pytest.raises(MechanismError, match=r"'positive', got int32 .*test_privatization.py"):
        privatize(count, jax.ShapeDtypeStruct((), FLOAT), mechanism=LOOSE)


def test_program_without_uploads_is_refused():
    @fad.computation(w=fad.SERVER, x=fad.CLIENTS)
    def local(w, x):
        return fad.broadcast(w) + x

    spec = jax.ShapeDtypeStruct((), FLOAT)
    with pytest.raises(MechanismError, match="nothing to privatize"):
        privatize(local, spec, spec, mechanism=LOOSE)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_multiplier": 0.0, "clip_norm": 1.0},
        {"noise_multiplier": float("nan"), "clip_norm": 1.0},
        {"noise_multiplier": 1.0, "clip_norm": -1.0},
        {"noise_multiplier": 1.0, "clip_norm": {}},
        {"noise_multiplier": True, "clip_norm": 1.0},
        {"noise_multiplier": 1.0, "clip_norm": 1.0, "noise": "local"},
        {"noise_multiplier": 1.0, "clip_norm": 1.0, "grid": 3},
    ],
)
def test_senseless_mechanisms_are_refused(settings):
    with pytest.raises(MechanismError, match="Expected"):
        Gaussian(**settings)


def test_unknown_purpose_is_refused():
    with pytest.raises(MechanismError, match="purpose as"):
        privatize(round_loss, *SPECS, mechanism=LOOSE, purpose="fun")
