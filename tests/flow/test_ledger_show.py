"""`secfad ledger show` draws the budget, in the terminal and as a picture."""

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from audits.commands.cli import app
from audits.commands.ledgers import curve, draw_curve
from privacy import Budget, Ledger, Release, Slot
from privacy.errors import InvalidEvent
from privacy.ledger.spending import Spent


@pytest.fixture
def path(tmp_path):
    where = tmp_path / "ledger.db"
    with Ledger.create(
        where, Budget(8.0, 1e-5), population=1000, slots=[Slot("training", 0.1, 2.0, 20)]
    ) as ledger:
        for number in range(8):
            ledger.reserve(
                purpose="training",
                sampling_rate=0.1,
                releases=[Release("delta", 1.0, 1.0, noise_std=2.0)],
                run_id="run",
                round=number,
                cohort_id=str(number),
            )
    return where


@pytest.mark.parametrize("name", ["budget.svg", "budget.png"])
def test_show_has_a_curve_and_draws_it(path, tmp_path, name):
    result = CliRunner().invoke(app, ["ledger", "show", str(path), "--plot", str(tmp_path / name)])
    assert result.exit_code == 0, result.output
    assert "epsilon over draws, bars of 8" in result.output
    assert "█" in result.output
    start = (tmp_path / name).read_bytes()[:5]
    assert start in (b"<?xml", b"\x89PNG\r")


def test_bar_is_the_share_of_the_budget():
    spent = [
        Spent(n, {v: {"total": e} for v in ("released", "server")}) for n, e in ((1, 1.0), (2, 4.0))
    ]
    console = Console(width=100, file=io.StringIO())
    console.print(curve(spent, Budget(4.0, 1e-5)))
    bars = [line.count("█") for line in console.file.getvalue().splitlines() if "█" in line]
    assert bars == [5, 20]


def test_other_pictures_are_refused(tmp_path):
    with pytest.raises(InvalidEvent, match=r"\.svg or \.png"):
        draw_curve([], Budget(4.0, 1e-5), tmp_path / "budget.bmp")
