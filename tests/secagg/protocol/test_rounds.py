import pickle
from pathlib import Path

import pytest

from secagg.crypto.context import Purpose, framed, label
from secagg.errors import Aborted, BelowThreshold, SecAggError
from secagg.protocol import client, codec, server
from secagg.protocol.rounds import CLIENT, SERVER, ClientState, Kind, Phase, diagram, phases

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("active", [False, True])
def test_every_client_path_ends_finished(active):
    state, seen = ClientState.KEYS_ADVERTISED, []
    while state is not ClientState.FINISHED:
        (step,) = [k for (s, k, a) in CLIENT if (s, a) == (state, active)]
        seen.append(step)
        state = CLIENT[state, step, active]
    assert len(seen) == len(phases(active)) - 1


def test_the_phases_of_both_models():
    assert phases(True)[3] is Phase.CONFIRM
    assert [p for p in phases(True) if p is not Phase.CONFIRM] == list(phases(False))
    assert {kind for kind, _ in SERVER.values()} == {k for k in Kind if k < 16}


def test_every_message_and_every_phase_has_a_handler_that_is_stated():
    # Closed tables: a renamed handler must not turn a check into an acceptance.
    assert set(codec.WRITERS) == set(codec.READERS) == set(Kind)
    assert set(client.ANSWERS) == {kind for _, kind, _ in CLIENT}
    assert set(server.CHECKS) == {kind for kind, _ in SERVER.values()}
    assert set(server.CLOSINGS) == {phase for phase, _ in SERVER}


@pytest.mark.parametrize("folder", ["secagg", "audits"])
def test_no_handler_is_looked_up_by_a_name_made_at_run_time(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert 'getattr(self, f"' not in path.read_text(), path


def test_the_diagram_shows_every_transition():
    assert diagram().count("-->") == len(CLIENT) + 1


def test_the_specification_shows_the_diagram_of_the_table():
    text = (ROOT / "docs" / "secagg-spec.md").read_text()
    assert diagram() in text


def test_labels_differ_by_purpose_context_and_parties():
    labels = {
        label(purpose, context, *parties)
        for purpose in Purpose
        for context in (b"", b"c")
        for parties in ((), (1,), (1, 2), (2, 1), (258,))
    }
    assert len(labels) == len(Purpose) * 2 * 5


def test_framing_is_injective():
    assert framed(b"a", b"bc") != framed(b"ab", b"c")
    assert framed(b"", b"a") != framed(b"a", b"")
    assert framed() != framed(b"")


def test_aborts_survive_pickling():
    error = pickle.loads(pickle.dumps(BelowThreshold("unmask", "too few.", (3,))))
    assert isinstance(error, BelowThreshold)
    assert (error.phase, error.reason, error.culprits) == ("unmask", "too few.", (3,))
    assert str(error) == "Aborted in phase unmask: too few."
    assert issubclass(Aborted, SecAggError)
