"""What clients keep: theirs alone, of the same round as the server, and never lost."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import audits
import privacy
import secagg
import secfad as fad
from privacy.errors import MechanismError, ResumeRefused, RunRefused
from privacy.execution.releases import ReleaseJournal
from privacy.ledger.reservations import Reservation
from privacy.training.checkpoints import CheckpointFile
from privacy.training.client_files import ClientFiles
from privacy.training.client_state import ClientState
from secfad.algorithms import scaffold as federated

POPULATION = 24
DRAW = np.random.default_rng(3)
X = DRAW.normal(size=(POPULATION, 2, 4, 3)).astype(np.float32)
# Every client has a slope of its own, so that control variates matter.
SLOPES = np.array([1.0, -2.0, 0.5]) + 0.5 * DRAW.normal(size=(POPULATION, 1, 3, 1))
DATA = {"x": X, "y": (X @ SLOPES)[..., 0].astype(np.float32)}
ONE = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), DATA)
MODEL = {"w": np.array([0.1, 0.2, -0.3], np.float32)}
QUIET = privacy.Gaussian(noise_multiplier=1e-3, clip_norm=100.0, grid=1 << 20)
SAMPLING = privacy.PoissonSampling(population=POPULATION, rate=0.5)


def loss(model, batch):
    return jnp.mean((batch["x"] @ model["w"] - batch["y"]) ** 2)


@functools.cache
def private_scaffold():
    algorithm = privacy.scaffold(
        loss, MODEL, ONE, learning_rate=0.05, optimizer=optax.sgd(0.8), fraction=0.5
    )
    return algorithm, algorithm.queries({"training": QUIET}, audits.certify)


def batches_of(members):
    return {"batches": jax.tree.map(lambda a: a[members], DATA)}


class Scripted:
    """Poisson sampling whose draws are the same in every process, one list for each question."""

    kind, population, rate, expected_size = "poisson", POPULATION, 0.5, 0.5 * POPULATION

    def __init__(self, seed=0, skip=0):
        self.generator = np.random.default_rng(seed)
        self.drawn = []
        for _ in range(skip):
            self.draw()

    def draw(self, stream=None):
        del stream
        members = np.flatnonzero(self.generator.random(self.population) < self.rate)
        self.drawn.append(members)
        return privacy.Cohort(os.urandom(16).hex(), members, self)


@contextlib.contextmanager
def a_run(folder, queries=None, *, planned=40, **options):
    queries = private_scaffold()[1] if queries is None else queries
    path = folder / "ledger.db"
    everyone = privacy.FullParticipation(POPULATION)
    plan = [query.slot(everyone, planned) for query in queries.values()]
    budget = privacy.Budget(1e12, 1e-5)
    with (
        privacy.Ledger.open(path)
        if path.exists()
        else privacy.Ledger.create(path, budget, population=POPULATION, slots=plan)
    ) as ledger:
        yield {
            "queries": queries,
            "clients": batches_of,
            "sampling": SAMPLING,
            "ledger": ledger,
            "run_id": "run",
            "folder": folder / "run",
            "fidelity": "ideal",
        } | options


def train_scaffold(settings, rounds, **options):
    algorithm = private_scaffold()[0]
    kept = algorithm.client_state(POPULATION)
    return privacy.train(
        algorithm.update,
        algorithm.state,
        rounds=rounds,
        **{"client_state": kept} | settings | options,
    )


def clear_rounds(cohorts, dropped=()):
    """SCAFFOLD on these cohorts without privacy, client by client."""
    step = fad.simulate(federated.make_round(loss, 0.05, fraction=0.5))
    model, control = MODEL, jax.tree.map(np.zeros_like, MODEL)
    own = np.zeros((POPULATION, 3), np.float32)
    for members in cohorts:
        members = np.setdiff1d(members, dropped)
        # A private mean divides by the expected size; what is sent is scaled to the same.
        share = np.float32(len(members) / SAMPLING.expected_size)
        held = {"w": own[members]}
        data = batches_of(members)["batches"]
        moved, changed, new = step(np.float32(0.8), model, control, held, data)
        model = jax.tree.map(lambda a, b, s=share: a + s * (b - a), model, moved)
        control = jax.tree.map(lambda a, b, s=share: a + s * (b - a), control, changed)
        own[members] = new["w"]
    return model, control, own


@pytest.mark.slow
def test_private_scaffold_is_scaffold(tmp_path):
    sampling = Scripted()
    with a_run(tmp_path, sampling=sampling) as settings:
        trained = train_scaffold(settings, 3)
    model, control, own = clear_rounds(sampling.drawn)
    # Noise on a mean has a deviation of 0.1 / 12 in every round, and moves all that follows.
    np.testing.assert_allclose(trained.state["model"]["w"], model["w"], atol=0.15)
    np.testing.assert_allclose(trained.state["control"]["w"], control["w"], atol=0.15)
    np.testing.assert_allclose(trained.client_state["own"]["w"], own, atol=0.3)
    assert np.abs(own).max() > 1.0


def test_train_is_the_loop_over_run(tmp_path, monkeypatch):
    """The same noise, the same cohorts: bit for bit what a loop with `run` computes."""
    numbers = iter(np.random.default_rng(5).normal(size=(100, 6)))
    noise = []

    def scripted(self, parts):
        noise.append(np.rint(1e3 * next(numbers)).astype(np.int64))
        return noise[-1]

    rounded = lambda own, grid, bound, stream: np.rint(own * grid).astype(np.int64)
    monkeypatch.setattr("privacy.execution.aggregation.SecureAggregator._noise", scripted)
    monkeypatch.setattr("privacy.execution.aggregation.round_within", rounded)
    sampling = Scripted()
    with a_run(tmp_path, sampling=sampling) as settings:
        trained = train_scaffold(settings, 4)
    numbers = iter(np.random.default_rng(5).normal(size=(100, 6)))
    algorithm, queries = private_scaffold()
    own, state = np.zeros((POPULATION, 3), np.float32), algorithm.state
    (tmp_path / "loop").mkdir()
    with a_run(tmp_path / "loop", sampling=Scripted()) as settings:
        for round in range(4):
            cohort = settings["sampling"].draw()
            kept = []

            def ask(name, model, control, cohort=cohort, kept=kept, round=round):
                held = ({"w": own[cohort.members]}, batches_of(cohort.members)["batches"])
                result = privacy.run(
                    queries[name].program, (model, control, *held),
                    certificate=queries[name].certificate, ledger=settings["ledger"],
                    cohort=cohort, run_id="loop", round=round, fidelity="ideal",
                )  # fmt: skip
                kept.append(result.at_clients[2]["w"])
                return result.value

            state = algorithm.update(state, ask)
            own[cohort.members] = kept[0]
    for one, other in zip(jax.tree.leaves(trained.state), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(trained.client_state["own"]["w"], own)


@fad.computation(shared=fad.SERVER, head=fad.CLIENTS, x=fad.CLIENTS)
def personal_step(shared, head, x):
    """A shared layer and a head that stays: only the shared layer's gradient is sent."""
    body = fad.broadcast(shared, name="shared")
    error = lambda body, head: jnp.mean((body * head - x) ** 2)
    to_body, to_head = jax.grad(error, (0, 1))(body, head)
    return {"gradient": fad.mean(to_body, name="gradient"), "head": head - 0.1 * to_head}


