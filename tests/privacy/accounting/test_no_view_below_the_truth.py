"""Random schedules: no printed epsilon, in any view, is below what the releases truly cost.

The truth is bounded from below by lower_bound.py: pairs of laws, cut into cells and composed, or a closed
form. Slow profile: 500 schedules of all relations, mechanisms, samplings and accountants; prints how many
values were compared and how close to the stated delta the true one came.
"""

import math
import random

import lower_bound as bound
import pytest
import reference_pld as reference

from privacy import Budget, Ledger, Release, Slot
from privacy.accounting.draws import draw_terms
from privacy.accounting.slots import plan
from privacy.errors import BudgetExceeded
from privacy.ledger.planning import Draws, filter_for, quote
from privacy.relations import Relation

ROUNDING = 1e-6  # of the references, as a part of delta
RELATIONS = ("ADD_OR_REMOVE_ONE", "REPLACE_ONE", "REPLACE_SPECIAL")
PURPOSES = ("training", "hypergradient", "evaluation")
POPULATION = 100_000


def true_delta(draws, eps, relation):
    """At most the delta at eps of [(law, q, count), ...]; a law is a multiplier, or of Skellam noise."""
    if all(q == 1 and isinstance(law, float) for law, q, _ in draws):
        factor = 2 if relation == "REPLACE_ONE" else 1
        mu = factor * math.sqrt(sum(n / z**2 for z, _, n in draws))
        return float(reference.gaussian_delta(mu, eps))
    pairs = [
        (
            bound.gaussian(law, q, relation)
            if isinstance(law, float)
            else bound.skellam(law[0], q, relation, law[1]),
            count,
        )
        for law, q, count in draws
    ]
    return bound.delta(pairs, eps)


class Tally:
    """Values compared, and the largest true delta as a part of the stated one."""

    def __init__(self):
        self.ratios, self.seen = [], set()

    def check(self, eps, draws, delta, relation, *where):
        """A printed epsilon covers [(purpose, law, q, count), ...]."""
        draws = [draw[1:] for draw in draws]
        asked = (eps, *draws)
        if not draws or math.isinf(eps) or asked in self.seen:
            return
        self.seen.add(asked)
        ratio = true_delta(draws, eps, relation) / delta
        assert ratio <= 1 + ROUNDING, (ratio, eps, delta, relation, draws, where)
        self.ratios.append(ratio)

    def check_views(self, views, draws, delta, relation, *where):
        for view, values in views.items():
            for scope, eps in values.items():
                mine = [d for d in draws if scope in ("total", d[0])]
                if view == "server":  # who takes part is known
                    mine = [(purpose, law, 1.0, n) for purpose, law, _, n in mine]
                self.check(eps, mine, delta, relation, view, scope, *where)

    def report(self, schedules):
        near = sorted(self.ratios)[len(self.ratios) // 2]
        print(
            f"\n{schedules} schedules, {len(self.ratios)} values; true delta over stated delta:"
            f" at most {max(self.ratios):.6f}, median {near:.4f}"
        )
        assert len(self.ratios) >= schedules


def random_rate(rng):
    return rng.choice([1.0, 10 ** rng.uniform(-5, -3), 10 ** rng.uniform(-3, -0.3)])


def random_count(rng, q, z, most=20_000):
    most = max(1.0, min(most, 30 * (z / q) ** 2 + 5))
    return max(1, round(math.exp(rng.uniform(0, math.log(most)))))


def random_slots(rng, most=20_000, purposes=PURPOSES):
    slots = []
    for _ in range(rng.randint(1, 3)):
        q, z = random_rate(rng), 10 ** rng.uniform(-0.15, 0.9)
        slots.append(Slot(rng.choice(purposes), q, z, random_count(rng, q, z, most)))
    return slots


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(15))
def test_no_plan_of_slots_prints_less_than_the_truth(chunk):
    tally = Tally()
    for number in range(20):
        rng = random.Random(f"slots {chunk} {number}")
        slots, relation, delta = (
            random_slots(rng),
            rng.choice(RELATIONS),
            10 ** rng.uniform(-12, -5),
        )
        found = plan(slots, Budget(1e9, delta), relation=relation)
        draws = [(s.purpose, s.noise_multiplier, s.sampling_rate, s.count) for s in slots]
        views = {"released": found.released, "server": found.server}
        tally.check_views(views, draws, delta, relation, chunk, number)
    tally.report(20)


