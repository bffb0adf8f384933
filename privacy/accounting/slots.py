"""Slots: planned releases, priced once and spent in any order.

A plan is a multiset of slots. It is priced once, by the tightest accountant, before any output is
seen; afterwards a release spends one slot that *dominates* it: the same relation and noise family,
a sampling rate no larger and an effective noise multiplier no smaller. The slot, the time and the
query may depend on everything seen so far: docs/ledger-slots.md proves that the plan's price still
holds.

The effective multiplier of a cohort's releases is computed here from noise and sensitivity, never
taken from the caller: z = (sum over groups of max over sums (Delta_k / sigma_k)^2)^(-1/2). Sums in
one group are clipped jointly (the norm of the concatenation of x_k / C_k is at most 1), so only the
worst direction counts; sums in different groups add.

>>> sums = [Release(name, 1.0, 1.0, noise_std=3.0, group="all") for name in ("a", "b", "c")]
>>> round(effective_noise_multiplier(sums, Relation.ADD_OR_REMOVE_ONE), 12)
3.0

Sources: Dong, Roth, Su (2022); McMahan et al. (2018) for joint clipping of several sums.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from privacy.accounting import events
from privacy.accounting import terms as elementary
from privacy.accounting.pricing import price
from privacy.accounting.terms import Terms
from privacy.budgets import (
    Budget,
    positive_count,
    positive_number,
    sampling_probability,
)
from privacy.checking import expect, refusal
from privacy.errors import InvalidEvent, UnsupportedEvent
from privacy.noise.samplers import check_noise
from privacy.relations import Relation

TOTAL = "total"
# Fewest grid steps of discrete noise on a sum, and of one client's share of it.
MIN_GRID_STD = 8.0
MIN_SHARE_STD = 2.5
# A discrete Gaussian is a randomised rounding of a continuous one whose variance is smaller by this
# (docs/ledger-slots.md, section 1), as which it is charged.
_ROUNDING_VARIANCE = 4.0
# Slots are priced with this much less noise, so that rounding errors of z and noise on a fine grid
# still fit a slot of the same z. This changes epsilon by a few parts in a million.
_PRICING_SLACK = 1e-6
_MAX_REPORT_TYPES = 64


def check_name(value: Any, what: str) -> str:
    """Returns value as a non-empty string of at most 200 characters that can be written in UTF-8."""
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not _encodes(value):
        raise InvalidEvent(f"Expected {what} as a string of 1 to 200 characters, got {value!r}.")
    return value


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False


@dataclass(frozen=True)
class Slot:
    """`count` planned cohort draws, each with all releases on that draw.

    Attributes:
      purpose: Whose budget pays.
      sampling_rate: Upper bound of the Poisson rate q of a draw; 1 means everyone.
      noise_multiplier: Lower bound of the joint effective multiplier of a draw's releases.
      count: Number of draws.
    """

    purpose: str
    sampling_rate: float
    noise_multiplier: float
    count: int

    def __post_init__(self):
        if check_name(self.purpose, "a purpose") == TOTAL:
            raise InvalidEvent(f"Expected a purpose other than {TOTAL!r}, which names the sum.")
        object.__setattr__(self, "sampling_rate", sampling_probability(self.sampling_rate))
        z = positive_number(self.noise_multiplier, "a slot's noise_multiplier")
        object.__setattr__(self, "noise_multiplier", z)
        object.__setattr__(self, "count", positive_count(self.count, "a slot's count"))

    @property
    def weight(self) -> float:
        """The order of slots by the cost of one draw: a release spends the cheapest that fits."""
        return self.sampling_rate**2 * math.expm1(min(self.noise_multiplier**-2, 700.0))


@dataclass(frozen=True)
class Release:
    """One noisy sum that leaves the trusted boundary.

    Attributes:
      name: The sum's name in the program.
      clip_norm: Bound C of a client's contribution, in the model's units.
      sensitivity: Delta, the change of the sum by one client under the ledger's relation, in
        `units`; after rounding to a grid it exceeds clip_norm times the scale.
      noise_std: Standard deviation sigma per coordinate, in `units`; for noise added by clients,
        that of the smallest allowed number of honest survivors.
      noise_party: "server" or "clients".
      units: "model" (floats) or "grid" (integer steps).
      group: Sums that are clipped jointly share a group; None if clipped separately.
      noise_kind: "gaussian", or "discrete_gaussian" on integers: needs units="grid" and a std of at
        least 8 steps, and 2.5 for each client's share if clients add it; or "skellam" on integers.
      min_survivors: Fewest survivors for which the noise was sized; required for discrete noise by
        clients.
      l1_sensitivity: The change of the integers by one client in L1 norm; required for Skellam
        noise.
    """

    name: str
    clip_norm: float
    sensitivity: float
    noise_std: float
    noise_party: Literal["server", "clients"] = "server"
    units: Literal["model", "grid"] = "model"
    group: str | None = None
    noise_kind: Literal["gaussian", "discrete_gaussian", "skellam"] = "gaussian"
    min_survivors: int | None = None
    l1_sensitivity: float | None = None

    def __post_init__(self):
        check_name(self.name, "a release's name")
        for field in ("clip_norm", "sensitivity", "noise_std"):
            value = positive_number(getattr(self, field), f"{field} of release {self.name!r}")
            object.__setattr__(self, field, value)
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in allowed:
                raise InvalidEvent(
                    f"Expected {field} among {allowed}, got {getattr(self, field)!r}"
                    f" in release {self.name!r}."
                )
        if self.group is not None:
            check_name(self.group, "a release's group")
        if self.min_survivors is not None:
            count = positive_count(self.min_survivors, "min_survivors")
            object.__setattr__(self, "min_survivors", count)
        if self.noise_kind == "discrete_gaussian":
            self._check_discrete()
        if self.noise_kind == "skellam":
            self._check_skellam()
        if self.noise_kind != "gaussian":  # what cannot be drawn is refused before it is charged
            check_noise(self.noise_kind, self.noise_std / math.sqrt(self.min_survivors or 1))

    def _check_skellam(self) -> None:
        l1 = positive_number(self.l1_sensitivity, f"l1_sensitivity of release {self.name!r}")
        object.__setattr__(self, "l1_sensitivity", l1)
        if self.units != "grid" or l1 < self.sensitivity:
            raise InvalidEvent(
                "Expected Skellam noise with units='grid' and an l1_sensitivity of at least the"
                f" sensitivity {self.sensitivity:g}, got {l1:g} {self.units} units in release"
                f" {self.name!r}. Use privacy.noise.quantization.integer_l1_bound."
            )
        if self.noise_party == "clients" and self.min_survivors is None:
            raise InvalidEvent(
                f"Expected min_survivors for noise by clients, got none in release {self.name!r}."
            )

    def _check_discrete(self) -> None:
        if self.units != "grid" or self.noise_std < MIN_GRID_STD:
            raise InvalidEvent(
                f"Expected discrete noise of at least {MIN_GRID_STD:g} grid steps with units='grid',"
                f" got {self.noise_std} {self.units} units in release {self.name!r}."
                " Use a finer encoding scale."
            )
        if self.noise_party == "server":
            return
        share = self.noise_std / math.sqrt(self.min_survivors) if self.min_survivors else 0.0
        if share < MIN_SHARE_STD:
            raise InvalidEvent(
                f"Expected noise by clients with min_survivors and shares of at least"
                f" {MIN_SHARE_STD:g} grid steps, got min_survivors={self.min_survivors} and shares of"
                f" {share:g} steps in release {self.name!r}. Use a finer encoding scale."
            )

    @property
    def charged_std(self) -> float:
        """Standard deviation of the continuous Gaussian as which the noise is charged; for Skellam
        noise, its own standard deviation.
        """
        return charged_std(self.noise_std, self.noise_kind)

    @property
    def clipped_with(self) -> str:
        """The same for all sums that are clipped jointly."""
        return f"sum {self.name}" if self.group is None else f"group {self.group}"

    def record(self) -> dict[str, Any]:
        """The release as JSON, for the ledger."""
        return asdict(self)


_CHOICES = {
    "noise_party": ("server", "clients"),
    "units": ("model", "grid"),
    "noise_kind": ("gaussian", "discrete_gaussian", "skellam"),
}


def charged_std(noise_std: float, noise_kind: str) -> float:
    """The charged standard deviation of noise; slightly less for discrete Gaussian noise.

    Raises:
      InvalidEvent: Discrete noise of fewer than 8 grid steps.
    """
    if noise_kind != "discrete_gaussian":
        return noise_std
    if noise_std < MIN_GRID_STD:
        raise InvalidEvent(
            f"Expected discrete noise of at least {MIN_GRID_STD:g} grid steps, got {noise_std:g}."
            " Use a finer encoding scale (grid=) or more noise."
        )
    return math.sqrt(noise_std**2 - _ROUNDING_VARIANCE)


def effective_noise_multiplier(
    releases: Sequence[Release], relation: Relation, *, charged: bool = False
) -> float:
    """The z of the one Gaussian that is equivalent to all releases on one cohort draw.

    Guarantees:
      Under the relation, the releases' joint privacy loss is that of one Gaussian sum with noise
      multiplier z (noise over per-client norm), sampled as the cohort was. For discrete noise this
      holds exactly for charged=True, and otherwise up to the fineness of the grid.

    Raises:
      InvalidEvent: No releases, repeated names, or a sensitivity below what the relation and the
        clip norm imply.

    Source: docs/ledger-slots.md, section 1.
    """
    expect_all(releases, Release, "releases", "Pass [privacy.Release(...)].")
    names = [release.name for release in releases]
    if not names or len(set(names)) != len(names):
        raise InvalidEvent(f"Expected at least one release, with distinct names; got {names}.")
    factor = relation.sensitivity_factor
    groups: dict[str, float] = {}
    for release in releases:
        least = factor * release.clip_norm * (1 - 1e-12)
        if release.units == "model" and release.sensitivity < least:
            raise InvalidEvent(
                f"Expected a sensitivity of at least {factor} x clip_norm = {least:g} under"
                f" {relation}, got {release.sensitivity} in release {release.name!r}."
                " Pass the sensitivity of the relation that the ledger was created with."
            )
        key = release.clipped_with
        std = release.charged_std if charged else release.noise_std
        ratio = release.sensitivity / factor / std
        groups[key] = max(groups.get(key, 0.0), ratio)
    return elementary.joint_noise_multiplier([(1 / ratio, 1) for ratio in groups.values()])


def expect_all(values: Any, kind: type, what: str, advice: str) -> None:
    """Refuses a value that is not a sequence of a type."""
    if isinstance(values, kind) or not isinstance(values, Sequence) or isinstance(values, str):
        raise refusal(values, what, f"a sequence of {kind.__name__}s", advice, InvalidEvent)
    for value in values:
        expect(value, kind, f"each of {what}", f"a {kind.__name__}", advice, InvalidEvent)


def slot_terms(slots: Iterable[Slot]) -> Terms:
    """The plan's mechanisms, with slightly less noise than declared."""
    pairs = []
    for slot in slots:
        z = slot.noise_multiplier * (1 - _PRICING_SLACK)
        pairs.append((elementary.GaussianTerm(z, slot.sampling_rate), slot.count))
    return elementary.make_terms(pairs)


