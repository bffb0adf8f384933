"""`calibrated`: the mechanisms whose planned draws use up a budget exactly.

A ledger charges a draw for all its releases, with slightly less noise than stated, and for the
rounding of discrete noise. If the noise for a budget ignores this, the ledger refuses the plan or
its draws. So the search prices exactly the slots that the queries of the programs will declare.

>>> from privacy.execution.cohorts import PoissonSampling
>>> sampling = PoissonSampling(10_000, 0.01)
>>> found = calibrated(Budget(2.0, 1e-5), sampling, {"training": 1000}, clip_norm=0.5)
>>> round(found["training"].noise_multiplier, 2)
0.96

Sources: docs/ledger-slots.md, sections 1 and 2.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from privacy.accounting.calibration import least_noise
from privacy.accounting.pricing import price
from privacy.accounting.sizes import require_public_size, takes_everyone
from privacy.accounting.slots import MIN_GRID_STD, Slot, charged_std, slot_terms
from privacy.accounting.terms import FixedSizeGaussian, joint_noise_multiplier
from privacy.budgets import Budget, positive_count, positive_number
from privacy.errors import BudgetExceeded, MechanismError
from privacy.execution.aggregation import groups
from privacy.execution.cohorts import Sampling
from privacy.ledger.planning import Draws, best_load
from privacy.mechanisms.mechanisms import Gaussian, Mechanism
from privacy.mechanisms.privatization import PrivateProgram
from privacy.relations import Relation

# Numerical error of the prices of nearly equal noise.
_ROOM = 1 - 2e-6
Asked = int | tuple[int, int] | tuple[int, PrivateProgram]


def calibrated(
    budget: Budget,
    sampling: Sampling,
    draws: Mapping[str, Asked],
    *,
    clip_norm: float | Mapping[str, float] | None = None,
    like: Mechanism | Mapping[str, Mechanism] | None = None,
    purposes: Mapping[str, Budget] | None = None,
    shares: Mapping[str, float] | None = None,
    relation: str | Relation = Relation.ADD_OR_REMOVE_ONE,
) -> dict[str, Mechanism]:
    """The mechanism of each purpose for which all planned draws fit exactly into a budget.

    Guarantees:
      A new ledger with this budget, these purposes and this relation admits the slots that
      `Query.slot(sampling, count)` makes of programs with these mechanisms and, for cohorts of a
      fixed size, all draws under accountant=privacy.ledger.planning.filter_for(..., purposes=...).
      Noise that is smaller by a thousandth would be refused.

    Args:
      budget: The global budget.
      sampling: The sampling of the cohorts.
      draws: Purpose to the number of evaluations. A program that releases several times in one
        evaluation, or clips sums separately, is written (evaluations, releases), where sums that are clipped
        separately count each; or (evaluations, private program), privatized like `like`.
      clip_norm: The clip norm of every mechanism; not allowed together with `like`.
      like: A mechanism, or one for each purpose, that determines everything except the amount of
        noise: kind, clip norms, joint or separate clipping, grid, who adds the noise. Noise
        multipliers keep their ratios, between sums and, without shares, between purposes.
      purposes: Budgets of single purposes, as in `Ledger.create`.
      shares: Purpose to its share of the privacy loss; by default the ratios of noise multipliers
        are those of `like`, and all are equal with `clip_norm`.
      relation: Neighbouring relation of the ledger.

    Raises:
      MechanismError: The mechanisms are not Gaussian, or a purpose is unknown.
      SizeNotPublic: Clients add the noise, and the size of a cohort would be a secret.
      BudgetExceeded: No noise is enough.
    """
    relation, limits = Relation.parse(relation), dict(purposes or {})
    wanted = {
        name: _Wanted.of(name, asked, _template(name, like, clip_norm), sampling, relation)
        for name, asked in draws.items()
    }
    if not wanted:
        raise MechanismError("Expected draws for at least one purpose, got none.")
    weights = dict.fromkeys(wanted, 1.0)
    if shares is not None:
        if set(shares) != set(wanted):
            raise MechanismError(f"Expected shares for {sorted(wanted)}, got {sorted(shares)}.")
        for name, one in wanted.items():
            share = positive_number(shares[name], f"shares[{name!r}]")
            weights[name] = math.sqrt(one.count / share) / one.joint
    cost = _filter_load if _needs_filter(sampling) else _slot_load

    def load(factors: Mapping[str, float], limit: Budget) -> float:
        return cost([(wanted[n], f) for n, f in factors.items()], sampling, limit, relation)

    own = {
        name: _least(lambda f, n=name: load({n: f}, limits[n]), 1 / wanted[name].joint)
        for name in wanted
        if name in limits
    }

    def together(factor: float) -> dict[str, float]:
        return {name: max(factor * weights[name], own.get(name, 0.0)) for name in wanted}

    found = own
    if len(own) < len(wanted) or load(own, budget) > 1:
        loudest = min(weights[name] * one.joint for name, one in wanted.items())
        found = together(_least(lambda f: load(together(f), budget), 1 / loudest))
    if cost is _filter_load and own:
        found = _within_one_filter(found, wanted, sampling, budget, limits, relation)
    return {name: one.mechanism(found[name]) for name, one in wanted.items()}


def _within_one_filter(
    factors: Mapping[str, float],
    wanted: Mapping[str, "_Wanted"],
    sampling: Sampling,
    budget: Budget,
    limits: Mapping[str, Budget],
    relation: Relation,
) -> dict[str, float]:
    """The same noise, or more by one common factor if all budgets share one order."""

    def load(factor: float) -> float:
        plans = [(wanted[name], factor * own) for name, own in factors.items()]
        return _filter_load(plans, sampling, budget, relation, limits)

    grown = 1.0 if load(1.0) <= 1 else _least(load, 1.0)
    return {name: grown * own for name, own in factors.items()}


def _least(load: Callable[[float], float], guess: float) -> float:
    try:
        return least_noise(load, 1.0, guess, 1.5)
    except OverflowError as error:
        raise BudgetExceeded(
            "Expected a budget that holds the draws with some noise, got one that holds none at any."
            " Use a larger epsilon or fewer draws.",
            purpose=None,
            needed="any noise",
            left="nothing",
        ) from error


@dataclasses.dataclass(frozen=True)
class _Wanted:
    """The plan of one purpose.

    Attributes:
      purpose: Its name.
      count: Evaluations.
      template: The mechanism without the amount of noise.
      parts: Of each clipped group of one evaluation, its noise relative to the others' and its bound in
        grid steps.
    """

    purpose: str
    count: int
    template: Mechanism
    parts: tuple[tuple[float, float], ...]

    @classmethod
    def of(
        cls, name: str, asked: Asked, template: Mechanism, sampling: Sampling, relation: Relation
    ) -> "_Wanted":
        count, releases = asked if isinstance(asked, tuple) else (asked, 1)
        if template.by_clients:
            require_public_size(relation, sampling.kind, sampling.rate, sampling.population)
        if isinstance(releases, PrivateProgram):
            found = [g for release in releases.releases for g in groups(release, template)]
            parts = [(g.noise_std / g.bound, g.bound) for g in found]
        elif isinstance(template.noise_multiplier, Mapping):
            raise MechanismError(
                f"Expected a private program beside the draws of {name!r}, got {releases!r}: noise"
                " multipliers for separate sums need to know the sums. Pass (draws, privatize(...))."
            )
        else:  # rounding makes the true bound slightly larger, so this errs upwards
            one = (template.noise_multiplier, float(template.grid))
            parts = [one] * positive_count(releases, "releases")
        return cls(name, positive_count(count, "draws"), template, tuple(parts))

    @property
    def joint(self) -> float:
        """Joint multiplier of the template's own noise."""
        return joint_noise_multiplier([(ratio, 1) for ratio, _ in self.parts])

    def charged(self, factor: float) -> float:
        """Joint multiplier that a ledger charges for the template's noise times a factor."""
        factor = self._drawable(factor)
        stds = [(factor * ratio * bound, bound) for ratio, bound in self.parts]
        return joint_noise_multiplier(
            [(charged_std(std, "discrete_gaussian") / bound, 1) for std, bound in stds]
        )

    def mechanism(self, factor: float) -> Mechanism:
        """The template with its noise times a factor."""
        factor, noise = self._drawable(factor), self.template.noise_multiplier
        found = (
            {name: factor * z for name, z in noise.items()}
            if isinstance(noise, Mapping)
            else factor * noise
        )
        return dataclasses.replace(self.template, noise_multiplier=found)

    def _drawable(self, factor: float) -> float:
        """The factor, or the least one for which every sum has enough grid steps of noise."""
        least = (MIN_GRID_STD * (1 + 1e-9) / (ratio * bound) for ratio, bound in self.parts)
        return max(factor, *least)


