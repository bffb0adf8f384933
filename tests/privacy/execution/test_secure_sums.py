"""What secure sums of private runs assume is what their graph is sized for, and what is reported.

Fixed seeds where a test draws corrupt clients, drop-outs or faults; keys, masks and noise come from the
operating system.
"""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import audits
import privacy
import secagg
import secfad as fad
from audits.quickstart.configuration import parse, text_of
from audits.quickstart.errors import ConfigurationError
from privacy.errors import MechanismError, RunRefused
from privacy.execution.aggregation import SecureAggregator
from privacy.execution.secure_sums import RING_FROM, STANDARD, SecureSums
from privacy.training import training
from secagg.protocol.graph import Graph
from secagg.simulation import faults as scripted
from secfad.engines.local import Upload

LENGTH = 3
CLIP = 1.5
SPEC = jax.ShapeDtypeStruct((LENGTH,), jnp.float32)
CENTRAL = privacy.Gaussian(noise_multiplier=2.0, clip_norm=CLIP)
BY_CLIENTS = privacy.Gaussian(noise_multiplier=2.0, clip_norm=CLIP, noise="distributed")
MECHANISMS = {
    "server": CENTRAL,
    "clients": BY_CLIENTS,
    "clients, three fifths": privacy.Gaussian(
        noise_multiplier=2.0, clip_norm=CLIP, noise="distributed", honest_survivors=0.6
    ),
    "Skellam": privacy.Skellam(noise_multiplier=2.0, clip_norm=CLIP),
}
SEMI_HONEST_RING = {"graph": "ring", "dropout": 0.2}
ACTIVE = {"adversary": "active"}


@fad.computation(x=fad.CLIENTS)
def total(x):
    return fad.sum(x, name="total")


@pytest.fixture(scope="module")
def programs():
    made = {m: privacy.privatize(total, SPEC, mechanism=m) for m in (CENTRAL, BY_CLIENTS)}
    return {mechanism: (made[mechanism], audits.certify(made[mechanism])) for mechanism in made}


@pytest.fixture
def start(programs, tmp_path):
    """Starts a private run of `clients` clients who all send 0.1 in every entry."""
    ledgers = []

    def go(clients, mechanism=CENTRAL, **arguments):
        private, certificate = programs[mechanism]
        ledger = privacy.Ledger.create(
            tmp_path / f"{len(ledgers)}.db",
            privacy.Budget(90.0, 1e-5),
            population=clients,
            slots=[privacy.Slot("training", 1.0, 1.9, 4)],
        )
        ledgers.append(ledger)
        cohort = privacy.FullParticipation(population=clients).draw()
        data = jnp.full((clients, LENGTH), 0.1)
        settings = {"certificate": certificate, "ledger": ledger, "cohort": cohort}
        return privacy.run(private, [data], **settings, run_id="run", round=0, **arguments)

    go.ledgers = ledgers
    yield go
    for ledger in ledgers:
        ledger.verify()
        ledger.close()


def states(start):
    return [reservation.state for reservation in start.ledgers[-1].find("run")]


def parameters(clients, mechanism, **assumptions):
    sums = SecureSums(**assumptions)
    return sums.parameters(mechanism, clients=clients, length=LENGTH, modulus_bits=32)