SCALARS = jax.ShapeDtypeStruct((2,), jnp.float32)
KEEP_HEAD = {"gradient": None, "head": "head"}


@functools.cache
def personal_query(mechanism=QUIET):
    private = privacy.privatize(personal_step, *[SCALARS] * 3, mechanism=mechanism)
    return privacy.Query(private, audits.certify(private), keep=KEEP_HEAD)


def personal_update(state, ask):
    return state - 0.1 * ask("step", state)["gradient"]


HEADS = np.ones((POPULATION, 2), np.float32)
TARGETS = DRAW.normal(size=(POPULATION, 2)).astype(np.float32)


def personal(folder, **options):
    return a_run(
        folder,
        {"step": options.pop("query", None) or personal_query()},
        clients=lambda members: {"x": TARGETS[members]},
        client_state={"head": HEADS},
        **options,
    )


def train_heads(settings, rounds, update=personal_update, **options):
    start = jnp.ones(2)
    return privacy.train(update, start, rounds=rounds, **settings | options)


def test_personal_heads_move_toward_their_own_client(tmp_path):
    with personal(tmp_path, sampling=privacy.FullParticipation(POPULATION)) as settings:
        trained = train_heads(settings, 8)
    before = np.mean((HEADS - TARGETS) ** 2)
    heads = trained.client_state["head"]
    assert np.mean((np.asarray(trained.state) * heads - TARGETS) ** 2) < 0.7 * before
    np.testing.assert_array_equal(HEADS, 1.0)


