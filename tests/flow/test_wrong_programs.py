"""Forty programs of beginners, each with one mistake: the error says what was expected and what to do."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import audits
import privacy
import secfad as fad
from secfad.algorithms import fedopt, local

W, X = jnp.zeros(3), jnp.ones((5, 3))
ONE = jax.ShapeDtypeStruct((3,), "float32")
NOISE = privacy.Gaussian(noise_multiplier=4.0, clip_norm=2.0)
BUDGET = privacy.Budget(epsilon=5.0, delta=1e-5)
EVERYONE = privacy.FullParticipation(population=5)
PLACED = {"w": fad.SERVER, "x": fad.CLIENTS}


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def loss(w, x):
    return fad.mean(jnp.sum((fad.broadcast(w) - x) ** 2), name="loss")


@fad.computation(w=fad.SERVER, x=fad.CLIENTS)
def step(w, x):
    return w - fad.mean(fad.broadcast(w) - x, name="delta")


def plain(w, x):
    return jnp.sum(w * x)


def of(fun):
    """What is printed when a function is the computation."""
    return fad.simulate(fad.computation(w=fad.SERVER, x=fad.CLIENTS)(fun))(W, X)


def private(**options):
    return privacy.privatize(step, ONE, ONE, **{"mechanism": NOISE, **options})


def descent(**options):
    chosen = {
        "hyper": {"server": {"learning_rate": 0.5, "momentum": 0.1}, "client": {}},
        "optimizer": fedopt.fedavgm,
        "local": local.sgd(0.1),
        "hyper_optimizer": optax.sgd(0.01),
    }
    error = lambda w, batch: jnp.sum((w - batch["x"]) ** 2)
    batch = {"x": jax.ShapeDtypeStruct((2, 3), "float32")}
    return privacy.hypergradient_descent(error, W, batch, **{**chosen, **options})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder, a private program, its certificate and an open ledger."""
    folder = tmp_path_factory.mktemp("wrong")
    program = private()
    certificate = audits.certify(program)
    slots = [privacy.Query(program, certificate).slot(EVERYONE, 5)]
    with privacy.Ledger.create(folder / "l.db", BUDGET, population=5, slots=slots) as ledger:
        yield {"folder": folder, "program": program, "certificate": certificate, "ledger": ledger}


def run(made, program=None, args=(W, X), **options):
    chosen = {key: made[key] for key in ("certificate", "ledger")}
    chosen |= {"cohort": EVERYONE.draw(), "run_id": "r", "round": 0, **options}
    return privacy.run(made["program"] if program is None else program, args, **chosen)


def train(made, **options):
    query = privacy.Query(made["program"], made["certificate"])
    chosen = {
        "queries": {"step": query},
        "clients": lambda members: {"x": X[members]},
        "sampling": EVERYONE,
        "ledger": made["ledger"],
        "rounds": 1,
        "run_id": "t",
        "folder": made["folder"] / "run",
    }
    return privacy.train(lambda state, ask: state, W, **{**chosen, **options})


