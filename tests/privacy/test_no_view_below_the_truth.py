"""Random schedules: no printed epsilon, in any view, is below an independent reference.

Slow profile; prints how many values were compared, and how far above the truth they were.
"""

import importlib.util
import math
import random
from pathlib import Path

import pytest

from privacy import Budget, Ledger, Slot
from privacy.accounting import gaussian_epsilon
from privacy.relations import Relation
from privacy.slots import plan

_spec = importlib.util.spec_from_file_location(
    "reference_pld", Path(__file__).with_name("reference_pld.py")
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

NOISE = 1e-5
CHUNKS, SCHEDULES = 25, 20


def random_schedule(rng):
    """Slots of up to three types, relation and delta; not so rare that the reference is slow."""
    slots = []
    for _ in range(rng.randint(1, 3)):
        q = rng.choice([1.0, 10 ** rng.uniform(-3, -0.3), 10 ** rng.uniform(-2, -0.3)])
        z = 10 ** rng.uniform(-0.15, 0.9)
        most = min(20_000, 30 * (z / q) ** 2 + 5)
        least = min(most, 2 / q)
        count = round(math.exp(rng.uniform(math.log(least), math.log(most))))
        purpose = rng.choice(["training", "hypergradient", "evaluation"])
        slots.append(Slot(purpose, q, z, max(1, count)))
    relation = rng.choice(["ADD_OR_REMOVE_ONE", "REPLACE_ONE"])
    return slots, relation, 10 ** rng.uniform(-12, -5)


def check(value, slots, relation, delta, view):
    """True delta over the stated one at a printed epsilon; None if the reference does not settle."""
    types = [
        (s.noise_multiplier, s.sampling_rate if view == "released" else 1.0, s.count) for s in slots
    ]
    if all(q == 1 for _, q, _ in types):
        factor = Relation.parse(relation).sensitivity_factor
        mu = factor * math.sqrt(sum(n / z**2 for z, _, n in types))
        assert value >= gaussian_epsilon(mu, delta * (1 + NOISE)) * (1 - NOISE)
        if mu < 30:
            ratio = float(reference.gaussian_delta(mu, value)) / delta if value > 0 else 1.0
            assert ratio <= 1 + NOISE
        return 1.0
    if value < 1e-3:
        return None
    return reference.largest_delta(types, value, relation) / delta


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_view_prints_less_than_the_truth(chunk, tmp_path):
    compared, unsettled, slack = 0, 0, []
    for number in range(SCHEDULES):
        rng = random.Random(chunk * SCHEDULES + number)
        slots, relation, delta = random_schedule(rng)
        found = plan(slots, Budget(1e9, delta), relation=relation)
        for view, values in (("released", found.released), ("server", found.server)):
            for scope, value in values.items():
                mine = [s for s in slots if scope in ("total", s.purpose)]
                ratio = check(value, mine, relation, delta, view)
                if ratio is None or math.isnan(ratio):
                    unsettled += 1
                    continue
                assert ratio <= 1 + NOISE, (slots, relation, delta, view, scope, value)
                slack.append(1 - ratio)
                compared += 1
        if number == 0:  # a ledger with the same slots prints the same when all are spent
            budget = Budget(found.released["total"] * (1 + 1e-9), delta)
            file = tmp_path / f"{number}.db"
            with Ledger.create(
                file, budget, population=1000, slots=slots, relation=relation
            ) as ledger:
                assert ledger.plan().released == found.released
    print(
        f"{SCHEDULES} schedules, {compared} values at or above the truth, {unsettled} not decided;"
        f" delta there at least {1 - max(slack):.4f} of the stated one"
    )
    assert compared > 4 * unsettled