def test_only_the_cohort_keeps_something_new(tmp_path):
    sampling = Scripted()
    with personal(tmp_path, sampling=sampling) as settings:
        trained = train_heads(settings, 1)
    changed = np.any(trained.client_state["head"] != HEADS, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(changed), sampling.drawn[0])


@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_a_client_that_dropped_out_keeps_what_it_had(tmp_path, noise):
    mechanism = privacy.Gaussian(
        noise_multiplier=0.1, clip_norm=100.0, grid=1 << 20, noise=noise, honest_survivors=0.5
    )
    # Noise by clients needs cohorts of a public size.
    sampling = Scripted() if noise == "central" else privacy.FullParticipation(POPULATION)
    faults = lambda _: [secagg.Drop(1, "mask")]
    query = personal_query(mechanism=mechanism)
    with personal(tmp_path, query=query, sampling=sampling, fidelity="protocol") as settings:
        trained = train_heads(settings, 1, faults=faults)
    changed = np.any(trained.client_state["head"] != HEADS, axis=1)
    drawn = sampling.drawn[0] if noise == "central" else np.arange(POPULATION)
    np.testing.assert_array_equal(np.flatnonzero(changed), np.delete(drawn, 1))


def test_a_later_question_of_a_round_finds_what_an_earlier_one_left(tmp_path):
    everyone = privacy.FullParticipation(POPULATION)

    def twice(state, ask):
        ask("step", state)
        ask("again", state)
        return state

    with personal(tmp_path, sampling=everyone) as settings:
        queries = {"step": personal_query(), "again": personal_query()}
        trained = train_heads(settings, 1, twice, queries=queries)
    once = HEADS - 0.1 * (HEADS - TARGETS)
    np.testing.assert_allclose(
        trained.client_state["head"], once - 0.1 * (once - TARGETS), rtol=1e-5
    )


@fad.computation(shared=fad.SERVER, key=fad.CLIENTS, x=fad.CLIENTS)
def random_step(shared, key, x):
    """Each client has randomness of its own: it uses half of its key and keeps the other half."""
    now, later = jax.random.split(jax.random.wrap_key_data(key))
    draws = fad.broadcast(shared, name="shared") + 0 * x + jax.random.uniform(now, x.shape)
    return fad.mean(draws, name="draws"), jax.random.key_data(later)


@pytest.mark.slow
def test_clients_keep_their_random_keys(tmp_path):
    keys = np.asarray(jax.random.key_data(fad.cohorts.client_keys(jax.random.key(0), POPULATION)))
    spec = jax.ShapeDtypeStruct((2,), jnp.uint32)
    private = privacy.privatize(random_step, SCALARS, spec, SCALARS, mechanism=QUIET)
    query = privacy.Query(private, audits.certify(private), keep=(None, "key"))
    seen = []

    def update(state, ask):
        seen.append(np.asarray(ask("step", state)[0]))
        return state

    everyone = privacy.FullParticipation(POPULATION)
    with personal(tmp_path, query=query, sampling=everyone) as settings:
        trained = train_heads(settings, 2, update, client_state={"key": keys})
    expected = []
    for _ in range(2):
        now, later = jax.vmap(lambda k: tuple(jax.random.split(jax.random.wrap_key_data(k))))(keys)
        expected.append(1 + np.mean(jax.vmap(lambda k: jax.random.uniform(k, (2,)))(now), axis=0))
        keys = np.asarray(jax.random.key_data(later))
    np.testing.assert_array_equal(trained.client_state["key"], keys)
    np.testing.assert_allclose(seen, expected, atol=0.03)  # noise of deviation 0.1 / 24


# Crashes.

