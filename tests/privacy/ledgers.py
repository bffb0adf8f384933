"""A ledger with a small plan, and charges to it, for tests of the ledger."""

import itertools

from privacy import Budget, Release, Slot

BUDGET = Budget(8.0, 1e-5)
PLAN = (
    Slot("training", 0.01, 1.0, 4),
    Slot("training", 0.1, 4.0, 2),
    Slot("evaluation", 0.1, 9.0, 1),
)
cohorts = (f"cohort {number}" for number in itertools.count())


def release(z=1.0, name="delta", **more):
    return Release(name, clip_norm=2.0, sensitivity=2.0, noise_std=2.0 * z, **more)


def reserve(ledger, *, purpose="training", q=0.01, z=1.0, round=0, **more):
    fields = {"run_id": "run", "cohort_id": next(cohorts), "releases": [release(z)], **more}
    return ledger.reserve(purpose=purpose, sampling_rate=q, round=round, **fields)


def finish(draw):
    draw.open()
    draw.commit("00")
    return draw
