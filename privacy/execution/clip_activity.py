"""Clip activity: estimates from released sums whether a clip bound is active nearly always or
hardly ever.

A bound far above the contributions wastes budget, because noise scales with the bound. A bound that
is active for everyone discards the lengths of contributions. The norms of clients are private, but
the released sum is not. Its norm, corrected for the noise, estimates the mean length of
contributions *along the sum*.

    |sum| > HIGH * cohort   only if contributions have nearly the bound's length and agree
    |sum| < LOW * cohort    only if they are far shorter than the bound, or cancel each other

With adaptive clipping the number of clients below the bound is itself released and charged. This
count excludes the case "or cancel". A finding is made only if noise and the unknown cohort size
explain it with at most the stated probability; otherwise there is no finding. Small cohorts and
large models often give no verdict.

>>> round(noise_square_above(size=1, std=1.0, mean=0.0, exponent=math.log(1e6)), 1)
36.1

Sources: Birgé (2001), lemma 8.1, for noncentral chi-square tails; Bernstein's inequality for the size
of a cohort; Andrew et al. (2021) for the count.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from privacy.execution.aggregation import groups
from privacy.execution.cohorts import Sampling
from privacy.mechanisms.adaptive import COUNT
from privacy.mechanisms.privatization import PrivateProgram

HIGH, LOW = 0.9, 0.1
# A count gives "hardly ever" if at most this share of clients is clipped, and "nearly always" if at
# most this share is not.
RARE = 0.05
FALSE_ALARM = 1e-3
Finding = Literal["", "nearly always", "hardly ever"]

_ADVICE = {
    "nearly always": "Raise clip_norm, or let clients take smaller steps: of what they send, only the "
    "direction is left.",
    "hardly ever": "Lower clip_norm, and noise falls with it at the same epsilon; if contributions cancel "
    "each other instead, ask larger cohorts.",
}


@dataclass(frozen=True)
class ClipActivity:
    """The estimate for one clip bound from released sums.

    Attributes:
      sums: Names of the sums that share the bound.
      share: Estimated mean length of the contributions along the sum, in units of the bound; for a
        count, the estimated share of clipped clients.
      finding: "nearly always" or "hardly ever" active, or "" for no verdict.
      false_alarm: Probability of a false finding, over noise and cohorts.
      releases: Number of releases used.
    """

    sums: tuple[str, ...]
    share: float
    finding: Finding
    false_alarm: float
    releases: int

    @property
    def statement(self) -> str:
        """The finding as a sentence with a remedy; "" without a finding."""
        if not self.finding:
            return ""
        found = f"contributions have {self.share:.2f} of its length along their sum"
        if self.sums == (COUNT,):
            found = f"it clips {self.share:.0%} of the clients, by their released count"
        return (
            f"The clip bound of {', '.join(self.sums)} is {self.finding} active: {found} ({self.releases} "
            f"releases, false alarm at most {self.false_alarm:g}). {_ADVICE[self.finding]}"
        )


def norm_squares(
    private_program: PrivateProgram, rounds: Sequence[Sequence[np.ndarray]]
) -> list[dict[str, Any]]:
    """The squared norm of every released sum in units of its bound, for `metrics.jsonl`."""
    found = []
    for release, values in zip(private_program.releases, rounds, strict=True):
        sizes = [planned.size for planned in release.sums]
        flat = np.concatenate([np.asarray(v, np.float64).ravel() for v in values])
        flat /= np.repeat([planned.clip_norm for planned in release.sums], sizes)
        edges = np.cumsum([0, *sizes])
        for group in groups(release, private_program.mechanism):
            own = flat[edges[group.first] : edges[group.last]]
            names = [planned.name for planned in release.sums[group.first : group.last]]
            record = {"sums": names, "norm_square": float(own @ own)}
            if names == [COUNT]:
                record["count"] = float(own[0]) * release.sums[group.first].clip_norm
            found.append(record)
    return found


def clip_activity(
    private_program: PrivateProgram,
    records: Sequence[Sequence[Mapping[str, Any]]],
    sampling: Sampling,
) -> tuple[ClipActivity, ...]:
    """Judges every bound of a program by the `norm_squares` of all its evaluations."""
    mechanism = private_program.mechanism
    parts = [group for release in private_program.releases for group in groups(release, mechanism)]
    by_clients = mechanism.record()["noise"] == "distributed"
    fewest = max(1, math.floor(cohort_range(sampling, FALSE_ALARM)[0]))
    spread = (fewest / mechanism.guaranteed_survivors(fewest)) ** 0.5 if by_clients else 1.0
    found = []
    for index, part in enumerate(parts):
        names = tuple(planned.name for planned in part.release.sums[part.first : part.last])
        std = part.noise_std / mechanism.grid
        if names == (COUNT,):
            # In units of the indicator; every client has one, so its own bound is always active.
            unit = part.release.sums[part.first].clip_norm
            counts = [record[index]["count"] for record in records]
            spread_std = std * unit * spread
            found.append(activity_of_counts(counts, sums=names, std=spread_std, sampling=sampling))
            continue
        found.append(
            activity_of_norms(
                [record[index]["norm_square"] for record in records],
                sums=names,
                size=part.size,
                std=std,
                sampling=sampling,
                spread=spread,
                answering=mechanism.honest_survivors,
            )
        )
    return tuple(found)


def activity_of_norms(
    squares: Sequence[float],
    *,
    sums: tuple[str, ...],
    size: int,
    std: float,
    sampling: Sampling,
    spread: float = 1.0,
    answering: float = 1.0,
    false_alarm: float = FALSE_ALARM,
) -> ClipActivity:
    """Judges a bound by the squared norms of the noisy sums it was used for.

    Guarantees:
      If in no release the norm of the sum, in units of the bound, exceeds HIGH times the number of
      clients asked, the probability of "nearly always" is at most `false_alarm`. If in no release
      it is below LOW times that number, the same holds for "hardly ever". Valid for rounds that
      depend on earlier releases, if evaluated once.

    Squared norms and the smallest possible deviation `std` of the noise are in units of the bound;
    `size` counts the entries of a sum, `spread` is the largest over the smallest possible deviation,
    and `answering` the smallest share of a cohort that answers.
    """
    count, total = len(squares), math.fsum(squares)
    exponent = math.log(2 / false_alarm)
    fewest, most = cohort_range(sampling, false_alarm / 2 / max(count, 1))
    width, widest = count * size, std * spread
    longest = math.sqrt(count) * HIGH * most
    shortest = math.sqrt(count) * LOW * fewest * answering
    high = noise_square_above(size=width, std=widest, mean=longest, exponent=exponent)
    deviation = 2 * math.sqrt((widest**4 * width + 2 * (widest * shortest) ** 2) * exponent)
    low = std**2 * width + shortest**2 - deviation
    finding: Finding = ""
    if count and (total > high or total < low):
        finding = "nearly always" if total > high else "hardly ever"
    mean = max(0.0, total / max(count, 1) - std**2 * size) ** 0.5 / sampling.expected_size
    return ClipActivity(sums, mean, finding, false_alarm, count)


def activity_of_counts(
    counts: Sequence[float],
    *,
    sums: tuple[str, ...],
    std: float,
    sampling: Sampling,
    false_alarm: float = FALSE_ALARM,
) -> ClipActivity:
    """Judges a bound by the released counts of `privacy.mechanisms.adaptive`.

    Guarantees:
      If in no release more than 1 - RARE of the cohort is below the bound, the probability of
      "hardly ever" is at most `false_alarm`. If in no release less than RARE of it is, the same
      holds for "nearly always". Valid for rounds that depend on earlier releases, if evaluated
      once.

    A count is a sum over clients of plus a half if the norm is below the bound, else minus a half,
    with noise of standard deviation `std`.
    """
    rounds, total = len(counts), math.fsum(counts)
    _, most = cohort_range(sampling, false_alarm / 2, draws=rounds)
    limit = (0.5 - RARE) * most + std * math.sqrt(2 * rounds * math.log(2 / false_alarm))
    finding: Finding = ""
    if rounds and abs(total) > limit:
        finding = "hardly ever" if total > 0 else "nearly always"
    below = 0.5 + total / max(rounds, 1) / sampling.expected_size
    return ClipActivity(sums, 1.0 - min(1.0, max(0.0, below)), finding, false_alarm, rounds)


def cohort_range(sampling: Sampling, failure: float, draws: int = 1) -> tuple[float, float]:
    """Bounds on the fewest and most clients in a number of draws, each side with this error
    probability.
    """
    mean = draws * sampling.expected_size
    if sampling.kind != "poisson" or sampling.rate == 1:
        return mean, mean
    exponent = math.log(1 / failure)
    margin = math.sqrt(2 * mean * (1 - sampling.rate) * exponent) + exponent / 3
    return max(0.0, mean - margin), mean + margin


def noise_square_above(*, size: int, std: float, mean: float, exponent: float) -> float:
    """The value that |m + noise|^2 exceeds with probability at most exp(-exponent), for |m| <=
    mean.
    """
    spread = math.sqrt((std**4 * size + 2 * (std * mean) ** 2) * exponent)
    return std**2 * size + mean**2 + 2 * spread + 2 * std**2 * exponent
