"""Ready-made loops: exact in the clear, charged to the right purpose, resumed after crashes."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import audits
import privacy
import secfad as fad
from privacy.errors import MechanismError
from privacy.mechanisms.adaptive import COUNT, AdaptiveClip
from privacy.mechanisms.mechanisms import split_noise
from privacy.training.algorithms import fedopt
from privacy.training.hypergradients import hypergradient_descent
from secfad.algorithms import fedopt as optimizers
from secfad.algorithms import local
from secfad.algorithms.trees import whole

POPULATION = 40
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(POPULATION, 2, 4, 3)).astype(np.float32)
DATA = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5], np.float32)}
ONE = {
    "x": jax.ShapeDtypeStruct((2, 4, 3), jnp.float32),
    "y": jax.ShapeDtypeStruct((2, 4), jnp.float32),
}
HYPER = {
    "server": {"learning_rate": np.float32(0.6), "momentum": np.float32(0.3)},
    "client": {"learning_rate": np.float32(0.05)},
}
MODEL = {"w": np.array([0.1, 0.2, -0.3], np.float32)}
EVERYONE = privacy.FullParticipation(population=POPULATION)
FORMS = [(form, cohort) for form in ("sequential", "parallel") for cohort in ("fresh", "same")]


def loss(model, batch):
    return jnp.mean((batch["x"] @ model["w"] - batch["y"]) ** 2)


def descent(form="sequential", cohort="fresh", mode="forward", rate=1e-2, hyper=HYPER):
    return hypergradient_descent(
        loss, MODEL, ONE, hyper=hyper, optimizer=optimizers.fedavgm, local=local.sgd(),
        hyper_optimizer=optax.sgd(rate), form=form, cohort=cohort, mode=mode,
    )  # fmt: skip


def in_the_clear(algorithm):
    """Answers questions with everyone's data, without privacy."""
    simulated = {n: jax.jit(fad.simulate(q.computation)) for n, q in algorithm.questions.items()}
    return lambda name, *server: simulated[name](*server, DATA)


def centralised_round(hyper, model, state):
    """One round of FedAvgM with everyone, as plain JAX."""
    moved = jax.vmap(lambda own: local.sgd()(loss, hyper["client"], model, own))(DATA)
    delta = jax.tree.map(lambda m, x: m - jnp.mean(x, axis=0), model, moved)
    change, state = optimizers.fedavgm(hyper["server"]).update(delta, state, model)
    return optax.apply_updates(model, change), state


def centralised_loss(model):
    return jnp.mean(jax.vmap(lambda own: loss(model, whole(own)))(DATA))


@jax.jit
def centralised_slope(hyper, model, state):
    """Through the whole round, by JAX's own reverse mode; and the round."""
    after = functools.partial(centralised_round, model=model, state=state)
    return jax.grad(lambda h: centralised_loss(after(h)[0]))(hyper), after(hyper)


@functools.cache
def centralised(form, rounds, rate=1e-2):
    """The same descent without federation."""
    hyper, model = jax.tree.map(jnp.asarray, (HYPER, MODEL))
    state, kept = optimizers.fedavgm(hyper["server"]).init(model), None
    for _ in range(rounds):
        client = hyper["client"]
        if form == "parallel" and kept is not None:
            hyper = jax.tree.map(lambda h, g: h - rate * g, hyper, kept)
        # In the parallel form clients train before the slope arrives.
        in_use = hyper if form == "sequential" else {"server": hyper["server"], "client": client}
        kept, (model, state) = centralised_slope(in_use, model, state)
        if form == "sequential":
            hyper = jax.tree.map(lambda h, g: h - rate * g, hyper, kept)
    return hyper, model


