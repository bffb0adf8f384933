"""Sizes: where clients add the noise, how many they are is public.

The shares of n clients have n times the variance of one, so that a release of many numbers tells n. One
client more is then one client *replaced* among n, and a Poisson sample hides nothing by its size:
amplification by it is no bound, under any relation, and q = 1 is none either. What stays a bound is a
size that is the same in both worlds: everyone, or a sample of fixed size under REPLACE_ONE.

>>> size_of("fixed", 0.3, 200)
60
>>> require_public_size(Relation.REPLACE_ONE, "fixed", 0.3, 200)

Source: docs/decisions/0037-noise-by-clients-needs-public-sizes.md.
"""

from collections.abc import Iterable
from typing import Protocol

from privacy.errors import SizeNotPublic
from privacy.relations import Relation

STATEMENT = (
    "Clients add the noise, so that the size of every cohort is public: it can be read off a release."
    " What is charged is a bound for those who know it."
)
_WAY_OUT = (
    "Use FixedSampling(population=..., size=...) on a ledger with relation='REPLACE_ONE' and an"
    " 'rdp@ORDER' filter (privacy.ledger.planning.filter_for), or FullParticipation, or noise by the server."
)


class _Noisy(Protocol):
    @property
    def noise_party(self) -> str: ...


def by_clients(releases: Iterable[_Noisy]) -> bool:
    """Whether clients add noise to any of these releases."""
    return any(release.noise_party == "clients" for release in releases)


def takes_everyone(sampling: str, q: float, population: int) -> bool:
    """Whether a draw of this kind is the whole population."""
    return q == 1 or (sampling == "fixed" and round(q * population) >= population)


def size_of(sampling: str, q: float, population: int) -> int | None:
    """The number of clients in every draw of this kind; None where it varies."""
    if takes_everyone(sampling, q, population):
        return population
    return round(q * population) if sampling == "fixed" else None


def require_public_size(
    relation: Relation | None, sampling: str, q: float, population: int
) -> None:
    """Refuses a draw whose clients add the noise and whose size is not the same in both worlds.

    Args:
      relation: The ledger's; None where it is not known yet, for what no relation allows.
      sampling: "poisson" or "fixed".
      q: Sampling rate.
      population: Clients that may be drawn.

    Raises:
      SizeNotPublic: A Poisson draw with q < 1 under any relation, or a sample of fixed size under one
        that is not REPLACE_ONE.
    """
    if takes_everyone(sampling, q, population):
        return
    if sampling != "fixed":
        raise SizeNotPublic(
            f"Expected cohorts of a public size for noise that clients add, got a {sampling} draw with"
            f" q={q:g}: its size is secret, and the noise gives it away. {_WAY_OUT}"
        )
    if relation not in (None, Relation.REPLACE_ONE):
        raise SizeNotPublic(
            "Expected relation='REPLACE_ONE' for a sample of fixed size whose clients add the noise,"
            f" got {relation}: a client that is added takes the place of another in the cohort, and"
            f" moves the sum by two clip norms. {_WAY_OUT}"
        )
