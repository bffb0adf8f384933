"""The training loop: optax on released values, resumed after crashes, ended by the budget."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import audits
import privacy
import secfad as fad
from privacy.errors import MechanismError, ResumeRefused

POPULATION = 64
SPEC = jax.ShapeDtypeStruct((2,), jnp.float32)
OPTIMIZER = optax.adam(0.2)
TARGET = np.array([1.0, -2.0], np.float32)


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def gradient(model, x):
    return fad.mean(fad.broadcast(model, name="model") - x, name="gradient")


@pytest.fixture(scope="module")
def query():
    mechanism = privacy.Gaussian(noise_multiplier=0.6, clip_norm=3.0)
    private = privacy.privatize(gradient, SPEC, SPEC, mechanism=mechanism)
    return privacy.Query(private, audits.certify(private))


@pytest.fixture
def setting(tmp_path, query):
    rng = np.random.default_rng(0)
    data = (TARGET + 0.1 * rng.normal(size=(POPULATION, 2))).astype(np.float32)
    ledger = make_ledger(tmp_path / "ledger.db", 12)
    yield {
        "queries": {"gradient": query},
        "clients": lambda members: {"x": data[members]},
        "sampling": privacy.PoissonSampling(population=POPULATION, rate=0.5),
        "ledger": ledger,
        "run_id": "run",
        "folder": tmp_path / "run",
        "fidelity": "ideal",
    }
    ledger.close()


def make_ledger(path, count, rate=0.5):
    return privacy.Ledger.create(
        path,
        privacy.Budget(200.0, 1e-5),
        population=POPULATION,
        slots=[privacy.Slot("training", rate, 0.599, count)],
    )


def start():
    model = jnp.zeros(2)
    return {"model": model, "optimizer": OPTIMIZER.init(model)}


def update(state, ask):
    step, optimizer = OPTIMIZER.update(ask("gradient", state["model"]), state["optimizer"])
    return {"model": optax.apply_updates(state["model"], step), "optimizer": optimizer}


def spent_records(setting):
    return [r.state for r in setting["ledger"].find("run/gradient")]


def test_training_moves_toward_the_clients_mean(setting):
    trained = privacy.train(update, start(), rounds=12, **setting)
    assert (trained.rounds, trained.stopped) == (12, "")
    before = np.linalg.norm(TARGET)
    assert np.linalg.norm(np.asarray(trained.state["model"]) - TARGET) < 0.5 * before


def test_resume_continues_without_a_second_charge(setting):
    privacy.train(update, start(), rounds=3, **setting)
    again = privacy.train(update, start(), rounds=5, **setting)
    assert again.rounds == 5
    assert spent_records(setting) == ["committed"] * 5
    assert int(again.state["optimizer"][0].count) == 5


def test_crash_after_a_release_replays_it(setting):
    released = []

    def crashing(state, ask):
        released.append(np.asarray(ask("gradient", state["model"])))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        privacy.train(crashing, start(), rounds=1, **setting)

    def recording(state, ask):
        released.append(np.asarray(ask("gradient", state["model"])))
        return state

    privacy.train(recording, start(), rounds=1, **setting)
    np.testing.assert_array_equal(*released)
    assert spent_records(setting) == ["committed"]


def test_training_ends_with_the_budget(setting):
    trained = privacy.train(update, start(), rounds=20, **setting)
    assert trained.rounds == 12
    assert trained.stopped.startswith("round 12: ")
    assert len(spent_records(setting)) == 12


def test_metrics_are_written_per_round(setting):
    privacy.train(
        update, start(), rounds=2, measure=lambda s: {"norm": jnp.sum(s["model"] ** 2)}, **setting
    )
    lines = (setting["folder"] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [0, 1, 2]


def test_ledger_that_forgot_charges_is_refused(setting, tmp_path):
    privacy.train(update, start(), rounds=1, **setting)
    with (
        make_ledger(tmp_path / "other.db", 12) as other,
        pytest.raises(ResumeRefused, match="forget"),
    ):
        privacy.train(update, start(), rounds=2, **(setting | {"ledger": other}))


def test_checkpoint_of_another_state_is_refused(setting):
    privacy.train(update, start(), rounds=1, **setting)
    with pytest.raises(ResumeRefused, match="structure"):
        privacy.train(update, {"model": jnp.zeros(2)}, rounds=2, **setting)


def test_damaged_checkpoint_is_refused(setting):
    privacy.train(update, start(), rounds=1, **setting)
    file = setting["folder"] / "checkpoint.npz"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ResumeRefused, match="cannot be read"):
        privacy.train(update, start(), rounds=2, **setting)


def test_two_questions_of_one_name_in_a_round_are_refused(setting):
    def twice(state, ask):
        ask("gradient", state["model"])
        ask("gradient", state["model"])
        return state

    with pytest.raises(MechanismError, match="at most once in a round"):
        privacy.train(twice, start(), rounds=1, **setting)


def test_unknown_query_and_wrong_arguments_are_refused(setting):
    with pytest.raises(MechanismError, match="among"):
        privacy.train(lambda s, ask: ask("loss", s), start(), rounds=1, **setting)
    with pytest.raises(MechanismError, match=r"server arguments \(model\)"):
        privacy.train(lambda s, ask: ask("gradient"), start(), rounds=1, **setting)
    assert spent_records(setting) == []


def test_clip_bound_that_never_binds_is_reported(setting, tmp_path):
    mechanism = privacy.Gaussian(noise_multiplier=0.6, clip_norm=1000.0)
    private = privacy.privatize(gradient, SPEC, SPEC, mechanism=mechanism)
    query, everyone = privacy.Query(private, audits.certify(private)), privacy.FullParticipation(64)
    with make_ledger(tmp_path / "full.db", 4, rate=1.0) as ledger:
        changed = {"queries": {"gradient": query}, "sampling": everyone, "ledger": ledger}
        trained = privacy.train(update, start(), rounds=4, **(setting | changed))
    (found,) = trained.clipping["gradient"]
    assert (found.sums, found.finding, found.releases) == (("gradient",), "hardly ever", 4)
    assert "Lower clip_norm" in found.statement


def test_released_norm_squares_are_those_of_the_noisy_sum(setting):
    def keep(state, ask):
        return state | {"model": ask("gradient", state["model"])}

    trained = privacy.train(keep, start(), rounds=1, **setting)
    (record,) = trained.metrics[1]["releases"]["gradient"]["clipping"]
    # The mean was made from the noisy sum, by the public size of the cohort and at clip norm 3.
    noisy_sum = np.asarray(trained.state["model"], np.float64) * 0.5 * POPULATION / 3.0
    assert record["norm_square"] == pytest.approx(np.sum(noisy_sum**2), rel=1e-5)
    assert trained.clipping["gradient"][0].finding == ""


@pytest.mark.parametrize("names", [("x", "model"), ()])
def test_what_clients_hold_is_never_a_server_argument(setting, names):
    def held(members):
        return dict.fromkeys(names, np.ones((len(members), 2), np.float32))

    with pytest.raises(MechanismError, match=r"client arguments \(x\) from `clients`"):
        privacy.train(update, start(), rounds=1, **setting | {"clients": held})
    assert spent_records(setting) == []