# What is sized.


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("clients", [30, 77, 99, 100, 101, 250, 1000])
def test_as_many_may_drop_out_as_the_price_of_the_noise_allows(name, clients):
    mechanism = MECHANISMS[name]
    chosen = parameters(clients, mechanism)
    charged = mechanism.guaranteed_survivors(clients) if mechanism.by_clients else 3
    assert chosen.quorum >= charged
    assert chosen.graph == ("ring" if clients >= RING_FROM else "complete")
    if chosen.graph == "complete":
        assert chosen.quorum == max(charged, clients // 2 + 1)
        return
    stated = clients - int(0.05 * clients)
    assert chosen.quorum == (min(charged, stated) if mechanism.by_clients else stated)
    missing = clients - chosen.quorum
    others = secagg.protocol.sizing.hypergeometric(
        clients - 1, clients - 1 - missing, chosen.neighbours
    )
    assert clients * others[: chosen.threshold].sum() <= 2.0**-20


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("clients", [100, 317, 1000])
def test_colluders_are_too_few_also_of_the_ring_that_is_left_when_others_are_missing(name, clients):
    """n · Pr[t corrupt neighbours] among the least members that a round can have."""
    chosen = parameters(clients, MECHANISMS[name])
    corrupt = int(0.05 * clients)
    for members in (clients, chosen.quorum):
        captors = secagg.protocol.sizing.hypergeometric(members - 1, corrupt, chosen.neighbours)
        assert members * captors[chosen.threshold :].sum() <= 2.0**-41


@pytest.mark.parametrize("clients", [100, 400])
def test_every_honest_client_keeps_an_unknown_mask_and_all_of_them_are_connected(clients):
    """Random colluders and drop-outs of the stated numbers on random rings.

    Colluders know their own pair masks; those of an honest pair are what hides both. So no set of
    honest survivors may be without a pair to the others. Fails by chance with 2**-40 per ring.
    """
    chosen = parameters(clients, CENTRAL)
    rng = np.random.default_rng(clients)
    worst = 0
    for _ in range(60):
        graph = Graph.derived(range(clients), chosen, rng.bytes(32))
        order = rng.permutation(clients)
        corrupt = set(order[: clients // 20].tolist())
        gone = set(order[-(clients // 20) :].tolist())
        honest = set(range(clients)) - corrupt - gone
        captors = [len(corrupt & set(graph.neighbours(member))) for member in honest]
        worst = max(worst, *captors)
        assert connected(graph, honest)
    assert worst < chosen.threshold


def test_far_more_colluders_than_stated_do_cut_the_ring_apart():
    """The test above can fail."""
    clients = 400
    chosen = parameters(clients, CENTRAL)
    rng = np.random.default_rng(0)
    graph = Graph.derived(range(clients), chosen, rng.bytes(32))
    honest = set(rng.permutation(clients)[: clients // 20].tolist())
    assert not connected(graph, honest)
    captors = [len(set(graph.neighbours(member)) - honest) for member in honest]
    assert max(captors) >= chosen.threshold


def connected(graph, members):
    reached, waiting = set(), [min(members)]
    while waiting:
        member = waiting.pop()
        if member not in reached:
            reached.add(member)
            waiting += members & set(graph.neighbours(member))
    return reached == members


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"graph": "star"}, "Expected graph as"),
        ({"adversary": "curious"}, "Expected adversary as"),
        ({"corrupt": 1.0}, "Expected corrupt as a fraction"),
        ({"dropout": -0.1}, "Expected dropout as a fraction"),
        ({"dropout": float("nan")}, "Expected dropout as a fraction"),
        ({"corrupt": True}, "Expected corrupt as a fraction"),
        ({"graph": "ring", "adversary": "active"}, "knows the ring before it says who dropped out"),
    ],
)
@pytest.mark.parametrize("fidelity", ["ideal", "protocol"])
def test_assumptions_that_are_not_analysed_are_refused_before_anything_is_charged(
    start, arguments, match, fidelity
):
    with pytest.raises(MechanismError, match=match):
        start(30, fidelity=fidelity, **arguments)
    assert states(start) == []


@pytest.mark.parametrize("fidelity", ["ideal", "protocol"])
def test_a_cohort_that_no_ring_fits_is_refused_before_anything_is_charged(start, fidelity):
    with pytest.raises(RunRefused, match='Use graph="complete"'):
        start(5, graph="ring", corrupt=0.4, fidelity=fidelity)
    assert states(start) == []


def test_the_automatic_graph_is_complete_where_no_ring_meets_the_assumptions():
    assert parameters(200, CENTRAL, corrupt=0.45, dropout=0.45).graph == "complete"
    assert parameters(500, CENTRAL, adversary="active").graph == "complete"


# What is released.


@pytest.mark.parametrize("mechanism", [CENTRAL, BY_CLIENTS])
@pytest.mark.parametrize("fidelity", ["ideal", "protocol"])
def test_the_graph_and_the_adversary_do_not_change_what_is_released(programs, mechanism, fidelity):
    """With the same randomness of rounding and noise, to the last bit."""
    data = jnp.asarray(np.random.default_rng(0).normal(size=(30, LENGTH)).astype(np.float32)) / 9
    ways = ({"graph": "complete"}, SEMI_HONEST_RING, ACTIVE)
    values = [released(programs[mechanism][0], data, fidelity, SecureSums(**way)) for way in ways]
    assert (values[0] == values[1]).all()
    assert (values[0] == values[2]).all()


def released(private, data, fidelity, sums):
    drops = lambda _: [secagg.Drop(7, "mask"), secagg.Drop(11, "unmask")]
    aggregator = SecureAggregator(
        releases=private.releases, mechanism=private.mechanism, expected_size=len(data), sums=sums,
        context=b"test", fidelity=fidelity, faults=drops, before_noise=lambda: None,
        stream=secagg.SecureStream(b"one seed for all"),
    )  # fmt: skip
    return aggregator(Upload(0, ("total",), (data,))).values[0]


STATED = [
    (CENTRAL, {}, 6),  # auto: a ring, sized for a twentieth
    (BY_CLIENTS, {}, 30),  # the price allows a quarter
    (BY_CLIENTS, {"graph": "complete"}, 30),
    (CENTRAL, {"graph": "complete"}, 59),
    (CENTRAL, ACTIVE, 39),
]


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize(
    ("mechanism", "arguments", "most", "fidelity"),
    [
        *((*case, "ideal") for case in STATED),
        *((*case, "protocol") for case in STATED[:2]),
        *(pytest.param(*case, "protocol", marks=pytest.mark.slow) for case in STATED[2:]),
    ],
)
def test_stated_drop_outs_complete_and_one_more_releases_nothing(
    start, mechanism, arguments, most, fidelity
):
    clients = 120
    drops = [secagg.Drop(i, "mask") for i in random.Random(1).sample(range(clients), most + 1)]
    start(clients, mechanism, faults=lambda _: drops[:-1], fidelity=fidelity, **arguments)
    assert states(start) == ["committed"]
    with pytest.raises(secagg.BelowThreshold, match=f"at least {clients - most} clients"):
        start(clients, mechanism, faults=lambda _: drops, fidelity=fidelity, **arguments)
    # Clients' shares of noise had been drawn by then; a server's noise had not.
    assert states(start) == ["open" if mechanism.by_clients else "void"]


def random_faults(seed, clients, active):
    """A few faults of every kind; changed messages are refused, so their senders count as dropped."""
    rng = random.Random(seed)
    phases = ["advertise", "share", "mask", *(["confirm"] if active else []), "unmask"]
    kinds = [scripted.Drop, scripted.Delay, scripted.Duplicate]
    made = [
        rng.choice(kinds)(rng.randrange(clients), rng.choice(phases))
        for _ in range(rng.randrange(5))
    ]
    place = rng.randrange(14, 100)
    spoil = lambda data: data[:place] + bytes([data[place % len(data)] ^ 1]) + data[place + 1 :]
    if rng.random() < 0.5:
        made.append(scripted.Tamper(rng.randrange(clients), rng.choice(phases), spoil))
    if rng.random() < 0.3:
        made.append(scripted.Lie(rng.randrange(clients), rng.choice(phases[1:]), spoil))
    if rng.random() < 0.5:
        made.append(scripted.Reorder(seed))
    if rng.random() < 0.3:
        made.append(scripted.Crash(rng.choice(phases)))
    return made


@pytest.mark.sample(quick=1)
@pytest.mark.parametrize("arguments", [SEMI_HONEST_RING, ACTIVE], ids=["ring", "active"])
@pytest.mark.parametrize("mechanism", [CENTRAL, BY_CLIENTS], ids=["server", "clients"])
def test_random_faults_end_in_the_survivors_sum_or_in_nothing(start, mechanism, arguments):
    clients, ended = 20, []
    for seed in range(4):
        script = random_faults(seed, clients, active="adversary" in arguments)
        garbled = any(isinstance(f, scripted.Tamper) and f.phase == "mask" for f in script)
        try:
            result = start(clients, mechanism, faults=lambda _, s=script: s, **arguments)
        except secagg.Aborted:
            ended.append(states(start)[-1])
            assert ended[-1] == ("open" if mechanism.by_clients else "void")
            continue
        ended.append("released")
        assert states(start)[-1] == "committed"
        if not garbled:  # a vector that was changed on the way is in the sum, as documented
            # Nine deviations of the noise of all clients, in 3 entries: below 1e-17.
            noise = 9 * 2.0 * CLIP * (4 / 3) ** 0.5
            expected = 0.1 * len(result.survivors)
            np.testing.assert_allclose(result.value, expected, atol=noise)
    assert "released" in ended


# What is reported.


def test_the_assumptions_are_in_the_result_whoever_took_part(start):
    few, many = start(20), start(130, fidelity="ideal")
    assert few.secure_sums == many.secure_sums == STANDARD.record(CENTRAL)
    assert few.secure_sums == {
        "graph": "auto",
        "ring_from": 100,
        "adversary": "semi-honest",
        "corrupt": 0.05,
        "dropout": 0.05,
        "security_bits": 40,
        "correctness_bits": 20,
    }


def test_a_statement_says_what_noise_by_clients_is_sized_for():
    assert "more drop-outs than 0.25 of a cohort abort" in STANDARD.statement(BY_CLIENTS)
    assert "more drop-outs than 0.05 of a cohort abort" in STANDARD.statement(CENTRAL)
    assert "against an active server" in SecureSums(adversary="active").statement(CENTRAL)
    assert "complete graph" in SecureSums(graph="complete").statement(CENTRAL)


def test_training_passes_its_assumptions_to_every_run(programs, tmp_path, monkeypatch):
    seen = []

    def recorded(*_, graph, adversary, corrupt, dropout, **__):
        seen.append((graph, adversary, corrupt, dropout))
        raise privacy.BudgetExceeded("enough", purpose=None, needed="", left="")

    monkeypatch.setattr(training, "run", recorded)
    private, certificate = programs[CENTRAL]
    slots = [privacy.Slot("training", 1.0, 1.9, 4)]
    budget = privacy.Budget(90.0, 1e-5)
    with privacy.Ledger.create(tmp_path / "l.db", budget, population=5, slots=slots) as ledger:
        privacy.train(
            lambda state, ask: ask("total"),
            np.zeros(LENGTH),
            queries={"total": privacy.Query(private, certificate)},
            clients=lambda members: {"x": np.zeros((len(members), LENGTH), np.float32)},
            sampling=privacy.FullParticipation(population=5),
            ledger=ledger,
            rounds=1,
            run_id="run",
            folder=tmp_path,
            graph="complete",
            adversary="active",
            corrupt=0.2,
            dropout=0.1,
        )
    assert seen == [("complete", "active", 0.2, 0.1)]


def test_configurations_choose_and_refuse_what_runs_do():
    text = text_of("quickstart")
    engine = parse(text).engine
    assert engine.sums == STANDARD
    left_out = "\n".join(
        line for line in text.splitlines() if line.split(" ")[0] not in STANDARD.__dict__
    )
    assert parse(left_out).engine == engine
    other = text.replace('graph = "auto" ', 'graph = "complete" ').replace(
        "corrupt = 0.05", "corrupt = 0.2"
    )
    assert parse(other).engine.sums == SecureSums(graph="complete", corrupt=0.2)
    bad = text.replace('graph = "auto" ', 'graph = "ring" ').replace("semi-honest", "active")
    with pytest.raises(ConfigurationError, match="knows the ring"):
        parse(bad)
