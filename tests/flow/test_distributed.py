"""`secfad run` with noise by clients: fixed-size cohorts, one client replaced, and what that costs."""

import io
import json
import re

import pytest
from rich.console import Console

from audits.quickstart import pages
from audits.quickstart.configuration import SHIPPED, load, parse, text_of
from audits.quickstart.console import run_experiment
from audits.quickstart.errors import ConfigurationError
from audits.quickstart.folders import RunFolder
from audits.quickstart.tasks import make_task
from privacy import FixedSampling, Ledger, PoissonSampling
from privacy.accounting.sizes import STATEMENT
from privacy.errors import BudgetExceeded, ResumeRefused
from privacy.ledger.planning import quote
from privacy.relations import Relation

# The shipped example, with fewer clients of the same share and two rounds.
SMALL = {
    "population = 1000": "population = 60",
    "rounds = 60": "rounds = 2",
    "max_examples = 100": "max_examples = 50",
    "baseline = true": "baseline = false",
    'fidelity = "protocol"': 'fidelity = "ideal"',
}


def small(text):
    for old, new in SMALL.items():
        assert old in text
        text = text.replace(old, new)
    return text


def run(text, path, *, resume=False):
    console = Console(file=io.StringIO(), width=200)
    run_experiment(parse(text), path, resume=resume, console=console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("distributed") / "run"
    return path, run(small(text_of("quickstart-distributed")), path)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_are_valid_and_within_their_budgets(name):
    assert load(name).name == name
    # Its price does not depend on the data, so few clients' examples will do.
    text = text_of(name).replace("max_examples = 100", "max_examples = 50")
    assert make_task(parse(text)).schedule.price().fits


def test_cohorts_have_the_fixed_size_and_the_ledger_replaces_one(finished):
    results = pages.read_results(finished[0])
    assert (results["relation"], results["cohort_size"]) == ("REPLACE_ONE", 3)
    with Ledger.open(finished[0] / "ledger.db") as ledger:
        assert ledger.charter.relation is Relation.REPLACE_ONE
        assert ledger.charter.accountant == results["accountant"]
        assert ledger.charter.accountant.startswith("rdp@")
        charged = [record.body for record in ledger.entries() if record.kind == "reserve"]
        assert ledger.bounds.remarks == (STATEMENT,)
        ledger.verify()
    assert len(charged) == 4
    for body in charged:
        assert body["sampling"] == {"kind": "fixed", "q": 0.05}
        (event,) = body["event"]["events"]
        assert event["event"]["sample_size"] == 3
        assert {release["noise_party"] for release in body["releases"]} == {"clients"}


def test_the_run_says_what_it_costs_beside_noise_by_the_server(finished):
    path, shown = finished
    results = pages.read_results(path)
    spent, central = (
        results["epsilon"]["released"]["total"], results["epsilon_with_central_noise"]["total"]
    )  # fmt: skip
    assert 0 < central < spent <= 8.0
    page = (path / "report.html").read_text()
    for text in (shown, page):
        assert "the same with noise by the server: total" in text
        assert "every cohort has 3 of the 60 clients" in text
        assert "one client replaced by another" in text
        assert f"{central:.2f} in total instead of {spent:.2f}" in text
        assert "Sizes of cohorts are secret" not in text
    planned = re.search(r"planned epsilon: .*total ([0-9.]+).*\((rdp@\d+)\)", shown)
    assert planned
    assert float(planned[1]) >= spent
    assert planned[2] == results["accountant"]
    assert results["budget_spent"][-1]["total"] == pytest.approx(spent, rel=1e-9)


def test_certificates_say_that_sizes_are_public(finished):
    for body in json.loads((finished[0] / "certificate.json").read_text()).values():
        assert STATEMENT in body["assumptions"]


def test_the_printed_epsilon_is_the_bound_of_the_planned_schedule():
    schedule = make_task(parse(small(text_of("quickstart-distributed")))).schedule
    counts = {"training": 6, "hypergradient": 6}
    direct = quote(schedule.draws(counts), schedule.budget, purposes=schedule.purposes,
                   relation="REPLACE_ONE")  # fmt: skip
    assert schedule.price() == direct
    assert schedule.accountant == direct.accountant


@pytest.mark.slow
def test_the_quickstart_with_only_the_noise_changed_names_the_lines_that_fit(tmp_path):
    text = text_of("quickstart").replace("max_examples = 100", "max_examples = 50")
    text = text.replace('noise = "central"', 'noise = "distributed"')
    task = make_task(parse(text))
    assert isinstance(task.sampling, FixedSampling)
    assert task.sampling.size == 60
    with pytest.raises(BudgetExceeded, match="every cohort has 60 of the 200") as error:
        RunFolder(tmp_path).open_ledger(task)
    assert not (tmp_path / "ledger.db").exists()
    lines = re.findall(r"\[privacy\.(\w+)\] noise_multiplier = ([0-9.]+)", str(error.value))
    assert [name for name, _ in lines] == ["training", "hypergradient"]
    for old, (_, new) in zip(("2.0", "5.0"), lines, strict=True):
        text = text.replace(f"noise_multiplier = {old}", f"noise_multiplier = {new}")
    fitting = make_task(parse(text))
    assert fitting.schedule.price().fits
    with RunFolder(tmp_path).open_ledger(fitting) as ledger:
        assert ledger.charter.relation is Relation.REPLACE_ONE


def test_everyone_with_noise_by_clients_hides_contributions(tiny_text):
    schedule = make_task(parse(tiny_text.replace("central", "distributed"))).schedule
    assert schedule.configuration.fixed_size is None
    assert (schedule.relation, schedule.accountant) == (Relation.REPLACE_SPECIAL, "pld")
    assert "contribution being there or zero" in schedule.statement
    central, plan = schedule.price_with_central_noise(), schedule.price()
    assert plan.fits
    assert plan.released["total"] == pytest.approx(central["total"], rel=1e-4)


def test_noise_by_the_server_is_planned_as_before(tiny_text):
    schedule = make_task(parse(tiny_text)).schedule
    assert isinstance(schedule.sampling, PoissonSampling)
    assert (schedule.relation, schedule.accountant) == (Relation.ADD_OR_REMOVE_ONE, "pld")
    assert schedule.statement == ""
    assert [slot.count for slot in schedule.slots] == [11, 11]


def test_a_cohort_too_small_for_secure_aggregation_is_an_error_of_the_configuration(tiny_text):
    text = tiny_text.replace('noise = "central"', 'noise = "distributed"')
    with pytest.raises(ConfigurationError, match="at least 3 clients in a cohort"):
        parse(text.replace("sampling_rate = 1.0", "sampling_rate = 0.4"))
    assert parse(text.replace("sampling_rate = 1.0", "sampling_rate = 0.5")).fixed_size == 3


def test_a_ledger_of_secret_sizes_is_not_continued(tmp_path):
    text = small(text_of("quickstart-distributed"))
    task = make_task(parse(text))
    folder = RunFolder(tmp_path)
    schedule = task.schedule
    Ledger.create(folder.ledger, schedule.budget, population=60, purposes=schedule.purposes).close()
    with pytest.raises(ResumeRefused, match="older version whose cohorts had secret sizes"):
        folder.open_ledger(task)