def random_release(rng, relation, kind):
    """A release, and the law of its noise; by the server or by clients, continuous or on a grid."""
    factor, z = Relation.parse(relation).sensitivity_factor, 10 ** rng.uniform(0, 0.9)
    if kind == "gaussian":
        return Release("sum", 1.0, float(factor), noise_std=z), z
    steps = rng.randint(20, 60)
    z = round(z * steps) / steps
    more = {"units": "grid", "noise_std": z * steps, "noise_kind": kind.partition(" ")[0]}
    if kind.endswith("clients"):
        more |= {"noise_party": "clients", "min_survivors": rng.randint(2, 40)}
    if more["noise_kind"] == "skellam":
        more["l1_sensitivity"] = float(factor * steps)
        return Release("sum", 1.0, float(factor * steps), **more), ((z * steps) ** 2, steps)
    # The hockey stick of discrete noise is not below that of continuous noise.
    return Release("sum", 1.0, float(factor * steps), **more), z


def random_draw(rng, relation):
    """(sampling, q, release, law) of one draw that a filter can hold."""
    by_server, by_clients = ("gaussian", "discrete_gaussian"), ("discrete_gaussian clients",)
    skellam = ("skellam", "skellam clients")
    if relation == "REPLACE_ONE":
        q = rng.choice([1.0, round(10 ** rng.uniform(1, 4.5)) / POPULATION])
        sampling, kinds = "fixed", (*by_server, *by_clients, *skellam)
    else:
        q = random_rate(rng)
        sampling, kinds = "poisson", (*by_server, "skellam")
        kinds = (*by_server, *by_clients, *skellam) if q == 1 else kinds
    return sampling, q, *random_release(rng, relation, rng.choice(kinds))


def terms_of(draw, relation):
    sampling, q, release, _ = draw
    relation = Relation.parse(relation)
    return draw_terms([release], relation, sampling, q, population=POPULATION)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(5))
def test_no_plan_on_a_filter_prints_less_than_the_truth(chunk):
    tally = Tally()
    for number in range(20):
        rng = random.Random(f"filter {chunk} {number}")
        relation, delta = rng.choice(("REPLACE_ONE", *RELATIONS)), 10 ** rng.uniform(-12, -5)
        schedule, draws = [], []
        for _ in range(rng.randint(1, 2)):
            draw, purpose = random_draw(rng, relation), rng.choice(PURPOSES)
            count = rng.randint(1, 300)
            schedule.append(Draws(purpose, terms_of(draw, relation), count))
            draws.append((purpose, draw[3], draw[1], count))
        found = quote(schedule, Budget(1e6, delta), relation=relation, accountant="rdp@4")
        views = {"released": found.released, "server": found.server}
        tally.check_views(views, draws, delta, relation, chunk, number)
    tally.report(20)


def spend(rng, ledger, draw, purpose, number, spent):
    """One reservation, which is voided, left, opened or committed; what is not voided counts."""
    sampling, q, release, law = draw
    reservation = ledger.reserve(
        purpose=purpose,
        sampling=sampling,
        sampling_rate=q,
        releases=[release],
        run_id="run",
        round=number,
        cohort_id=f"cohort {number}",
    )
    end = rng.choice(("void", "left", "open", "commit"))
    if end == "void":
        reservation.void()
        return
    if end != "left":
        reservation.open()
    if end == "commit":
        reservation.commit("00", survivors=release.min_survivors)
    spent.append((purpose, law, q, 1))


def check_ledger(tally, ledger, spent, *where):
    relation, delta = str(ledger.charter.relation), ledger.charter.budget.delta
    views = {view: ledger.spent(view) for view in ("released", "server")}
    if spent:
        tally.check_views(views, spent, delta, relation, *where)
        tally.check(ledger.charter.budget.epsilon, spent, delta, relation, "budget", *where)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(5))