COMPUTATIONS = {
    "a placement in quotes": (
        lambda: fad.computation(w="server", x="clients")(plain),
        "Expected SERVER or CLIENTS for `w`, got 'server'. Write",
    ),
    "placements by position": (
        lambda: fad.computation(fad.SERVER, fad.CLIENTS)(plain),
        "placement for each parameter.* Write @secfad.computation",
    ),
    "no placements": (lambda: fad.computation(plain), "placement for each parameter.* Write"),
    "a wrong parameter": (
        lambda: fad.computation(w=fad.SERVER, y=fad.CLIENTS)(plain),
        r"parameters \(w, x\), got placements for \(w, y\). Give",
    ),
    "simulate a function": (
        lambda: fad.simulate(plain),
        "Expected a Computation, got function. De",
    ),
    "differentiate a function": (lambda: fad.grad(plain), "Expected a Computation, got function"),
    "certify a function": (lambda: audits.certify(plain, ONE, ONE), "got a function. Decorate"),
    "certify nothing": (lambda: audits.certify(None), "got a NoneType. Decorate"),
    "assert on a function": (lambda: audits.assert_certified(plain, ONE, ONE), "Decorate the"),
    "measure a function": (lambda: privacy.typical_norms(plain, (W, X)), "the function plain. Dec"),
    "simulate a program": (
        lambda: fad.simulate(fad.trace(loss, ONE, ONE)),
        "Expected a Computation, got Program",
    ),
    "execute a computation": (lambda: fad.execute(loss, W, X), "Trace the computation first"),
    "differentiate what simulates": (lambda: fad.grad(fad.simulate(loss)), "got function"),
    "call a computation": (lambda: loss(W, X), r"Run it with secfad.simulate\(loss\)"),
    "call a derivative": (
        lambda: fad.grad(loss)(W, X),
        r"Run it with secfad.simulate\(loss.grad\)",
    ),
    "differentiate with JAX": (lambda: jax.grad(loss)(W, X), "not with jax.grad"),
    "too few arguments": (lambda: fad.simulate(loss)(W), "missing: 'x'. Pass each argument once"),
    "too many arguments": (lambda: fad.simulate(loss)(W, X, X), "got 3 by position"),
    "an unknown argument": (lambda: fad.simulate(loss)(W, y=X), "unknown: 'y'"),
    "too few shapes": (lambda: fad.trace(loss, ONE), "missing: 'x'"),
    "client data that are not stacked": (
        lambda: fad.simulate(fad.grad(loss))(W, 1.0),
        r"leading axis of clients in argument `x`, got a scalar. Stack",
    ),
    "data of different clients": (
        lambda: fad.simulate(loss)(W, [np.ones(3), np.ones(4)]),
        r"`x` has 3 and 4. Give every client",
    ),
    "shapes where arrays are due": (
        lambda: fad.simulate(loss)(ONE, X),
        r"Expected arrays in argument `w`, got the shape float32\[3\] alone.* pass data",
    ),
    "shapes that are run": (
        lambda: fad.execute(fad.trace(loss, ONE, ONE), W, ONE),
        r"Expected arrays in argument `x`, got the shape float32\[3\] alone",
    ),
    "a shape without a dtype": (
        lambda: fad.trace(loss, (3,), (3,)),
        r"test_wrong_programs.py:\d+.*`w` is a tuple of Python numbers.* jax.ShapeDtypeStruct",
    ),
    "nothing for an array": (lambda: fad.trace(loss, None, ONE), "Give `w` an array"),
    "text for an array": (lambda: fad.trace(loss, "w", ONE), "got a str. Text and objects"),
    "argnums beyond the arguments": (
        lambda: fad.simulate(fad.grad(loss, 5))(W, X),
        "0: `w`, 1: `x`",
    ),
    "argnums by name": (lambda: fad.simulate(fad.grad(loss, "w"))(W, X), "got 'w'. Pass one pos"),
    "a derivative by integers": (
        lambda: fad.simulate(fad.grad(loss))(jnp.zeros(3, int), X),
        r"in `w`, got int32. Convert",
    ),
    "a gradient of a vector": (lambda: fad.simulate(fad.grad(step))(W, X), "Use secfad.jacobian"),
    "an unknown mode": (lambda: fad.grad(loss, mode="backward"), "got 'backward'"),
    "an unknown mode of a plan": (
        lambda: fad.plan(loss, ONE, ONE)["backward"],
        "modes mixed, .* got 'backward'",
    ),
    "a cost in words": (lambda: fad.plan(loss, ONE, ONE, cost="bytes"), "cost=secfad.CostModel"),
    "chunks in quotes": (lambda: fad.simulate(loss, chunk_size="2"), "Write simulate"),
}
CLIENT_CODE = {
    "shapes that do not fit": (
        lambda w, x: fad.mean(x @ jnp.ones(4)),
        r"dot_general .*\(3,\) and \(4,\) in `.*x: float32\[3\]\). Give",
    ),
    "a missing key": (lambda w, x: fad.mean({"a": x}["b"]), "there is no entry 'b' in `"),
    "a call of an array": (lambda w, x: fad.mean(w(x)), "not callable in `.*. Give"),
    "no broadcast": (lambda w, x: fad.mean(w - x), "Wrap the server value in `broadcast`"),
    "a mean of the server's": (lambda w, x: fad.mean(w), "expected a client value"),
    "a name that is a number": (lambda w, x: fad.mean(x, name=3), "Write name='model'"),
    "a mean of a function": (lambda w, x: fad.mean(plain), "got a function in it"),
    "a decision on data": (lambda w, x: fad.mean(x if x[0] > 0 else -x), "jax.lax.cond"),
    "a number of data": (lambda w, x: fad.mean(float(x[0])), "Leave the value an array"),
    "NumPy on data": (lambda w, x: fad.mean(np.sum(np.asarray(x))), "Use jax.numpy"),
    "a clip norm in quotes": (lambda w, x: fad.mean(fad.clip(x, "1")), r"got a str. Write clip"),
    "a clip of integers": (
        lambda w, x: fad.clip(fad.sum(x).astype(int), 1.0),
        r"Convert with .ast",
    ),
}
PRIVATE = {
    "a mechanism's class": (
        lambda made: private(mechanism=privacy.Gaussian),
        r"Pass privacy.Gaussian\(noise_multiplier",
    ),
    "a number for a mechanism": (lambda made: private(mechanism=1.0), "Pass privacy.Gaussian"),
    "noise in quotes": (
        lambda made: privacy.Gaussian(noise_multiplier="4", clip_norm=2.0),
        "positive finite number, got the str '4'. Pass",
    ),
    "a sum that does not exist": (
        lambda made: private(
            mechanism=privacy.Gaussian(noise_multiplier=4.0, clip_norm={"grad": 1.0})
        ),
        r"sum 'delta', got ones for \['grad'\]. Add 'delta'",
    ),
    "an unknown purpose": (
        lambda made: private(purpose="fun"),
        "Expected purpose as .*evaluation.*, got the str .fun.",
    ),
    "run what is not private": (lambda made: run(made, step), "Call privacy.privatize"),
    "run what is simulated": (lambda made: run(made, fad.simulate(step)), "Call privacy.privatize"),
    "run without a certificate": (lambda made: run(made, certificate=None), "Call audits.certify"),
    "run with a certificate's path": (
        lambda made: run(made, certificate="certificate.json"),
        "got str. Call audits.certify",
    ),
    "run with a ledger's path": (
        lambda made: run(made, ledger="ledger.db"),
        r"got the str 'ledger.db'. Call privacy.Ledger.open\(path\)",
    ),
    "run with the class of ledgers": (
        lambda made: run(made, ledger=privacy.Ledger),
        "Call privacy.L",
    ),
    "run on named arguments": (
        lambda made: run(made, args={"w": W, "x": X}),
        "in order, as a tuple",
    ),
    "run on shapes": (lambda made: run(made, args=(ONE, X)), "got the shape float32"),
    "run with a sampling": (
        lambda made: run(made, cohort=EVERYONE),
        r"Draw one: sampling.draw\(\)",
    ),
    "a ledger made by its class": (
        lambda made: privacy.Ledger("ledger.db"),
        r"the str 'ledger.db'. Call privacy.Ledger.open\(path\)",
    ),
    "a ledger that is not there": (lambda made: privacy.Ledger.open("no.db"), "Make one with"),
    "a budget that is a number": (
        lambda made: privacy.Ledger.create(made["folder"] / "n.db", 5.0, population=5),
        r"Pass privacy.Budget\(epsilon, delta\)",
    ),
    "one slot": (
        lambda made: privacy.Ledger.create(
            made["folder"] / "n.db",
            BUDGET,
            population=5,
            slots=privacy.Slot("training", 1.0, 4.0, 5),
        ),
        r"got a Slot. Pass \[privacy.Slot",
    ),
    "train without a query": (
        lambda made: train(made, queries={"step": made["program"]}),
        r"Call privacy.Query\(program, audits.certify\(program\)\)",
    ),
    "train on data": (lambda made: train(made, clients={"x": X}), "clients as a function.*`lambda"),
    "train with a ledger's path": (
        lambda made: train(made, ledger="l.db"),
        "Call privacy.Ledger.open",
    ),
    "an Optax optimizer for a function": (
        lambda made: descent(optimizer=optax.sgd(0.1)),
        "optimizer as a function.* Pass a function of hyper",
    ),
    "a function for an Optax optimizer": (
        lambda made: descent(hyper_optimizer=optax.sgd),
        "as an Optax optimizer, got the function sgd. Pass",
    ),
    "local work without its options": (
        lambda made: descent(local=local.sgd),
        "Expected loss and local",
    ),
    "a hyperparameter that does not exist": (
        lambda made: descent(hyper={"server": {"lr": 0.5}, "client": {}}),
        r"KeyError: 'learning_rate'. Give hyper\['server'\]",
    ),
    "a key's path": (
        lambda made: audits.sign(made["certificate"], "ci.pem"),
        "Call .*read_signing_key",
    ),
    "a program that is signed": (
        lambda made: audits.sign(made["program"], "k"),
        "Call audits.certify",
    ),
    "verify for a computation": (
        lambda made: audits.verify(made["certificate"], step),
        r"got a Certificate and the function step. Call audits.verify\(certificate, private.prog",
    ),
    "verify in another order": (
        lambda made: audits.verify(made["program"].program, made["certificate"]),
        "got a Program and a Certificate. Call audits.verify",
    ),
    "verify a path": (
        lambda made: audits.verify("certificate.json", made["program"].program),
        "got the str 'certificate.json' .*privacy.Certificate.from_json",
    ),
    "verify for a private program": (
        lambda made: audits.verify(made["certificate"], made["program"]),
        r"a PrivateProgram. Call audits.verify\(certificate, private.program\)",
    ),
    "check on a shape": (
        lambda made: audits.check(loss, ONE),
        r"Write audits.check\(fn, \[audits.Arg",
    ),
    "check on shapes": (lambda made: audits.check(loss, [ONE, ONE]), "Write audits.Arg.tree"),
    "modes that are one word": (
        lambda made: audits.certify(loss, ONE, ONE, modes="forward"),
        r"got \['forward'\]. Write for example modes=",
    ),
    "a certificate's path read as text": (
        lambda made: privacy.Certificate.from_json("certificate.json"),
        "Expected a JSON object in a certificate",
    ),
}
OURS = ("secfad.", "privacy.", "audits.", "secagg.")