def fits_multiplier(noise_multiplier: float) -> float:
    """The largest slot multiplier that a release of this multiplier may spend."""
    return noise_multiplier / (1 - _PRICING_SLACK / 2)


def without_sampling(terms: Terms) -> Terms:
    """The same mechanisms from the view of a server that knows who takes part (q = 1)."""
    pairs: list[tuple[elementary.Leaf, int]] = []
    for leaf, count in terms:
        if isinstance(leaf, elementary.GaussianTerm | elementary.FixedSizeGaussian):
            leaf = elementary.GaussianTerm(leaf.noise_multiplier)
        elif isinstance(leaf, elementary.SkellamTerm):
            leaf = dataclasses.replace(leaf, q=1.0)
        elif isinstance(leaf, elementary.FixedSizeSkellam):
            leaf = leaf.noise
        pairs.append((leaf, count))
    return elementary.make_terms(pairs)


def tally_key(terms: Terms) -> str:
    """The event under which a draw is counted: q rounded up and z down to three digits, for few
    types.
    """
    pairs: list[tuple[elementary.Leaf, int]] = []
    for leaf, count in terms:
        if isinstance(leaf, elementary.GaussianTerm):
            leaf = elementary.GaussianTerm(
                _three_digits(leaf.noise_multiplier, math.floor),
                min(1.0, _three_digits(leaf.q, math.ceil)),
            )
        pairs.append((leaf, count))
    return events.canonical_json(events.event_of(elementary.make_terms(pairs))).decode()


