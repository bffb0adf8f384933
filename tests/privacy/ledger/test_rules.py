"""Chains that are well formed and say something false: each number against what it rests on.

The ledgers are small and random: several purposes, slots, filters, voids, several sums, Skellam noise.
Every number of every record is changed, and the chain is built again behind it, as a bug or a half-done
edit would. What decides is computed here by other means: joint multipliers from the releases, costs of
Gaussians by the textbook.
"""

import contextlib
import copy
import json
import math
import random
import sqlite3

import pytest

from privacy import Budget, BudgetExceeded, Ledger, LedgerCorrupt, Release, Slot
from privacy.ledger.export import import_ledger
from privacy.ledger.records import Record
from privacy.ledger.rules import EPSILON_ROOM
from privacy.ledger.state import create_tables
from privacy.ledger.verification import replay

UNITS = 2**40
SKELLAM = {
    "noise_kind": "skellam",
    "units": "grid",
    "l1_sensitivity": 500.0,
    "noise_party": "clients",
    "min_survivors": 4,
}
KINDS = {
    "pld": {
        "accountant": "pld",
        "purposes": {"training": Budget(6, 1e-6), "evaluation": Budget(2, 1e-6)},
        "unplanned": {"evaluation": "rdp@8"},
    },
    "rdp@8": {"accountant": "rdp@8", "purposes": {"training": Budget(6, 1e-5)}},
    "gdp": {"accountant": "gdp"},
    "zcdp": {"accountant": "zcdp", "relation": "REPLACE_ONE"},
}


def sums(rng, factor, skellam):
    if skellam:
        return [Release("a", 1.0, 40.0, rng.uniform(300, 500), **SKELLAM)]
    groups = rng.choice([(None,), (None, None), ("g", "g")])
    return [
        Release(f"s{i}", 2.0, 2.0 * factor, rng.uniform(30, 60), group=group)
        for i, group in enumerate(groups)
    ]


def workload(path, kind, seed):
    """A ledger after a random history."""
    rng, terms = random.Random(seed), KINDS[kind]
    names = tuple(terms.get("purposes", ("training", "evaluation")))
    factor = 2 if "relation" in terms else 1
    slots = [Slot("training", 1.0, 12.0, 5), Slot("training", 1.0, 25.0, 2)]
    ledger = Ledger.create(path, Budget(8.0, 1e-5), population=50, slots=slots[:1], **terms)
    ledger.declare(slots[1:])
    for step in range(8):
        purpose = rng.choice(names)
        sampled = kind == "rdp@8" or (kind == "pld" and purpose == "evaluation")
        try:
            draw = ledger.reserve(
                purpose=purpose,
                sampling_rate=rng.choice((0.2, 1.0)) if sampled else 1.0,
                sampling=rng.choice(("poisson", "fixed")) if sampled else "poisson",
                releases=sums(rng, factor, kind == "rdp@8" and step == 3),
                run_id="run",
                round=step,
                cohort_id=f"cohort {step}",
            )
        except (BudgetExceeded, ValueError):  # no slot is left, or no price for this sampling
            continue
        if rng.random() < 0.25:
            draw.void()
        elif rng.random() < 0.8:
            draw.open()
            draw.commit("ab", survivors=rng.choice((None, 9)))
    ledger.declare([Slot("training", 1.0, 40.0, 1)], data_independent=True)
    ledger.verify()
    return ledger