def said(program, *args):
    """What the program raises; it is ours, one sentence and its remedy, and no traceback's last line."""
    with pytest.raises(Exception) as caught:
        program(*args)
    error = caught.value
    assert type(error).__module__.startswith(OURS) or type(error) is ValueError, repr(error)
    assert "has no attribute" not in str(error)
    return str(error)


@pytest.mark.parametrize("case", COMPUTATIONS)
def test_a_wrong_use_of_computations_is_explained(case):
    program, words = COMPUTATIONS[case]
    assert re.search(words, said(program), re.DOTALL)


@pytest.mark.parametrize("case", CLIENT_CODE)
def test_wrong_client_code_is_explained_at_its_line(case):
    fun, words = CLIENT_CODE[case]
    message = said(of, fun)
    assert re.search(words, message)
    assert re.match(rf".*test_wrong_programs\.py:{fun.__code__.co_firstlineno}:\d+ \(", message)


@pytest.mark.parametrize("case", PRIVATE)
def test_a_wrong_use_of_privacy_is_explained(case, made):
    program, words = PRIVATE[case]
    message = said(program, made)
    assert re.search(words, message)


def test_nothing_was_charged(made):
    assert not list(made["ledger"].find("r"))
    assert max(made["ledger"].spent().values()) == 0.0