_Plans = Sequence[tuple[_Wanted, float]]


def _slot_load(plans: _Plans, sampling: Sampling, budget: Budget, relation: Relation) -> float:
    """The share of a budget that the slots use."""
    slots = [Slot(one.purpose, sampling.rate, one.charged(f), one.count) for one, f in plans]
    found = price(slot_terms(slots), budget.delta, relation=relation)
    return found / (budget.epsilon * _ROOM)


def _filter_load(
    plans: _Plans,
    sampling: Sampling,
    budget: Budget,
    relation: Relation,
    limits: Mapping[str, Budget] | None = None,
) -> float:
    """The used share of a filter's capacity at the best order; with limits, of the fullest
    budget's.
    """
    size = round(sampling.expected_size)
    schedule = [
        Draws(
            one.purpose,
            ((FixedSizeGaussian(sampling.population, size, one.charged(factor)), 1),),
            one.count,
        )
        for one, factor in plans
    ]
    return best_load(schedule, budget, relation, limits) / _ROOM


def _needs_filter(sampling: Sampling) -> bool:
    everyone = takes_everyone(sampling.kind, sampling.rate, sampling.population)
    return sampling.kind == "fixed" and not everyone


def _template(
    name: str,
    like: Mechanism | Mapping[str, Mechanism] | None,
    clip_norm: float | Mapping[str, float] | None,
) -> Mechanism:
    if (like is None) == (clip_norm is None):
        raise MechanismError("Expected either clip_norm or like=..., a mechanism to go by.")
    if clip_norm is not None:
        return Gaussian(noise_multiplier=1.0, clip_norm=clip_norm)
    found = like.get(name) if isinstance(like, Mapping) else like
    if not isinstance(found, Gaussian):
        raise MechanismError(
            f"Expected a privacy.Gaussian to go by for {name!r}, got {found!r}. Skellam noise is"
            " planned with privacy.ledger.planning.noise_that_fits."
        )
    return found