def test_no_ledger_of_slots_prints_less_than_what_was_spent(chunk, tmp_path):
    """Draws with less sampling or more noise than their slots, on "pld" and on filters."""
    tally = Tally()
    for number in range(10):
        rng = random.Random(f"ledger {chunk} {number}")
        accountant = rng.choice(("pld", "rdp", "gdp", "zcdp"))
        relation, delta = rng.choice(RELATIONS), 10 ** rng.uniform(-12, -5)
        slots = random_slots(rng, most=20)
        if (
            accountant != "pld"
        ):  # a sample has a Renyi divergence under two relations, and no mu or rho
            rate = 1.0 if accountant != "rdp" or relation == "REPLACE_ONE" else None
            slots = [
                Slot(s.purpose, rate or s.sampling_rate, s.noise_multiplier, s.count) for s in slots
            ]
        planned = plan(slots, Budget(1e9, delta), relation=relation).released["total"]
        room = 1 + 1e-9 if accountant == "pld" else 3.0
        budget = Budget(planned * room + (0.0 if accountant == "pld" else 20.0) + 1e-9, delta)
        with Ledger.create(
            tmp_path / f"{number}.db",
            budget,
            population=POPULATION,
            slots=slots,
            relation=relation,
            accountant=accountant,
        ) as ledger:
            spent, factor = [], Relation.parse(relation).sensitivity_factor
            for slot in slots:
                for _ in range(rng.randint(0, slot.count)):
                    q = slot.sampling_rate * rng.choice((1.0, rng.uniform(0.5, 1)))
                    q = slot.sampling_rate if accountant != "pld" and slot.sampling_rate == 1 else q
                    z = slot.noise_multiplier * rng.choice((1.0, rng.uniform(1, 1.5)))
                    release = Release("sum", 1.0, float(factor), noise_std=z)
                    draw = ("poisson", q, release, z)
                    try:
                        spend(rng, ledger, draw, slot.purpose, len(list(ledger.find("run"))), spent)
                    except BudgetExceeded:  # a cheaper slot was spent on an earlier draw
                        break
            check_ledger(tally, ledger, spent, chunk, number)
            declared = [(s.purpose, s.noise_multiplier, s.sampling_rate, s.count) for s in slots]
            found = ledger.plan()
            views = {"released": found.released, "server": found.server}
            tally.check_views(views, declared, delta, relation, chunk, number)
            ledger.verify()
    tally.report(10)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(5))
def test_no_filter_admits_more_than_its_budget(chunk, tmp_path):
    """Draws until a filter refuses one, of all mechanisms and samplings, some of them voided."""
    tally = Tally()
    for number in range(10):
        rng = random.Random(f"admission {chunk} {number}")
        relation, delta = rng.choice(("REPLACE_ONE", *RELATIONS)), 10 ** rng.uniform(-12, -5)
        kinds = [(random_draw(rng, relation), rng.choice(PURPOSES)) for _ in range(2)]
        exact = all(d[1] == 1 and "skellam" not in d[2].noise_kind for d, _ in kinds)
        schedule = [
            Draws(purpose, terms_of(draw, relation), rng.randint(1, 6)) for draw, purpose in kinds
        ]
        needed = quote(
            schedule, Budget(1e6, delta), relation=relation, accountant="rdp@4"
        ).released["total"]
        budget = Budget(needed * rng.uniform(0.8, 1.5) + 0.1, delta)
        accountant = rng.choice(("gdp", "zcdp")) if exact and rng.random() < 0.5 else None
        accountant = accountant or filter_for(schedule, budget, relation=relation)
        with Ledger.create(
            tmp_path / f"{number}.db",
            budget,
            population=POPULATION,
            relation=relation,
            accountant=accountant,
        ) as ledger:
            spent, refused = [], 0
            for at in range(24):
                draw, purpose = rng.choice(kinds)
                try:
                    spend(rng, ledger, draw, purpose, at, spent)
                except BudgetExceeded:
                    refused += 1
                if refused > 1:
                    break
            check_ledger(tally, ledger, spent, chunk, number, accountant)
            ledger.verify()
    tally.report(10)