@pytest.fixture(scope="module", params=KINDS)
def history(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("history")
    with workload(folder / "l.db", request.param, 5) as ledger:
        yield ledger, list(ledger.entries())


def rebuilt(records, seq, body):
    """The chain with another body in record seq, and fitting hashes from there on."""
    chain = records[:seq]
    for record in records[seq:]:
        content = body if record.seq == seq else record.body
        chain.append(Record.after(chain[-1] if chain else None, record.kind, content))
    return chain


def totals_of(records):
    """What a chain leaves: by scope what its filter still holds, by purpose how many slots."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create_tables(connection)
        replay(iter(records), connection)
        filters = connection.execute("SELECT scope, capacity - spent FROM filters").fetchall()
        left = "SELECT purpose, sum(declared - spent) FROM slots GROUP BY purpose"
        return dict(filters), dict(connection.execute(left).fetchall())
    finally:
        connection.close()


def paths(value, prefix=()):
    """Where the numbers of a JSON value are."""
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(part, (*prefix, key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield prefix


def changed(body, path, change):
    body = copy.deepcopy(body)
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = change(place[path[-1]])
    return body


CHANGES = {
    "twice": lambda x: 2 * x,
    "half": lambda x: x / 2 if isinstance(x, float) else x // 2,
    "more": lambda x: x + 1,
    "less": lambda x: x - 1,
    "a little more": lambda x: x * 1.001 if isinstance(x, float) else x + max(2, abs(x) // 1000),
    "a little less": lambda x: x / 1.001 if isinstance(x, float) else x - max(2, abs(x) // 1000),
    "nothing": lambda x: type(x)(0),
    "negative": lambda x: -x,
}


def is_premise(records, seq, path):
    """Numbers on which others rest: what was agreed, what was planned, which step was whose.

    A chain with other premises is the chain of another ledger; only its head tells them apart.
    """
    kind, pld = records[seq].kind, records[0].body["accountant"] == "pld"
    if kind == "plan":
        return pld and path[0] == "slots"
    return kind in ("open", "commit", "void") and path == ("reservation",)


def mutations(records):
    for record in records:
        for path in paths(record.body):
            for name, change in CHANGES.items():
                yield record.seq, path, name, change


def effective(releases, factor):
    """Joint multiplier by the formula of docs/ledger-slots.md."""
    groups = {}
    for number, release in enumerate(releases):
        key = release["group"] or number
        ratio = release["sensitivity"] / factor / release["noise_std"]
        groups[key] = max(groups.get(key, 0.0), ratio)
    return sum(ratio**2 for ratio in groups.values()) ** -0.5


def check_by_hand(records):
    """Each draw of everyone against its slot or its costs, by the textbook."""
    genesis = records[0].body
    factor = 2 if genesis["relation"] == "REPLACE_ONE" else 1
    per_unit = {"rdp@8": 4.0, "gdp": 1.0, "zcdp": 0.5}
    slots = {}
    for record in records:
        body = record.body
        if record.kind == "plan":
            for slot in body["slots"]:
                key = (slot["purpose"], slot["sampling_rate"], slot["noise_multiplier"])
                slots.setdefault(key, len(slots) + 1)
        if record.kind != "reserve" or body["releases"][0]["noise_kind"] == "skellam":
            continue
        z, everyone = effective(body["releases"], factor), body["sampling"]["q"] == 1
        if body["slot"] is not None:
            purpose, q, least = next(key for key, number in slots.items() if number == body["slot"])
            assert purpose == body["purpose"]
            assert q >= body["sampling"]["q"]
            assert least <= z * (1 + 1e-6)
        for scope, units in body["costs"].items():
            rate = per_unit[genesis["filters"][scope]["rule"]]
            if everyone:
                assert units >= rate * (factor / z) ** 2 * UNITS * (1 - 1e-8) - 1


def check_mutation(records, honest, mutation):
    """Refused by name, or neither more to spend nor less spent. Returns whether it was refused."""
    seq, path, name, change = mutation
    body = changed(records[seq].body, path, change)
    chain = rebuilt(records, seq, body)
    try:
        filters, slots = totals_of(chain)
    except LedgerCorrupt:
        return True
    check_by_hand(chain)
    if not is_premise(records, seq, path):
        for scope, left in filters.items():
            room = 1 + 1e-9 * records[0].body["filters"][scope]["capacity"]
            assert left <= honest[0][scope] + room, (seq, path, name)
        assert all(left <= honest[1][name] for name, left in slots.items()), (seq, path, name)
    return False


def test_numbers_changed_in_any_record_are_refused_where_they_count(history):
    _, records = history
    honest = totals_of(records)
    sample = random.Random(1).sample(list(mutations(records)), 60)
    refused = [check_mutation(records, honest, mutation) for mutation in sample]
    assert sum(refused) > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_changed_in_every_record(tmp_path, kind, seed):
    with workload(tmp_path / "l.db", kind, seed) as ledger:
        records = list(ledger.entries())
    honest = totals_of(records)
    for mutation in mutations(records):
        check_mutation(records, honest, mutation)


JUNK = [None, True, "", "x", [], {}, [[]], {"q": 1}, -1, 0, 10**30, 1e308, -0.0, "\ud800"]


def everywhere(value, prefix=()):
    yield prefix
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from everywhere(part, (*prefix, key))


def test_junk_in_any_place_is_refused_as_corrupt_or_changes_nothing(history):
    _, records = history
    honest, rng = totals_of(records), random.Random(2)
    places = [(r.seq, path) for r in records for path in everywhere(r.body) if path]
    for seq, path in rng.sample(places, 50):
        junk = rng.choice(JUNK)
        chain = rebuilt(records, seq, changed(records[seq].body, path, lambda _, junk=junk: junk))
        if not is_premise(records, seq, path):
            with contextlib.suppress(LedgerCorrupt):
                assert totals_of(chain) == honest


def test_a_missing_field_is_refused_unless_nothing_reads_it(history):
    _, records = history
    for record in (records[0], records[1], records[3]):
        for key in record.body:
            body = {name: value for name, value in record.body.items() if name != key}
            if key != "process":
                with pytest.raises(LedgerCorrupt):
                    totals_of(rebuilt(records, record.seq, body))


# Named cases.


def write(path, records):
    path.write_text("".join(json.dumps(vars(record)) + "\n" for record in records))
    return path


@pytest.fixture
def planned(tmp_path):
    plan = [Slot("training", 1.0, 10.0, 3), Slot("evaluation", 1.0, 10.0, 1)]
    with Ledger.create(tmp_path / "p.db", Budget(1.0, 1e-6), population=50, slots=plan) as ledger:
        ledger.declare([Slot("training", 1.0, 20.0, 2)])
        yield ledger


def refused(tmp_path, records, seq, match):
    with pytest.raises(LedgerCorrupt, match=match) as caught:
        import_ledger(write(tmp_path / "x.jsonl", records), tmp_path / "x.db")
    assert caught.value.record == seq
    assert not (tmp_path / "x.db").exists()


@pytest.mark.parametrize(
    ("seq", "slot"),
    [
        (1, {"noise_multiplier": 0.01, "count": 10**6}),
        (2, {"count": 9}),
        (2, {"noise_multiplier": 7.0}),
    ],
)
def test_a_plan_beyond_the_budget_is_named(planned, tmp_path, seq, slot):
    records = list(planned.entries())
    body = copy.deepcopy(records[seq].body)
    body["slots"][0] |= slot
    refused(tmp_path, rebuilt(records, seq, body), seq, "they cost epsilon")


def test_a_plan_beyond_the_budget_of_its_purpose_is_named(tmp_path):
    with Ledger.create(
        tmp_path / "p.db",
        Budget(9, 1e-6),
        population=50,
        purposes={"training": Budget(2, 1e-6), "evaluation": Budget(2, 1e-6)},
        slots=[Slot("training", 1.0, 10.0, 3)],
    ) as ledger:
        records = list(ledger.entries())
    body = copy.deepcopy(records[1].body)
    body["slots"][0]["count"] = 30
    refused(tmp_path, rebuilt(records, 1, body), 1, "'training'")


def test_a_plan_that_fits_to_the_last_digit_verifies(tmp_path):
    """Budgets are found by calibration; digits that differ by version must not refuse a ledger."""
    slots = [Slot("training", 1.0, 10.0, 3)]
    with Ledger.create(tmp_path / "p.db", Budget(9, 1e-6), population=50, slots=slots) as ledger:
        epsilon, records = ledger.plan().released["total"], list(ledger.entries())
    for shift, fits in ((-EPSILON_ROOM / 2, True), (-3 * EPSILON_ROOM, False)):
        body = copy.deepcopy(records[0].body)
        body["budget"]["epsilon"] = epsilon * (1 + shift)
        chain = rebuilt(records, 0, body)
        if fits:
            totals_of(chain)
        else:
            refused(tmp_path, chain, 1, "they cost epsilon")


def test_a_cheap_price_for_little_noise_is_refused(tmp_path):
    with Ledger.create(
        tmp_path / "f.db", Budget(4, 1e-5), population=50, accountant="rdp@8"
    ) as ledger:
        ledger.reserve(
            purpose="training",
            sampling_rate=1.0,
            releases=[Release("delta", 1.0, 1.0, noise_std=9.0)],
            run_id="run",
            round=0,
            cohort_id="a",
        )
        records = list(ledger.entries())
    cheap = {**records[1].body, "costs": {"total": 1}}
    refused(tmp_path, rebuilt(records, 1, cheap), 1, "Expected a cost of")
    loud = copy.deepcopy(records[1].body)
    loud["releases"][0]["noise_std"] = 0.01
    refused(tmp_path, rebuilt(records, 1, loud), 1, "Expected noise_multiplier")
    free = {**records[1].body, "costs": {}}
    refused(tmp_path, rebuilt(records, 1, free), 1, "Expected a slot or costs")
    genesis = copy.deepcopy(records[0].body)
    genesis["filters"]["total"]["capacity"] *= 2
    refused(tmp_path, rebuilt(records, 0, genesis), 0, "capacity of 'total'")
    genesis = copy.deepcopy(records[0].body)
    genesis["filters"] = {}
    refused(tmp_path, rebuilt(records, 0, genesis), 0, "Expected filters")


def test_a_slot_of_gaussians_pays_for_nothing_else(planned, tmp_path):
    planned.reserve(
        purpose="training",
        sampling_rate=1.0,
        releases=[Release("delta", 1.0, 1.0, noise_std=10.0)],
        run_id="run",
        round=0,
        cohort_id="a",
    )
    records = list(planned.entries())
    for change in (
        {"sampling": {"kind": "fixed", "q": 0.5}},
        {"costs": {"total": 1}},
        {"charged_multiplier": None},
        {"slot": None},
    ):
        refused(tmp_path, rebuilt(records, 3, records[3].body | change), 3, "record 3 is bad")


def test_a_plan_after_a_release_must_have_been_independent_of_it(planned, tmp_path):
    records = list(planned.entries())
    body = records[2].body | {"data_independent": False}
    refused(tmp_path, rebuilt(records, 2, body), 2, "independent of releases")


def test_a_body_with_a_field_twice_is_refused(planned, tmp_path):
    """SQLite and Python would read different ones."""
    first, *rest = planned.entries()
    text = first.text.replace('"population":50', '"population":5,"population":50')
    assert json.loads(text) == first.body
    chain = [Record(0, "genesis", first.prev, text, "")]
    chain[0] = Record(0, "genesis", first.prev, text, _hash(chain[0]))
    for record in rest:
        chain.append(Record.after(chain[-1], record.kind, record.body))
    refused(tmp_path, chain, 0, "canonical")


def _hash(record):
    from privacy.ledger.records import chain_hash

    return chain_hash(record.seq, record.kind, record.prev, record.text)


def test_a_trigger_that_refunds_is_found(planned):
    planned.store.reader().execute(
        "CREATE TRIGGER refund AFTER INSERT ON records BEGIN UPDATE slots SET spent = 0; END"
    )
    with pytest.raises(LedgerCorrupt, match="triggers that a ledger does not have"):
        planned.verify()


def test_verification_prices_each_distinct_draw_once(tmp_path, monkeypatch):
    import privacy.ledger.rules as module

    slots = [Slot("training", 1.0, 30.0, 60)]
    with Ledger.create(tmp_path / "p.db", Budget(9, 1e-6), population=50, slots=slots) as ledger:
        for step in range(60):
            ledger.reserve(
                purpose="training",
                sampling_rate=1.0,
                releases=[Release("delta", 1.0, 1.0, noise_std=30.0 + step % 2)],
                run_id="run",
                round=step,
                cohort_id=f"{step}",
            )
        calls = []
        original = module.draw_terms

        def counted(*args, **more):
            calls.append(args)
            return original(*args, **more)

        monkeypatch.setattr(module, "draw_terms", counted)
        ledger.verify()
    assert len(calls) == 2
    assert math.isfinite(ledger.charter.budget.epsilon)