def _three_digits(value: float, rounding: Callable[[float], int]) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    near = round(value / step) * step
    return near if math.isclose(near, value, rel_tol=1e-12) else rounding(value / step) * step


def report(terms: Terms, delta: float, relation: Relation) -> float:
    """Epsilon for a report, of any mixture of mechanisms.

    Uses privacy loss distributions if all mechanisms have one. Otherwise it returns the smaller of
    two bounds: Renyi divergences for all, or Renyi divergences only for the mechanisms without a
    loss distribution, with half of delta for each kind.

    Raises:
      UnsupportedEvent: A mechanism has no bound at all under the relation.
    """
    kinds = elementary.FixedSizeGaussian | elementary.SkellamTerm | elementary.FixedSizeSkellam
    without = tuple(pair for pair in terms if isinstance(pair[0], kinds))
    rest = tuple(pair for pair in terms if pair not in without)
    bounds: list[float] = []
    if without or len(terms) > _MAX_REPORT_TYPES:
        with contextlib.suppress(UnsupportedEvent):
            bounds.append(price(terms, delta, accountant="rdp", relation=relation))
    if without and rest:
        with contextlib.suppress(UnsupportedEvent):
            apart = price(without, delta / 2, accountant="rdp", relation=relation)
            bounds.append(apart + price(rest, delta / 2, relation=relation))
    if bounds:
        return min(bounds)
    return price(terms, delta, accountant="rdp" if without else "pld", relation=relation)