MOMENTS = {
    "reserve": (privacy.Ledger, "reserve"),
    "open": (Reservation, "open"),
    "kept": (ClientFiles, "write_kept"),
    "journal": (ReleaseJournal, "write"),
    "commit": (Reservation, "commit"),
    "state": (ClientFiles, "write_state"),
    "checkpoint": (CheckpointFile, "write"),
    "forget": (ClientFiles, "forget"),
}


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", MOMENTS)
def test_server_and_clients_resume_from_one_round(tmp_path, monkeypatch, when, step):
    """Killed in the third round at any step, the run ends with what its releases say."""
    holder, method = MOMENTS[step]
    original, calls, seen = getattr(holder, method), [], []

    class Killed(BaseException):
        pass

    def dying(*args, **kwargs):
        calls.append(None)
        if len(calls) == 3 and when == "before":
            raise Killed
        result = original(*args, **kwargs)
        if len(calls) == 3:
            raise Killed
        return result

    writing = ClientFiles.write_kept

    def recording(self, kept):
        seen.append(kept)
        writing(self, kept)

    # What left each client in which release, to compute everything again from releases alone.
    monkeypatch.setattr(ClientFiles, "write_kept", recording)
    original = getattr(holder, method)
    monkeypatch.setattr(holder, method, dying)
    with personal(tmp_path) as settings, pytest.raises(Killed):
        train_heads(settings, 5)
    monkeypatch.setattr(holder, method, original)
    with personal(tmp_path) as settings:
        trained = train_heads(settings, 5)
        committed = {
            r.round: r for r in settings["ledger"].find("run/step") if r.state == "committed"
        }
    # The reference: the server's states by the released gradients, the clients' by those states.
    counted = {kept.seq: kept for kept in seen}
    shared, heads = np.ones(2, np.float32), HEADS.copy()
    for round in range(5):
        kept = counted[committed[round].seq]
        old, target = heads[kept.members], TARGETS[kept.members]
        expected = old - 0.1 * shared * (shared * old - target)
        np.testing.assert_allclose(kept.rows["head"], expected, atol=1e-5)
        heads[kept.members] = kept.rows["head"]
        gradient = released_gradient(tmp_path / "run" / "releases", kept.seq)
        shared = shared - 0.1 * gradient
    np.testing.assert_array_equal(trained.client_state["head"], heads)
    np.testing.assert_allclose(trained.state, shared, atol=1e-6)
    left = sorted(file.name for file in (tmp_path / "run" / "clients").iterdir())
    assert left == ["state-00000005.npz"]


def released_gradient(journal, seq):
    with np.load(journal / f"release-{seq:08d}.npz") as data:
        return data["0.0"] / SAMPLING.expected_size


@pytest.mark.slow
def test_a_killed_process_resumes(tmp_path):
    """SIGKILL in the second round, after its release is durable and before anything else is."""
    script = (
        "import os, signal, sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from pathlib import Path; import test_client_state as t\n"
        "from privacy.execution.releases import ReleaseJournal\n"
        "write, calls = ReleaseJournal.write, []\n"
        "def dying(*args):\n"
        "    write(*args); calls.append(0)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "ReleaseJournal.write = dying\n"
        "with t.personal(Path(sys.argv[3])) as settings: t.train_heads(settings, 4)\n"
    )
    here = Path(__file__)
    folders = map(str, (here.parents[3], here.parent, tmp_path))
    command = [sys.executable, "-c", script, *folders]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert child.returncode == -signal.SIGKILL, child.stderr
    kept = [file.name for file in (tmp_path / "run" / "clients").glob("kept-*.npz")]
    assert len(kept) == 1
    with personal(tmp_path) as settings:
        trained = train_heads(settings, 2)
        states = [r.state for r in settings["ledger"].find("run/step")]
    assert (trained.rounds, states) == (2, ["committed"] * 2)
    assert trained.metrics[2]["releases"]["step"]["replayed"]


def test_replay_without_what_its_cohort_kept_is_refused(tmp_path):
    def crashing(state, ask):
        ask("step", state)
        raise KeyboardInterrupt

    with personal(tmp_path) as settings:
        with pytest.raises(KeyboardInterrupt):
            train_heads(settings, 1, crashing)
        (kept,) = (tmp_path / "run" / "clients").glob("kept-*.npz")
        content = kept.read_bytes()
        for damaged in (None, content[:200], content[:-200] + bytes(200)):
            kept.unlink()
            if damaged is not None:
                kept.write_bytes(damaged)
            else:
                kept.with_name("unrelated.npz").write_bytes(b"")
            with pytest.raises(ResumeRefused, match="what its own cohort was left with"):
                train_heads(settings, 1)
            kept.write_bytes(content)
        assert train_heads(settings, 1).rounds == 1


def test_rows_of_another_round_are_refused(tmp_path):
    with personal(tmp_path) as settings:
        train_heads(settings, 1)
        file = tmp_path / "run" / "clients" / "state-00000001.npz"
        old = file.read_bytes()
        train_heads(settings, 2)
        newer = file.with_name("state-00000002.npz")
        newer.write_bytes(old)
        with pytest.raises(ResumeRefused, match="the checkpoint is of other rows"):
            train_heads(settings, 3)
        newer.unlink()
        with pytest.raises(ResumeRefused, match="there is none"):
            train_heads(settings, 3)


