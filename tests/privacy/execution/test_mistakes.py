"""Natural mistakes with every public function: a typed error that says what to do; nothing is charged.

Each entry is a call with one wrong argument and what the text of its error must say.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import audits
import privacy
import secfad as fad
from privacy.accounting.calibration import noise_multiplier_for, rounds_for
from privacy.certificates import keys
from privacy.execution.traffic import public_traffic
from privacy.ledger import export as ledger_export
from privacy.ledger import planning
from privacy.ledger.spending import spending
from privacy.mechanisms.adaptive import AdaptiveClip
from privacy.mechanisms.mechanisms import split_noise
from secfad.algorithms import fedopt as optimizers
from secfad.algorithms import local

POPULATION = 8
SPEC = jax.ShapeDtypeStruct((2,), jnp.float32)
DATA = np.ones((POPULATION, 2), np.float32)
MECHANISM = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
EVERYONE = privacy.FullParticipation(POPULATION)
BUDGET = privacy.Budget(50.0, 1e-5)
BATCHES = {"x": jax.ShapeDtypeStruct((2, 4, 3), jnp.float32)}
STACKED = {"x": jax.ShapeDtypeStruct((POPULATION, 2, 4, 3), jnp.float32)}
MODEL = {"w": np.zeros(3, np.float32)}
HYPER = {"server": {"learning_rate": 0.5}, "client": {}}
SLOT = privacy.Slot("training", 1.0, 0.9, 3)
ONE = "REPLACE_ONE"


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def gradient(model, x):
    return fad.mean(fad.broadcast(model, name="model") - x, name="gradient")


@fad.computation(model=fad.SERVER, x=fad.CLIENTS)
def of_a_stack(model, x):
    return fad.mean(fad.broadcast(model, name="model") - x.mean(axis=0), name="gradient")


def loss(model, batch):
    return jnp.mean((batch["x"] @ model["w"]) ** 2)


@functools.cache
def query(computation=gradient, shape=(2,)):
    spec = jax.ShapeDtypeStruct(shape, jnp.float32)
    private = privacy.privatize(computation, SPEC, spec, mechanism=MECHANISM)
    return privacy.Query(private, audits.certify(private))


@pytest.fixture
def ledger(tmp_path):
    with privacy.Ledger.create(
        tmp_path / "ledger.db", BUDGET, population=POPULATION, slots=[SLOT]
    ) as made:
        yield made


def train(tmp_path, ledger, *, update=lambda s, ask: s + ask("step", s), state=None, **wrong):
    arguments = {
        "queries": {"step": query()},
        "clients": lambda members: {"x": DATA[members]},
        "sampling": EVERYONE,
        "ledger": ledger,
        "rounds": 1,
        "run_id": "run",
        "folder": tmp_path / "run",
        "fidelity": "ideal",
    }
    state = jnp.zeros(2) if state is None else state
    return privacy.train(update, state, **arguments | wrong)


def run(ledger, **wrong):
    private = wrong.pop("private_program", query().program)
    args = wrong.pop("args", (np.zeros(2, np.float32), DATA))
    arguments = {
        "certificate": query().certificate,
        "ledger": ledger,
        "cohort": EVERYONE.draw(),
        "run_id": "run",
        "round": 0,
        "fidelity": "ideal",
    }
    return privacy.run(private, args, **arguments | wrong)


OF_TRAIN = {
    "a path as ledger": ({"ledger": "ledger.db"}, "ledger as an open ledger.*Ledger.open"),
    "no function as update": ({"update": optax.sgd(0.1)}, "update as a function"),
    "programs as queries": (
        {"queries": lambda: {"step": query().program}},
        r"queries\['step'\] as a privacy.Query, got a private program.*audits.certify",
    ),
    "one query": ({"queries": query}, "queries as a mapping from names to queries, got a Query"),
    "computations": ({"queries": {"step": gradient}}, "queries.'step'. as a Query"),
    "data as clients": ({"clients": {"x": DATA}}, r"clients as a function.*names \(x\).*lambda"),
    "a rate as sampling": ({"sampling": 0.5}, "sampling as a way to draw cohorts, got the float 0.5"),
    "a class as sampling": ({"sampling": privacy.PoissonSampling}, "the class PoissonSampling itself"),
    "a cohort as sampling": ({"sampling": lambda: EVERYONE.draw()}, "sampling .* got a Cohort"),
    "another population": (
        {"sampling": privacy.FullParticipation(5)},
        "sampling of the ledger's population of 8, got one of 5",
    ),
    "rounds as a float": ({"rounds": 5.0}, "rounds as an int of at least 0, got the float 5.0"),
    "rounds as a bool": ({"rounds": True}, "rounds as an int of at least 0, got the bool True"),
    "negative rounds": ({"rounds": -1}, "rounds as an int of at least 0, got the int -1"),
    "a number as run_id": ({"run_id": 7}, "run_id as a name, got the int 7"),
    "an empty run_id": ({"run_id": ""}, "run_id as a name"),
    "no folder": ({"folder": None}, "folder as a path, got None"),
    "a list as client_state": ({"client_state": [DATA]}, "client_state as a mapping, got a list"),
    "another fidelity": ({"fidelity": "exact"}, "fidelity as 'protocol' or 'ideal', got the str 'exact'"),
    "a list as faults": ({"faults": []}, "faults as a function, got a list"),
    "values as measure": ({"measure": {"loss": 1.0}}, "measure as a function"),
    "no function as observe": ({"observe": 3}, "observe as a function, got the int 3"),
    "measure of a number": ({"measure": lambda s: 1.0}, "`measure` returns as a mapping from names"),
    "measure of a vector": ({"measure": lambda s: {"m": s}}, "`measure` returns as 'm' as a number"),
    "text in the state": ({"state": {"m": "adam"}}, "state of arrays of numbers, got a str"),
    "a key in the state": ({"state": lambda: {"k": jax.random.key(0)}}, "key_data"),
    "clients that give a list": (
        {"clients": lambda m: [DATA[m]]},
        "`clients` returns for 'step' as a mapping from client arguments.*got a list",
    ),
    "clients that give too little": ({"clients": lambda m: {}}, r"client arguments \(x\) from `clients`"),
    "clients that give the model": (
        {"clients": lambda m: {"x": DATA[m], "model": DATA[0]}},
        "What clients hold is never a server's",
    ),
    "clients that give everybody": (
        {"clients": lambda m: {"x": DATA[:4]}},
        "client arguments for the 8 members of the cohort, got 4",
    ),
    "clients that give one client": (
        {"clients": lambda m: {"x": DATA[0]}},
        r"shape \(2,\) at each client in `x`, got \(\).*members of the cohort hold, stacked",
    ),
    "clients that give objects": ({"clients": lambda m: {"x": ["a"] * 8}}, "structure"),
    "clients that give another shape": (
        {"clients": lambda m: {"x": DATA[m][:, :1]}},
        r"shape \(2,\) at each client in `x`, got \(1,\)",
    ),
    "clients that give another dtype": (
        {"clients": lambda m: {"x": DATA[m].astype(np.int32)}},
        "dtype float32 in `x`, got int32",
    ),
    "specs of a stack": (
        {"queries": lambda: {"step": query(of_a_stack, (POPULATION, 2))}},
        "traced for clients that hold a stack each.*the shapes of one client",
    ),
    "an unknown query": ({"update": lambda s, ask: ask("steps", s)}, "among .'step'., got 'steps'"),
    "a question without arguments": ({"update": lambda s, ask: ask("step")}, r"arguments \(model\)"),
    "a question with another state": (
        {"update": lambda s, ask: ask("step", jnp.zeros(3))},
        r"shape \(2,\) at the server in `model`, got \(3,\)",
    ),
}  # fmt: skip

OF_RUN = {
    "a computation": ({"private_program": gradient}, "private_program as a private program"),
    "a query": ({"private_program": query}, "private_program as a private program, got a Query"),
    "a mapping of args": ({"args": {"model": 0, "x": DATA}}, "args as a tuple"),
    "an argument too few": ({"args": (DATA,)}, r"expected 2 arguments \(model, x\), got 1"),
    "no certificate": ({"certificate": None}, "Expected a certificate of .* audits.certify"),
    "text as certificate": ({"certificate": "{}"}, "Expected a certificate of .* got str"),
    "a report as certificate": (
        {"certificate": lambda: audits.check(gradient, [audits.Arg("model", (2,), "float32", "server"),
                                                        audits.Arg("x", (2,), "float32", "clients")])},
        "Expected a certificate of",
    ),
    "a path as ledger": ({"ledger": "ledger.db"}, "ledger as an open ledger"),
    "members as cohort": ({"cohort": np.arange(8)}, "cohort as a cohort, got a ndarray.*draw"),
    "a sampling as cohort": ({"cohort": EVERYONE}, "cohort as a cohort, got a FullParticipation"),
    "a cohort of other members": (
        {"args": (np.zeros(2, np.float32), DATA[:5])},
        "for the 8 members of the cohort, got 5",
    ),
    "a float as round": ({"round": 1.0}, "round as an int of at least 0"),
    "no run_id": ({"run_id": None}, "run_id as a name, got None"),
    "a path as journal": ({"journal": "releases"}, "journal as a journal of releases.*ReleaseJournal"),
    "another fidelity": ({"fidelity": True}, "fidelity as 'protocol' or 'ideal'"),
    "one rule as text": ({"acknowledge": "FAD306"}, "acknowledge as a collection of strings, got the str"),
    "a file as trusted_key": ({"trusted_key": "ci.pub"}, "trusted_key as the bytes of a public key"),
}  # fmt: skip


def gaussian(**wrong):
    return privacy.Gaussian(**{"noise_multiplier": 1.0, "clip_norm": 1.0} | wrong)


def descent(**wrong):
    arguments = {
        "hyper": HYPER,
        "optimizer": optimizers.fedavg,
        "local": local.sgd(0.1),
        "hyper_optimizer": optax.sgd(0.1),
    } | wrong
    one = arguments.pop("one_client", BATCHES)
    return privacy.hypergradient_descent(arguments.pop("loss", loss), MODEL, one, **arguments)


def fedopt(**wrong):
    arguments = {"optimizer": optax.sgd(1.0), "local": local.sgd(0.1)} | wrong
    one = arguments.pop("one_client", BATCHES)
    return privacy.fedopt(arguments.pop("loss", loss), MODEL, one, **arguments)


def queries(**wrong):
    arguments = {"mechanisms": {"training": MECHANISM}, "certify": audits.certify} | wrong
    return fedopt().queries(arguments.pop("mechanisms"), arguments.pop("certify"), **arguments)


def create(tmp_path, **wrong):
    arguments = {"budget": BUDGET, "population": 8, "path": tmp_path / "new.db"} | wrong
    return privacy.Ledger.create(arguments.pop("path"), arguments.pop("budget"), **arguments)


def reserve(ledger, **wrong):
    release = privacy.Release("d", 1.0, 1.0, 1.0)
    arguments = {"purpose": "training", "sampling_rate": 1.0, "releases": [release]}
    ledger.reserve(run_id="r", round=0, cohort_id="c", **arguments | wrong)


ELSEWHERE = {
    "clip_norm of nothing": (lambda: gaussian(clip_norm=None), "clip_norm as a positive finite number"),
    "clip_norm of a list": (lambda: gaussian(clip_norm=[1.0]), "clip_norm as a positive finite number"),
    "a text as noise": (lambda: gaussian(noise_multiplier="1"), "noise_multiplier as a positive"),
    "a text as joint": (lambda: gaussian(joint="no"), "joint as a bool, got the str 'no'"),
    "a float as grid": (lambda: gaussian(grid=1e4), "grid as an int from 2.*8 to 2.*24"),
    "shares of a list": (lambda: split_noise(1.0, ["a"]), "shares as a mapping from sum names"),
    "a rate of text": (lambda: privacy.PoissonSampling(8, "half"), r"rate as a number from 2\^-53 to 1"),
    "a size of a float": (lambda: privacy.FixedSampling(8, 4.0), "size as an int of at least 1"),
    "a size above all": (lambda: privacy.FixedSampling(8, 9), "size of at most the population of 8"),
    "a population of text": (lambda: privacy.FullParticipation("all"), "population as an int"),
    "a cohort of names": (lambda: privacy.Cohort("a", ["x"], EVERYONE), "members as indices"),
    "a cohort of no sampling": (lambda: privacy.Cohort("a", np.arange(3), 0.5), "sampling as a way"),
    "an adaptive clip of 0": (lambda: AdaptiveClip(0.0), "initial as a number from 1e-08"),
    "an adaptive quantile of 5": (lambda: AdaptiveClip(1.0, quantile=5), "quantile as a number from 0 to 1"),
    "privatize a function": (lambda: privacy.privatize(loss, SPEC, mechanism=MECHANISM), "a Computation"),
    "privatize without specs": (lambda: privacy.privatize(gradient, mechanism=MECHANISM), "missing: 'model'"),
    "privatize with a number": (
        lambda: privacy.privatize(gradient, SPEC, SPEC, mechanism=1.0), "a mechanism of this package",
    ),
    "privatize for no purpose": (
        lambda: privacy.privatize(gradient, SPEC, SPEC, mechanism=MECHANISM, purpose="test"),
        "purpose as",
    ),
    "a query of a computation": (lambda: privacy.Query(gradient, None), "program as a private program"),
    "a query without certificate": (
        lambda: privacy.Query(query().program, None),
        "certificate as a certificate",
    ),
    "a query with a rule as text": (
        lambda: privacy.Query(query().program, query().certificate, "FAD306"), "acknowledge as a collection",
    ),
    "a slot of a rate": (lambda: query().slot(0.5, 3), "sampling as a way to draw cohorts"),
    "a slot of a float": (lambda: query().slot(EVERYONE, 3.0), "a slot's count to be an integer"),
    "hyper without server": (
        lambda: descent(hyper={"client": {}}),
        "hyper as a mapping with server and client",
    ),
    "hyper of rates": (lambda: descent(hyper={"learning_rate": 1.0}), r"names \(learning_rate\)"),
    "hyper of text": (
        lambda: descent(hyper={"server": {"learning_rate": "a"}, "client": {}}),
        "arrays of numbers",
    ),
    "an optimizer for its function": (
        lambda: descent(optimizer=optax.sgd(1.0)), r"optimizer as a function.*hyper\['server'\]",
    ),
    "an optimizer that misses a number": (
        lambda: descent(optimizer=optimizers.fedavgm), r"names \(learning_rate\).*KeyError: 'momentum'",
    ),
    "an optimizer that makes none": (
        lambda: descent(optimizer=lambda h: 0.1),
        "`optimizer` returns as an Optax",
    ),
    "a rate as hyper_optimizer": (
        lambda: descent(hyper_optimizer=0.1),
        "hyper_optimizer as an Optax optimizer",
    ),
    "a rate that is not there": (lambda: descent(local=local.sgd()), "KeyError: 'learning_rate'"),
    "a projection of a part": (
        lambda: descent(project=lambda h: h["server"]),
        "project to return what looks like",
    ),
    "a judge of a vector": (lambda: descent(judge=lambda m, b: m["w"]), "judge to return one floating-point"),
    "a weight of a number": (lambda: descent(weight=1.0), "weight as a function"),
    "a weight of a vector": (
        lambda: descent(weight=lambda h, b: b["x"]),
        "weight to return one floating-point",
    ),
    "another form": (lambda: descent(form="both"), "form as"),
    "a stack as one client": (
        lambda: descent(one_client=STACKED, loss=lambda m, b: jnp.einsum("bf,f->", b["x"], m["w"])),
        "without the axis of clients",
    ),
    "a function as optimizer": (
        lambda: fedopt(optimizer=optimizers.fedavg),
        "optimizer as an Optax optimizer",
    ),
    "local not called": (lambda: fedopt(local=local.sgd), "loss and local to work on what it is given"),
    "a rate as local": (lambda: fedopt(local=0.1), "local as a function, got the float 0.1"),
    "a loss of a vector": (
        lambda: fedopt(loss=lambda m, b: m["w"]),
        "Gradient only defined for scalar-output",
    ),
    "no loss": (lambda: fedopt(loss=None), "loss as a function, got None"),
    "text as one client": (lambda: fedopt(one_client={"x": "data"}), "arrays of numbers, got a str"),
    "a number as adaptive": (lambda: fedopt(adaptive=1.0), "adaptive as an adaptive clip"),
    "scaffold without rate": (
        lambda: privacy.scaffold(loss, MODEL, BATCHES, learning_rate=None, optimizer=optax.sgd(1.0)),
        "learning_rate as a positive finite number, got None",
    ),
    "one mechanism for all": (lambda: queries(mechanisms=MECHANISM), "mechanisms as a mapping.*'training'"),
    "a class as mechanism": (
        lambda: queries(mechanisms={"training": privacy.Gaussian}), "the class Gaussian itself",
    ),
    "a mechanism too many": (
        lambda: queries(mechanisms={"training": MECHANISM, "loss": MECHANISM}), "one mechanism for each of",
    ),
    "a certificate as certify": (lambda: queries(certify=query().certificate), "certify as a function"),
    "certify that gives none": (
        lambda: queries(certify=lambda p: None),
        "`certify` returns as a certificate, got None",
    ),
    "a budget of a pair": (
        lambda: noise_multiplier_for((8.0, 1e-5), sampling_rate=1.0, rounds=3),
        "budget as a budget, got a tuple",
    ),
    "a budget of a number": (
        lambda: rounds_for(8.0, sampling_rate=1.0, noise_multiplier=1.0), "budget as a budget, got the float",
    ),
    "a mechanism as event": (lambda: privacy.epsilon(MECHANISM, 1e-5), "an event as a JSON object"),
    "a path for spending": (lambda: spending("ledger.db"), "ledger as an open ledger"),
    "a path for a quote": (lambda: planning.quote_on("ledger.db", []), "ledger as an open ledger"),
    "slots for draws": (lambda: planning.quote([SLOT], BUDGET, relation=ONE), "schedule as a Draws"),
    "a number for a filter": (lambda: planning.filter_for([], 8.0, relation=ONE), "budget as a budget"),
    "a path to export": (lambda: ledger_export.export_ledger("a.db", "b"), "ledger as an open ledger"),
    "nothing to import": (lambda: ledger_export.import_ledger(None, "b.db"), "source as a path, got None"),
    "a key of nothing": (lambda: keys.read_public_key(None), "path as a path, got None"),
    "traffic of a query": (lambda: public_traffic(query(), 8), "private_program as a private program"),
    "no journal folder": (lambda: privacy.ReleaseJournal(None), "path as a path, got None"),
    "a journal in a file": (lambda: privacy.ReleaseJournal(__file__), "a folder that can be made"),
    "a certificate of a number": (lambda: privacy.Certificate.from_json(3), "a JSON object"),
    "an open path of a number": (lambda: privacy.Ledger.open(3), "path as a path, got the int 3"),
}  # fmt: skip

OF_LEDGER = {
    "a pair as budget": ({"budget": (8.0, 1e-5)}, "budget as a budget, got a tuple"),
    "a float as population": ({"population": 8.0}, "population to be an integer"),
    "numbers as purposes": ({"purposes": {"training": 1.0}}, r"purposes\['training'\] as a Budget"),
    "a list as purposes": ({"purposes": ["training"]}, "purposes as a mapping"),
    "one slot": ({"slots": SLOT}, "slots as a sequence of Slots, got a Slot"),
    "pairs as slots": ({"slots": [(1.0, 3)]}, "each of slots as a Slot, got a tuple"),
    "a filter as unplanned": ({"unplanned": "rdp@8"}, "unplanned as a mapping from purposes"),
    "an accountant": ({"accountant": "renyi"}, "a filter 'rdp@ORDER'"),
    "no path": ({"path": None}, "path as a path, got None"),
    "no folder": ({"path": "/nowhere/at/all.db"}, "/nowhere/at"),
}

OF_AN_OPEN_LEDGER = {
    "declare one slot": (lambda led: led.declare(SLOT), "slots as a sequence of Slots"),
    "plan one slot": (lambda led: led.plan(SLOT), "slots as a sequence of Slots"),
    "reserve one release": (
        lambda led: reserve(led, releases=privacy.Release("d", 1.0, 1.0, 1.0)), "releases as a sequence",
    ),
    "reserve names": (lambda led: reserve(led, releases=["d"]), "each of releases as a Release"),
    "reserve at a word": (lambda led: reserve(led, sampling_rate="all"), "sampling rate q to be a number"),
    "find a number": (lambda led: led.find(3), "a run_id as a string"),
    "find a word": (lambda led: led.find("run", "one"), "round as an int"),
    "spent in a view": (lambda led: led.spent("all"), "view 'released' or 'server'"),
    "remaining of none": (lambda led: led.remaining("tests"), "a purpose among"),
}  # fmt: skip


def refused(call, expected):
    with pytest.raises((privacy.PrivacyError, fad.errors.SecfadError)) as caught:
        call()
    text = str(caught.value)
    assert re.search(expected, text, re.DOTALL), text
    assert re.search("[Ee]xpected", text), text
    assert "got" in text or "reads" in text, text


def evaluated(wrong):
    """Values that need JAX are made when they are needed."""
    late = ("queries", "sampling", "state", "private_program", "certificate")
    return {k: v() if k in late and callable(v) and not isinstance(v, type | fad.Computation) else v
            for k, v in wrong.items()}  # fmt: skip


def nothing_happened(tmp_path, ledger, head):
    assert ledger.head == head
    assert [f for f in tmp_path.rglob("*") if f.is_file() and f.name != "ledger.db"] == []


@pytest.mark.parametrize("mistake", OF_TRAIN)
def test_mistakes_with_train(tmp_path, ledger, mistake):
    wrong, expected = OF_TRAIN[mistake]
    head, given = ledger.head, {"ledger": ledger} | evaluated(wrong)
    refused(lambda: train(tmp_path, **given), expected)
    assert ledger.head == head
    files = {f.name for f in tmp_path.rglob("*") if f.is_file()} - {"ledger.db"}
    # What is only seen in a round is seen after the line of the state before it was written.
    assert files <= {"metrics.jsonl"}


@pytest.mark.parametrize("mistake", OF_RUN)
def test_mistakes_with_run(tmp_path, ledger, mistake):
    wrong, expected = OF_RUN[mistake]
    head, given = ledger.head, {"ledger": ledger} | evaluated(wrong)
    refused(lambda: run(**given), expected)
    nothing_happened(tmp_path, ledger, head)


@pytest.mark.parametrize("mistake", OF_LEDGER)
def test_mistakes_with_a_new_ledger(tmp_path, mistake):
    wrong, expected = OF_LEDGER[mistake]
    refused(lambda: create(tmp_path, **wrong), expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mistake", OF_AN_OPEN_LEDGER)
def test_mistakes_with_an_open_ledger(tmp_path, ledger, mistake):
    call, expected = OF_AN_OPEN_LEDGER[mistake]
    head = ledger.head
    refused(lambda: call(ledger), expected)
    nothing_happened(tmp_path, ledger, head)


@pytest.mark.parametrize("mistake", ELSEWHERE)
def test_mistakes_elsewhere(mistake):
    refused(*ELSEWHERE[mistake])


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (None, "Expected `update` to return a state like the one it was given.*got None"),
        ({"w": np.zeros(2)}, r"got a dict with the names \(w\)"),
        (np.zeros(3), r"got shapes \[\(3,\)\]"),
        ("done", "Expected `update` to return a state of arrays"),
    ],
)
def test_an_update_that_returns_another_state_loses_nothing(tmp_path, ledger, returned, expected):
    def forgetful(state, ask):
        ask("step", state)
        return returned

    with pytest.raises(privacy.PrivacyError, match=expected):
        train(tmp_path, ledger, update=forgetful)
    trained = train(tmp_path, ledger)
    assert trained.metrics[1]["releases"]["step"]["replayed"]
    assert [r.state for r in ledger.find("run/step")] == ["committed"]


def test_numbers_of_numpy_are_numbers():
    made = gaussian(noise_multiplier=np.float32(1.5), clip_norm={"*": np.int64(2)})
    assert (made.noise_multiplier, made.clip_norm_of("a")) == (1.5, 2.0)
    whole = descent(hyper={"server": {"learning_rate": 1}, "client": {}})
    assert whole.state.hyper["server"]["learning_rate"].dtype == np.float32
