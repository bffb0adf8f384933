"""Ledgers that older versions wrote, with Poisson draws to which clients added the noise.

`data/poisson_by_clients.jsonl` was exported by the last version that charged such draws: two of
"training" with noise by clients, two of "hypergradient" with noise by the server, all at q = 0.3.
"""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from ledgers import reserve
from typer.testing import CliRunner

from audits.commands.cli import app
from privacy import Budget, Ledger, PoissonSampling, Release, Slot, train
from privacy.errors import LedgerError, NoBoundKnown, NoBoundWarning
from privacy.ledger.export import export_ledger, import_ledger
from privacy.ledger.spending import spending

EXPORT = Path(__file__).parents[1] / "data" / "poisson_by_clients.jsonl"
HEAD = "e5220c549daa3d7aa2f7a4072d0d6fbaf2d1cd3f0cafeb809e83a5b0372560e4"
SERVER = {"training": 2.943228577070934, "hypergradient": 1.0607909214774847}


@pytest.fixture
def path(tmp_path):
    with pytest.warns(NoBoundWarning):
        import_ledger(EXPORT, tmp_path / "old.db", head=HEAD).close()
    return tmp_path / "old.db"


@pytest.fixture
def old(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoBoundWarning)
        ledger = Ledger.open(path)
    yield ledger
    ledger.close()


def central(z=5.0):
    return [Release("delta", 1.0, 1.0, noise_std=z)]


def test_opening_one_warns_and_says_where_and_why(path):
    with pytest.warns(
        NoBoundWarning, match=r"2 draws, the first in record 5.*server view still holds"
    ):
        Ledger.open(path).close()


def test_it_verifies_and_can_be_exported(old, tmp_path):
    old.verify()
    assert export_ledger(old, tmp_path / "again.jsonl") == HEAD


def test_the_released_view_is_unknown_and_the_server_view_as_it_was(old):
    released, server = old.spent("released"), old.spent("server")
    assert released["training"] == released["total"] == math.inf
    assert 0 < released["hypergradient"] < 1
    for purpose, value in SERVER.items():
        assert server[purpose] == pytest.approx(value, rel=1e-6)
    assert math.isfinite(server["total"])


def test_nothing_remains(old):
    for purpose in ("training", "hypergradient", "evaluation"):
        left = old.remaining(purpose)
        assert (left.epsilon, left.slots, left.filter_fraction) == (0.0, (), 0.0)
    (remark,) = old.bounds.remarks
    assert remark.startswith("No bound is known for the released view")


def test_nothing_more_is_reserved_or_planned(old, tmp_path):
    head = old.head
    for purpose in ("training", "hypergradient"):
        with pytest.raises(NoBoundKnown, match="Begin another ledger"):
            reserve(old, purpose=purpose, q=0.3, releases=central())
    with pytest.raises(NoBoundKnown):
        old.declare([Slot("training", 0.1, 50.0, 1)], data_independent=True)
    assert not old.plan([Slot("training", 0.1, 50.0, 1)]).fits
    with pytest.raises(NoBoundKnown):
        train(
            lambda state, ask: state, np.zeros(2), queries={}, clients=lambda members: {},
            sampling=PoissonSampling(population=100, rate=0.3), ledger=old, rounds=1, run_id="r",
            folder=tmp_path / "run",
        )  # fmt: skip
    assert old.head == head
    assert not (tmp_path / "run").exists()


def test_the_curve_is_infinite_from_the_first_such_draw(old):
    points = spending(old, points=4)
    assert [point.draws for point in points] == [1, 2, 3, 4]
    assert points[0].epsilon["released"]["total"] < 1
    for point in points[1:]:
        assert point.epsilon["released"]["total"] == math.inf
        assert point.epsilon["released"]["hypergradient"] < 1
        assert math.isfinite(point.epsilon["server"]["total"])


def _charged_by_an_older_version(monkeypatch, ledger, **changes):
    """Reserves as versions before `privacy.accounting.sizes` did."""
    with monkeypatch.context() as patch:
        patch.setattr("privacy.accounting.draws.require_public_size", lambda *_: None)
        noisy = [Release("delta", 1.0, 1.0, 5.0, noise_party="clients")]
        return reserve(ledger, releases=noisy, **{"q": 0.3} | changes)


@pytest.fixture
def fresh(tmp_path):
    with Ledger.create(
        tmp_path / "new.db",
        Budget(8.0, 1e-5),
        population=100,
        slots=[Slot("training", 0.3, 5.0, 3), Slot("training", 1.0, 5.0, 1)],
    ) as ledger:
        yield ledger


def test_a_charge_by_another_process_is_noticed_before_the_next_one(fresh, monkeypatch):
    reserve(fresh, q=0.3, releases=central())
    with Ledger.open(fresh.store.path) as other:
        _charged_by_an_older_version(monkeypatch, other)
    with pytest.raises(NoBoundKnown, match="1 draws, the first in record 3"):
        reserve(fresh, q=0.3, releases=central())


def test_a_voided_charge_released_nothing(fresh, monkeypatch):
    draw = _charged_by_an_older_version(monkeypatch, fresh)
    assert fresh.spent()["training"] == math.inf
    draw.void()
    assert fresh.bounds.charges() == {}
    assert fresh.spent()["training"] == 0
    reserve(fresh, q=0.3, releases=central())


def test_everyone_with_noise_by_clients_is_no_such_charge(fresh):
    noisy = [Release("delta", 1.0, 1.0, 5.0, noise_party="clients")]
    reserve(fresh, q=1.0, releases=noisy)
    assert math.isfinite(fresh.spent()["total"])
    assert "size of every cohort is public" in fresh.bounds.remarks[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Ledger.open(fresh.store.path).close()


def test_a_name_that_looks_like_a_mark_is_not_one(fresh):
    tricky = [Release('"noise_party":"clients"', 1.0, 1.0, 5.0)]
    reserve(fresh, q=0.3, releases=tricky)
    assert fresh.bounds.remarks == ()


@pytest.mark.filterwarnings("ignore::privacy.errors.NoBoundWarning")
def test_the_commands_show_it(path, tmp_path):
    runner = CliRunner()
    shown = runner.invoke(app, ["ledger", "show", str(path), "--plot", str(tmp_path / "a.svg")])
    assert shown.exit_code == 0, shown.output
    assert "inf" in shown.output
    assert "No bound is known" in shown.output
    verified = runner.invoke(app, ["ledger", "verify", str(path)])
    assert verified.exit_code == 0
    assert "No bound is known" in verified.output
    planned = runner.invoke(app, ["ledger", "plan", str(path), "--slot", "training,0.3,50,1"])
    assert planned.exit_code == 1
    assert "does not fit" in planned.output
    assert "No bound is known" in planned.output


def test_it_is_an_error_of_the_ledger():
    assert issubclass(NoBoundKnown, LedgerError)