@dataclass(frozen=True)
class Plan:
    """The planned cost of a schedule.

    Attributes:
      released: Epsilon by purpose and in total for observers of the releases only.
      server: The same for a server that sees who takes part: no amplification by sampling.
      fits: Whether it fits every purpose's budget and the global one.
      accountant: The accountant that admits it: "pld" for slots, or a filter.
    """

    released: Mapping[str, float]
    server: Mapping[str, float]
    fits: bool
    accountant: str = "pld"


def by_purpose(parts: Iterable[tuple[str, Terms]]) -> dict[str, Terms]:
    """The mechanisms of each purpose, and of all under "total", from parts with their purposes."""
    scopes: dict[str, list[tuple[elementary.Leaf, int]]] = {TOTAL: []}
    for purpose, terms in parts:
        scopes.setdefault(purpose, []).extend(terms)
        scopes[TOTAL].extend(terms)
    return {scope: elementary.make_terms(pairs) for scope, pairs in sorted(scopes.items())}


def quoted(
    parts: Iterable[tuple[str, Terms]],
    budget: Budget,
    purposes: Mapping[str, Budget],
    relation: Relation,
) -> Plan:
    """The price of mechanisms with their purposes in both views, each at its budget's delta."""
    released, server, fits = {}, {}, True
    for scope, terms in by_purpose(parts).items():
        own = {**purposes, TOTAL: budget}.get(scope, budget)
        released[scope] = report(terms, own.delta, relation)
        server[scope] = report(without_sampling(terms), own.delta, relation)
        fits &= released[scope] <= own.epsilon
    return Plan(released, server, fits)


def plan(
    slots: Sequence[Slot],
    budget: Budget,
    *,
    purposes: Mapping[str, Budget] | None = None,
    relation: str | Relation = Relation.ADD_OR_REMOVE_ONE,
) -> Plan:
    """Prices a schedule by PLD in both views; see `Plan`."""
    parts = [(slot.purpose, slot_terms([slot])) for slot in slots]
    return quoted(parts, budget, purposes or {}, Relation.parse(relation))