def test_resume_with_another_client_state_is_refused(tmp_path):
    with personal(tmp_path) as settings:
        train_heads(settings, 1)
        two = {"head": HEADS, "other": HEADS}
        with pytest.raises(RunRefused, match="got 'other'"):
            train_heads(settings, 2, client_state=two)


# Refusals before the first round.


def refused(settings, match, **options):
    def never(state, ask):
        raise AssertionError("a round began")

    with pytest.raises(RunRefused, match=match):
        train_heads(settings, 1, never, **options)
    assert not (settings["folder"]).exists()
    assert list(settings["ledger"].find("run/step")) == []


@pytest.mark.parametrize(
    ("keep", "client_state", "match"),
    [
        (None, None, r"result\['head'\] of query 'step', which nothing takes"),
        (KEEP_HEAD, None, "Expected client_state for what query 'step' keeps as 'head'"),
        (KEEP_HEAD, {"head": HEADS[:5]}, "leading axis of the population of 24"),
        (KEEP_HEAD, {"head": np.ones((POPULATION, 3), np.float32)}, r"float32\[3\]"),
        (KEEP_HEAD, {"head": np.ones((POPULATION, 2), np.int32)}, r"int32\[2\]"),
        (KEEP_HEAD, {"head": {"a": HEADS}}, "like what query 'step' keeps as 'head'"),
        (KEEP_HEAD, {"head": HEADS, "tail": HEADS}, "got 'tail'"),
        ({"gradient": "gradient", "head": "head"}, {"head": HEADS, "gradient": HEADS}, "server has"),
        (("head",), {"head": HEADS}, "tree prefix of its result"),
        ({"gradient": None, "head": 3}, {"head": HEADS}, "got 3"),
        ({"gradient": "head", "head": "head"}, {"head": HEADS}, "each once, got 'head'"),
    ],
)  # fmt: skip
def test_what_clients_have_is_never_lost_in_silence(tmp_path, keep, client_state, match):
    query = privacy.Query(personal_query().program, personal_query().certificate, keep=keep)
    with personal(tmp_path, query=query) as settings:
        refused(settings, match, client_state=client_state)


def test_draws_of_fixed_size_are_refused_with_client_state(tmp_path):
    with personal(tmp_path) as settings:
        fixed = privacy.FixedSampling(POPULATION, 12)
        refused(settings, "Expected Poisson sampling or full participation", sampling=fixed)


def test_what_clients_keep_does_not_come_from_clients_too(tmp_path):
    with personal(tmp_path) as settings:
        both = lambda members: {"x": TARGETS[members], "head": HEADS[members]}
        with pytest.raises(MechanismError, match=r"got \(head\) from both"):
            train_heads(settings, 1, clients=both)
        assert list(settings["ledger"].find("run/step")) == []


# Secrecy.


def test_nothing_that_clients_keep_is_in_a_public_file_or_a_repr(tmp_path):
    secret = np.float32(0.123456791)  # its bytes and its digits are looked for
    with personal(tmp_path) as settings:
        heads = np.full_like(HEADS, secret)
        trained = train_heads(
            settings, 2, lambda s, ask: (ask("step", s), s)[1], client_state={"head": heads}
        )
    needles = [leaf.tobytes() for leaf in (heads[0], *trained.client_state["head"])]
    digits = [str(x).encode() for x in (secret, *trained.client_state["head"].ravel())]
    clients = tmp_path / "run" / "clients"
    assert clients.stat().st_mode & 0o077 == 0
    public = [f for f in tmp_path.rglob("*") if f.is_file() and f.parent != clients]
    texts = [file.read_bytes() for file in public] + [repr(trained).encode()]
    for text in texts:
        assert not any(needle in text for needle in needles + digits)
    assert any(needles[1] in file.read_bytes() for file in clients.iterdir())


def test_a_late_question_overrides_an_earlier_one_only_where_it_was_asked():
    state = ClientState({"own": np.arange(6.0).reshape(6, 1)}, 6)
    state.hold({"own": np.array([[10.0], [30.0]])}, np.array([1, 3]))
    state.hold({"own": np.array([[300.0], [50.0]])}, np.array([3, 5]))
    assert state.rows("own", np.array([0, 1, 3, 5])).ravel().tolist() == [0.0, 10.0, 300.0, 50.0]
    assert "10" not in repr(state)
    state.end_round()
    assert state.whole["own"].ravel().tolist() == [0.0, 10.0, 2.0, 300.0, 4.0, 50.0]
