import numpy as np
import pytest

import secagg
from secagg import Drop, Parameters, simulate
from secagg.errors import BelowThreshold, CohortChanged, EncodingError, LocalProtocolError
from secagg.simulation.faults import Reorder

MODELS = {
    "complete": {},
    "active": {"adversary": "active"},
    "ring": {"graph": "ring", "security_bits": 15, "correctness_bits": 5, "dropout": 0.25},
}
PHASES = ("advertise", "share", "mask", "unmask")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("phase", [None, *PHASES])
def test_sum_is_exact_over_the_survivors(model, phase, vectors_of, oracle):
    parameters = Parameters(clients=16, length=37, **MODELS[model])
    x = vectors_of(parameters)
    faults = [] if phase is None else [Drop(2, phase), Drop(11, phase)]
    outcome = simulate(x, parameters, faults=faults)
    gone = set() if phase in (None, "unmask") else {2, 11}
    assert outcome.survivors == tuple(sorted(set(range(16)) - gone))
    assert (outcome.sum == oracle(x, outcome.survivors, 32)).all()


@pytest.mark.parametrize("bits", [1, 7, 16, 20, 31, 32, 33, 48, 63, 64])
def test_sum_is_exact_in_every_ring(bits, vectors_of, oracle):
    parameters = Parameters(clients=5, length=11, modulus_bits=bits)
    x = vectors_of(parameters)
    outcome = simulate(x, parameters, faults=[Drop(4, "mask")])
    assert (outcome.sum == oracle(x, range(4), bits)).all()


@pytest.mark.parametrize("model", MODELS)
def test_k5_fleet_and_individuals_send_the_same_bytes(model, vectors_of, entropy):
    parameters = Parameters(clients=12, length=9, modulus_bits=20, **MODELS[model])
    x = vectors_of(parameters)
    faults = [Drop(1, "share"), Drop(5, "mask"), Drop(7, "unmask")]
    fleet, individuals = (
        simulate(x, parameters, faults=faults, entropy=entropy(), engine=engine, record="messages")
        for engine in ("fleet", "individuals")
    )
    assert fleet.transcript == individuals.transcript
    assert fleet.bytes == individuals.bytes


def test_k5_threads_do_not_change_a_bit(vectors_of, entropy):
    parameters = Parameters(clients=4, length=40_001)
    x = vectors_of(parameters)
    one, three = (simulate(x, parameters, entropy=entropy(), threads=t) for t in (1, 3))
    assert one.transcript == three.transcript


@pytest.mark.parametrize("model", MODELS)
def test_ideal_fidelity_gives_the_sum_and_the_bytes_of_the_protocol(model, vectors_of, oracle):
    parameters = Parameters(clients=12, length=9, modulus_bits=20, **MODELS[model])
    x = vectors_of(parameters)
    faults = [] if model == "ring" else [Drop(1, "share"), Drop(5, "mask"), Drop(7, "unmask")]
    ideal = simulate(x, parameters, faults=faults, fidelity="ideal")
    protocol = simulate(x, parameters, faults=faults)
    assert ideal.survivors == protocol.survivors
    assert (ideal.sum == oracle(x, ideal.survivors, 20)).all()
    assert ideal.bytes == protocol.bytes
    assert ideal.transcript.fidelity == "ideal"


@pytest.mark.parametrize("fidelity", ["protocol", "ideal"])
def test_below_threshold_aborts_and_gives_no_sum(fidelity, vectors_of):
    parameters = Parameters(clients=8, length=3)
    faults = [Drop(i, "mask") for i in range(4)]
    with pytest.raises(BelowThreshold, match="at least 5 clients"):
        simulate(vectors_of(parameters), parameters, faults=faults, fidelity=fidelity)


@pytest.mark.parametrize("fidelity", ["protocol", "ideal"])
def test_pinned_survivors_take_part_alone_and_nobody_may_leave(fidelity, vectors_of):
    parameters = Parameters(clients=8, length=3)
    x = vectors_of(parameters)
    first = simulate(x, parameters, faults=[Drop(2, "mask")], fidelity=fidelity)
    second = simulate(x, parameters, pinned=first.survivors, fidelity=fidelity)
    assert second.survivors == first.survivors
    with pytest.raises(CohortChanged):
        simulate(x, parameters, pinned=first.survivors, faults=[Drop(3, "mask")], fidelity=fidelity)


def test_transcript_says_when_entropy_was_supplied(vectors_of, entropy):
    parameters = Parameters(clients=3, length=1)
    x = vectors_of(parameters)
    assert simulate(x, parameters).transcript.entropy == "system"
    assert simulate(x, parameters, entropy=entropy()).transcript.entropy == "supplied"


@pytest.mark.parametrize(
    "bad",
    [np.zeros((3, 3), np.float64), np.zeros((3, 3), np.bool_), np.zeros((3, 4), np.uint32)],
)
def test_vectors_of_wrong_shape_or_dtype_are_refused(bad):
    with pytest.raises(EncodingError, match=r"Expected ring vectors of shape \(3, 3\)"):
        simulate(bad, Parameters(clients=3, length=3))


def test_vectors_outside_the_ring_are_refused():
    with pytest.raises(EncodingError, match=r"2\*\*4"):
        simulate(np.full((3, 1), 16, np.uint32), Parameters(clients=3, length=1, modulus_bits=4))


def test_other_faults_need_separate_clients(vectors_of):
    parameters = Parameters(clients=3, length=1)
    x = vectors_of(parameters)
    with pytest.raises(LocalProtocolError, match="drop-outs"):
        simulate(x, parameters, faults=[Reorder(1)], fidelity="ideal")
    with pytest.raises(LocalProtocolError, match="drop-outs"):
        simulate(x, parameters, faults=[Reorder(1)], engine="fleet")


def test_root_names_are_importable():
    for name in secagg.__all__:
        assert getattr(secagg, name) is not None