def assert_close(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize(
    ("form", "cohort", "mode"),
    [(*pair, "forward") for pair in FORMS]
    + [("sequential", "fresh", "mixed"), ("sequential", "same", "reverse")],
)
def test_descent_in_the_clear_is_the_centralised_one(form, cohort, mode):
    algorithm = descent(form, cohort, mode)
    learner, ask = algorithm.state, in_the_clear(algorithm)
    for _ in range(3):
        learner = algorithm.update(learner, ask)
    assert_close((learner.hyper, learner.model), centralised(form, 3))


@pytest.mark.parametrize(
    ("form", "cohort", "expected"),
    [
        (
            "sequential",
            "fresh",
            {"training": [["delta", "delta.tangent"]], "hypergradient": [["loss.tangent"]]},
        ),
        ("sequential", "same", {"training": [["delta", "delta.tangent"], ["loss.tangent"]]}),
        ("parallel", "same", {"training": [["delta", "delta.tangent", "loss.tangent"]]}),
    ],
)  # fmt: skip
def test_form_and_cohort_decide_what_one_draw_releases(form, cohort, expected):
    queries = made(descent(form, cohort))
    found = {n: [[s.name for s in r.sums] for r in q.program.releases] for n, q in queries.items()}
    assert found == expected
    for query in queries.values():
        # Rounds of one draw compose; sums of one round are one Gaussian.
        assert query.noise_multiplier == pytest.approx(0.5 / len(query.program.releases) ** 0.5)


def made(algorithm, **options):
    mechanism = privacy.Gaussian(noise_multiplier=0.5, clip_norm=3.0)
    return algorithm.queries(
        dict.fromkeys(algorithm.questions, mechanism), audits.certify, **options
    )


@pytest.fixture(scope="module")
def learned():
    """Descent on the server's hyperparameters alone, with its certified queries."""
    algorithm = hypergradient_descent(
        loss, MODEL, ONE, hyper={"server": HYPER["server"], "client": {}},
        optimizer=optimizers.fedavgm, local=local.sgd(0.05), hyper_optimizer=optax.adam(0.05),
    )  # fmt: skip
    return algorithm, made(algorithm)


@contextlib.contextmanager
def everyone_at(folder, queries, planned):
    """Settings of a run in which everyone takes part, `planned[name]` times for each question."""
    with privacy.Ledger.create(
        folder / "ledger.db",
        privacy.Budget(400.0, 1e-5),
        population=POPULATION,
        slots=[query.slot(EVERYONE, planned[name]) for name, query in queries.items()],
    ) as ledger:
        yield {
            "queries": queries,
            "clients": lambda m: {"batches": jax.tree.map(lambda a: a[m], DATA)},
            "sampling": EVERYONE,
            "ledger": ledger,
            "run_id": "run",
            "folder": folder / "run",
            "fidelity": "ideal",
        }


@pytest.fixture
def setting(tmp_path, learned):
    with everyone_at(tmp_path, learned[1], {"training": 5, "hypergradient": 3}) as settings:
        yield settings


def charges(setting, name):
    return [(r.round, r.purpose, r.state) for r in setting["ledger"].find(f"run/{name}")]


def test_each_purpose_pays_for_its_own_questions(setting, learned):
    trained = privacy.train(learned[0].update, learned[0].state, rounds=2, **setting)
    assert trained.rounds == 2
    for name in ("training", "hypergradient"):
        assert charges(setting, name) == [(n, name, "committed") for n in range(2)]
    assert trained.state.hyper["server"]["momentum"] != HYPER["server"]["momentum"]


def test_crash_between_the_questions_of_a_round_pays_once(setting, learned):
    algorithm = learned[0]

    def crashing(state, ask):
        ask("training", state.hyper["client"], state.model)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        privacy.train(crashing, algorithm.state, rounds=1, **setting)
    trained = privacy.train(algorithm.update, algorithm.state, rounds=1, **setting)
    releases = trained.metrics[1]["releases"]
    assert {name: record["replayed"] for name, record in releases.items()} == {
        "training": True,
        "hypergradient": False,
    }
    assert charges(setting, "training") == [(0, "training", "committed")]


def test_last_round_counts_when_the_hypergradient_budget_ends(setting, learned):
    algorithm = learned[0]
    trained = privacy.train(algorithm.update, algorithm.state, rounds=5, **setting)
    assert (trained.rounds, trained.stopped[:9]) == (4, "round 3: ")
    again = privacy.train(algorithm.update, algorithm.state, rounds=5, **setting)
    assert (again.rounds, again.stopped) == (4, trained.stopped)
    assert len(charges(setting, "training")) == 4
    assert_close(again.state, trained.state)


def test_replay_with_another_state_is_refused(setting, learned):
    algorithm = learned[0]
    privacy.train(algorithm.update, algorithm.state, rounds=1, **setting)
    (setting["folder"] / "checkpoint.npz").unlink()
    other = algorithm.state._replace(model={"w": np.zeros(3, np.float32)})
    with pytest.raises(privacy.RunRefused, match="not repeated with the state"):
        privacy.train(algorithm.update, other, rounds=1, **setting)


def test_fedopt_takes_any_optimizer(tmp_path):
    optimizer = optax.chain(
        optax.scale_by_adam(), optax.add_decayed_weights(1e-3), optax.scale(-0.3)
    )
    algorithm = fedopt(loss, MODEL, ONE, optimizer=optimizer, local=local.sgd(0.05))
    queries = made(algorithm)
    with everyone_at(tmp_path, queries, {"training": 8}) as settings:
        trained = privacy.train(algorithm.update, algorithm.state, rounds=8, **settings)
    assert int(trained.state["optimizer"][0].count) == 8
    assert centralised_loss(trained.state["model"]) < 0.5 * centralised_loss(MODEL)


@pytest.mark.parametrize(
    ("initial", "rate", "finding"),
    [(100.0, 0.0, "hardly ever"), (1e-3, 0.0, "nearly always"), (1.0, 0.5, "")],
)
def test_counted_clips_are_judged_and_followed(tmp_path, initial, rate, finding):
    adaptive = AdaptiveClip(initial, quantile=0.5, rate=rate)
    algorithm = fedopt(
        loss, MODEL, ONE, optimizer=optax.sgd(0.1), local=local.sgd(0.02), adaptive=adaptive
    )
    mechanism = privacy.Gaussian(
        noise_multiplier=split_noise(1.0, {"delta": 0.6, COUNT: 0.4}),
        clip_norm={"delta": 1.0, COUNT: 0.5},
        joint=False,
    )
    queries = algorithm.queries({"training": mechanism}, audits.certify)
    assert queries["training"].noise_multiplier == pytest.approx(1.0)
    with everyone_at(tmp_path, queries, {"training": 12}) as settings:
        trained = privacy.train(algorithm.update, algorithm.state, rounds=12, **settings)
    # The summed count is 13 from where the finding begins, its noise 2.7: missed with below 1e-6.
    found = {activity.sums: activity.finding for activity in trained.clipping["training"]}
    assert found[(COUNT,)] == finding
    norm = float(trained.state["clip_norm"])
    # Clients' norms are about 0.2.
    assert norm == pytest.approx(initial) if rate == 0 else 0.05 < norm < 0.8


def test_unknown_form_and_missing_mechanism_are_refused():
    with pytest.raises(MechanismError, match="form as"):
        descent(form="diagonal")
    with pytest.raises(
        MechanismError, match=r"one mechanism for each of \['hypergradient', 'training'\]"
    ):
        descent().queries({}, audits.certify)
