"""Learned numbers of the clients: derivatives are the centralised ones, bounds stay the mechanism's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import audits
import privacy
import secfad as fad
from privacy.training.client_hyper import LEAST_WEIGHT, joined
from secfad.algorithms import fedopt, local
from secfad.algorithms.trees import whole

CLIENTS = 8
DRAW = np.random.default_rng(1)
DATA = {
    "x": DRAW.normal(size=(CLIENTS, 2, 4, 3)).astype(np.float32),
    "size": np.repeat(DRAW.uniform(0.1, 1.0, (CLIENTS, 1)), 2, axis=1).astype(np.float32),
}
DATA["y"] = (DATA["x"] @ np.array([1.0, -2.0, 0.5], np.float32)) + 0.5
DATA["y"] += 3 * DATA["size"][..., None]  # so that it matters who counts for more
ONE = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), DATA)
MODEL = {"body": np.array([0.1, 0.2, -0.3], np.float32), "bias": np.zeros((), np.float32)}
SERVER = {"learning_rate": np.float32(0.6), "momentum": np.float32(0.3)}
# Half of the clients move by more than 0.2 in a round.
LEARNED = {
    "layers": {"learning_rate": {"body": np.float32(0.05), "bias": np.float32(0.02)}},
    "weights": {"learning_rate": np.float32(0.05), "exponent": np.float32(0.7)},
    "clip": {"learning_rate": np.float32(0.05), "clip_norm": np.float32(0.25)},
    "all": {
        "learning_rate": {"body": np.float32(0.05), "bias": np.float32(0.02)},
        "exponent": np.float32(0.7),
        "clip_norm": np.float32(0.25),
    },
}


def loss(model, batch):
    return jnp.mean((batch["x"] @ model["body"] + model["bias"] - batch["y"]) ** 2)


def by_size(client, own):
    return fedopt.client_weight(client, own["size"][0]) if "exponent" in client else 1.0


def descent(learned, form="sequential", cohort="fresh", **options):
    client = LEARNED[learned] if isinstance(learned, str) else learned
    return privacy.hypergradient_descent(
        loss, MODEL, ONE, hyper={"server": SERVER, "client": client}, optimizer=fedopt.fedavgm,
        local=local.sgd(), hyper_optimizer=optax.sgd(1e-2), form=form, cohort=cohort,
        weight=by_size if "exponent" in client else None, **options,
    )  # fmt: skip


def centralised_delta(client, model):
    """By explicit formulas: no scan over trees, no clip of ours, no federated mean."""
    total, weights = jax.tree.map(jnp.zeros_like, model), 0.0
    rate = client["learning_rate"]
    rates = rate if isinstance(rate, dict) else {"body": rate, "bias": rate}
    for i in range(CLIENTS):
        moved = dict(model)
        for step in range(2):
            gradient = jax.grad(loss)(moved, {k: DATA[k][i, step] for k in ("x", "y")})
            moved = {k: moved[k] - rates[k] * gradient[k] for k in moved}
        delta = {k: model[k] - moved[k] for k in model}
        if "clip_norm" in client:
            norm = jnp.sqrt(sum(jnp.sum(d**2) for d in delta.values()))
            factor = jnp.minimum(1.0, client["clip_norm"] / norm)
            delta = {k: factor * d for k, d in delta.items()}
        weight = DATA["size"][i, 0] ** client["exponent"] if "exponent" in client else 1.0
        total = {k: total[k] + weight * delta[k] for k in total}
        weights = weights + weight
    return {k: v / weights for k, v in total.items()}


def centralised_round(hyper, model, state):
    delta = centralised_delta(hyper["client"], model)
    change, state = fedopt.fedavgm(hyper["server"]).update(delta, state, model)
    return optax.apply_updates(model, change), state


def centralised_loss(model):
    return jnp.mean(jax.vmap(lambda own: loss(model, whole(own)))(DATA))


@functools.cache
def centralised(learned, form, rounds):
    """The same descent without federation."""
    hyper = jax.tree.map(jnp.asarray, {"server": SERVER, "client": LEARNED[learned]})
    model = jax.tree.map(jnp.asarray, MODEL)
    state, kept = fedopt.fedavgm(hyper["server"]).init(model), None

    @jax.jit
    def slope_and_round(in_use, model, state):
        after = lambda h: centralised_round(h, model, state)
        return jax.grad(lambda h: centralised_loss(after(h)[0]))(in_use), after(in_use)

    stepped = lambda hyper, slope: jax.tree.map(lambda h, g: h - 1e-2 * g, hyper, slope)
    for _ in range(rounds):
        client = hyper["client"]
        if form == "parallel" and kept is not None:
            hyper = stepped(hyper, kept)
        in_use = hyper if form == "sequential" else {"server": hyper["server"], "client": client}
        kept, (model, state) = slope_and_round(in_use, model, state)
        if form == "sequential":
            hyper = stepped(hyper, kept)
    return hyper, model


def assert_close(found, expected, **tolerance):
    tolerance = tolerance or {"rtol": 2e-5, "atol": 1e-6}
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.sample(quick=0, slow=3)
@pytest.mark.parametrize(
    ("learned", "form", "cohort"),
    [
        ("all", "sequential", "fresh"),
        pytest.param("all", "parallel", "same", marks=pytest.mark.slow),
        *(pytest.param(n, "sequential", "fresh", marks=pytest.mark.slow) for n in LEARNED),
        pytest.param("all", "parallel", "fresh", marks=pytest.mark.slow),
        pytest.param("all", "sequential", "same", marks=pytest.mark.slow),
    ],
)
def test_what_is_learned_in_the_clear_is_the_centralised_derivative(learned, form, cohort):
    algorithm = descent(learned, form, cohort)
    simulated = {n: jax.jit(fad.simulate(q.computation)) for n, q in algorithm.questions.items()}
    learner, ask = algorithm.state, lambda name, *server: simulated[name](*server, DATA)
    for _ in range(3):
        learner = algorithm.update(learner, ask)
    expected = centralised(learned, form, 3)
    assert_close((learner.hyper, learner.model), expected)
    # What was learned is compared by its change, which is far above the rounding of float32.
    changes = [
        jax.tree.map(lambda a, b: a - b, h["client"], LEARNED[learned])
        for h in (learner.hyper, expected[0])
    ]
    assert_close(*changes, rtol=1e-2, atol=2e-7)
    assert min(abs(change) for change in jax.tree.leaves(changes[1])) > 2e-5


@pytest.mark.slow
def test_the_oracle_agrees_with_finite_differences():
    """The centralised derivative by the clip norm and the exponent, in float64."""
    with jax.enable_x64(True):
        hyper = jax.tree.map(
            lambda a: jnp.asarray(a, jnp.float64), {"server": SERVER, "client": LEARNED["all"]}
        )
        model = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), MODEL)
        state = fedopt.fedavgm(hyper["server"]).init(model)
        value = jax.jit(lambda h: centralised_loss(centralised_round(h, model, state)[0]))
        slope = jax.jit(jax.grad(value))(hyper)
        for name in ("clip_norm", "exponent"):
            moved = lambda by, n=name: (
                hyper | {"client": hyper["client"] | {n: hyper["client"][n] + by}}
            )
            difference = (value(moved(1e-5)) - value(moved(-1e-5))) / 2e-5
            np.testing.assert_allclose(slope["client"][name], difference, rtol=1e-4)


WIDE = privacy.Gaussian(noise_multiplier=1e-3, clip_norm=50.0, grid=1 << 20)


def queries_of(algorithm, mechanism):
    return algorithm.queries(dict.fromkeys(algorithm.questions, mechanism), audits.certify)


@pytest.mark.slow
def test_private_run_of_every_message_learns_all_of_them(tmp_path):
    algorithm = descent("all")
    queries, everyone = queries_of(algorithm, WIDE), privacy.FullParticipation(CLIENTS)
    plan = [privacy.Slot(q.program.purpose, 1.0, 0.99e-3, 2) for q in queries.values()]
    budget = privacy.Budget(1e9, 1e-5)
    with privacy.Ledger.create(
        tmp_path / "ledger.db", budget, population=CLIENTS, slots=plan
    ) as ledger:
        trained = privacy.train(
            algorithm.update, algorithm.state, queries=queries, sampling=everyone, ledger=ledger,
            clients=lambda members: {"batches": jax.tree.map(lambda a: a[members], DATA)},
            rounds=2, run_id="run", folder=tmp_path / "run", fidelity="protocol",
        )  # fmt: skip
    # Noise of deviation 0.006 on every mean, times slopes of about 1 and a rate of 0.01.
    assert_close(trained.state.hyper, centralised("all", "sequential", 2)[0], atol=2e-3)
    names = [s.name for release in queries["training"].program.releases for s in release.sums]
    assert names == ["delta", "weight", "delta.tangent", "weight.tangent"]


EXTREMES = (0.0, -1.0, 1e-30, 1e30, -3e38, 1.0)


def spoiled(array, draw):
    special = np.array([np.nan, np.inf, -np.inf, 3e38, 1e-40, 0.0])
    hostile = np.where(
        draw.random(array.shape) < 0.1, draw.choice(special, array.shape), 1e3 * array
    )
    return hostile.astype(np.float32)


@pytest.mark.sample(quick=0)
@pytest.mark.parametrize("joint", [True, False])
def test_no_client_exceeds_the_mechanisms_bound_whatever_was_learned(joint):
    """Hostile data and hyperparameters, drawn at random: contributions in units of their clip norms."""
    mechanism = privacy.Gaussian(
        noise_multiplier=1.0, joint=joint, clip_norm={"delta": 1.0, "weight": 0.5, "*": 2.0}
    )
    algorithm = descent("all")
    question = algorithm.questions["training"]
    private = privacy.privatize(question.computation, *question.specs, mechanism=mechanism)
    draw, worst = np.random.default_rng(7), []

    def measured(upload):
        squares = [
            np.sum(np.asarray(value, np.float64).reshape(CLIENTS, -1) ** 2, axis=1)
            / mechanism.clip_norm_of(name) ** 2
            for name, value in zip(upload.names, upload.values, strict=True)
        ]
        worst.append(np.max(sum(squares) if joint else np.max(squares, axis=0)))
        totals = [np.sum(value, axis=0) for value in upload.values]
        return fad.engines.local.Aggregate(totals, CLIENTS)

    for _ in range(25):
        data = jax.tree.map(lambda a: spoiled(a, draw), DATA)
        client = jax.tree.map(lambda _: np.float32(draw.choice(EXTREMES)), LEARNED["all"])
        model = jax.tree.map(lambda a: a * np.float32(draw.choice([1.0, 1e30])), MODEL)
        fad.execute(private.program, client, model, data, aggregate=measured, public_size=CLIENTS)
    assert len(worst) == 25
    assert max(worst) <= 1 + 1e-6
    assert max(worst) > 0.9


def test_a_weight_lost_in_noise_does_not_turn_the_step_around():
    sums = {"delta": {"w": jnp.ones(2)}, "weight": jnp.float32(-0.3)}
    np.testing.assert_allclose(joined({}, sums)["w"], 1.0 / LEAST_WEIGHT)
