"""Clip activity: whether a clip bound binds nearly always or hardly ever, from released sums alone.

A bound far above what clients send wastes budget: noise is scaled to the bound. A bound that binds for
everyone throws the lengths of contributions away. Clients' norms are private, but the released sum is
not: its norm, less what noise adds to it, says how long contributions are on average *along the sum*.

    |sum| > HIGH * cohort   only if contributions have nearly the bound's length and agree
    |sum| < LOW * cohort    only if they are far shorter than the bound, or cancel each other

With adaptive clipping the number of clients below the bound is itself released and charged, which
answers the question without "or cancel". A finding is made only if noise and the unknown size of the
cohort explain it with at most the stated probability; otherwise nothing is said. Small cohorts and
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
# A count says "hardly ever" if at most this share of clients is clipped, "nearly always" if at most
# this share is not.
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
    """What released sums say about one clip bound.

    Attributes:
      sums: Names of the sums that share the bound.
      share: Estimate of the contributions' mean length along the sum, in units of the bound; for a
        count, of the share of clients that are clipped.
      finding: "nearly always" or "hardly ever" active, or "" for no verdict.
      false_alarm: Probability of a finding, over noise and cohorts, where it is not so.
      releases: How many releases were looked at.
    """

    sums: tuple[str, ...]
    share: float
    finding: Finding
    false_alarm: float
    releases: int

    @property
    def statement(self) -> str:
        """The finding as a sentence, with what to do; "" without one."""
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
    """The squared norm of every released sum in units of its bound, for `metrics.jsonl`.

    Args:
      private_program: What was evaluated.
      rounds: For every round, the released sums.
    """
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
    """Judges every bound of a program by all its evaluations; see `activity_of_norms`.

    Args:
      private_program: What was evaluated.
      records: What `norm_squares` gave for each evaluation.
      sampling: How cohorts were drawn.
    """
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
            # In units of the indicator; every client has one, so its own bound always binds.
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
      If in no release the contributions' sum is longer than HIGH times the number of clients asked,
      in bounds, "nearly always" is found with probability at most `false_alarm`; if in no release it
      is shorter than LOW times that, so is "hardly ever". Valid for rounds that depend on earlier
      releases, if looked at once.

    Args:
      squares: Squared norm of each noisy sum, in units of the bound.
      sums: Their names.
      size: Numbers in a sum.
      std: Standard deviation of the noise, in units of the bound; the smallest possible.
      sampling: How cohorts were drawn.
      spread: Largest possible over smallest standard deviation of the noise.
      answering: Smallest share of a cohort that answers.
      false_alarm: See above.
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
    if count and total > high:
        finding = "nearly always"
    elif count and total < low:
        finding = "hardly ever"
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
      If in no release more than 1 - RARE of the cohort is below the bound, "hardly ever" is found with
      probability at most `false_alarm`; if in no release fewer than RARE of it are, so is "nearly
      always". Valid for rounds that depend on earlier releases, if looked at once.

    Args:
      counts: Noisy sum over clients of a half where the norm is below the bound, less a half elsewhere.
      sums: Names of what is clipped.
      std: Standard deviation of the noise on a sum.
      sampling: How cohorts were drawn.
      false_alarm: See above.
    """
    rounds, total = len(counts), math.fsum(counts)
    _, most = cohort_range(sampling, false_alarm / 2, draws=rounds)
    limit = (0.5 - RARE) * most + std * math.sqrt(2 * rounds * math.log(2 / false_alarm))
    finding: Finding = ""
    if rounds and total > limit:
        finding = "hardly ever"
    elif rounds and total < -limit:
        finding = "nearly always"
    below = 0.5 + total / max(rounds, 1) / sampling.expected_size
    return ClipActivity(sums, 1.0 - min(1.0, max(0.0, below)), finding, false_alarm, rounds)


def cohort_range(sampling: Sampling, failure: float, draws: int = 1) -> tuple[float, float]:
    """Fewest and most clients in so many draws, each side left with at most this probability."""
    mean = draws * sampling.expected_size
    if sampling.kind != "poisson" or sampling.rate == 1:
        return mean, mean
    exponent = math.log(1 / failure)
    margin = math.sqrt(2 * mean * (1 - sampling.rate) * exponent) + exponent / 3
    return max(0.0, mean - margin), mean + margin


def noise_square_above(*, size: int, std: float, mean: float, exponent: float) -> float:
    """What |m + noise|^2 exceeds with probability at most exp(-exponent), for |m| <= mean."""
    spread = math.sqrt((std**4 * size + 2 * (std * mean) ** 2) * exponent)
    return std**2 * size + mean**2 + 2 * spread + 2 * std**2 * exponent
