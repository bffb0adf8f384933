"""Sizes: if clients add the noise, the cohort size is public.

The shares of n clients have n times the variance of one share, so a release of many numbers reveals
n. Adding a client then means *replacing* one of n clients, and the size of a Poisson sample hides
nothing. Amplification by it gives no bound under any relation, nor does charging it with q = 1. A
size that is the same in both worlds gives a bound: full participation, or a sample of fixed size
under REPLACE_ONE.

>>> size_of("fixed", 0.3, 200)
60
>>> require_public_size(Relation.REPLACE_ONE, "fixed", 0.3, 200)

Source: docs/decisions/0037-noise-by-clients-needs-public-sizes.md.
"""

from privacy.errors import SizeNotPublic
from privacy.relations import Relation

STATEMENT = (
    "Clients add the noise, so the size of every cohort is public: a release reveals it. The "
    "charge is a bound against observers who know the size."
)
_WAY_OUT = (
    "Use FixedSampling(population=..., size=...) on a ledger with relation='REPLACE_ONE' and an"
    " 'rdp@ORDER' filter (privacy.ledger.planning.filter_for), or FullParticipation, or noise by the server."
)


def takes_everyone(sampling: str, q: float, population: int) -> bool:
    """Whether a draw of this kind is the whole population."""
    return q == 1 or (sampling == "fixed" and round(q * population) >= population)


def size_of(sampling: str, q: float, population: int) -> int | None:
    """The number of clients in every draw of this kind; None if it varies."""
    if takes_everyone(sampling, q, population):
        return population
    return round(q * population) if sampling == "fixed" else None


def require_public_size(
    relation: Relation | None, sampling: str, q: float, population: int
) -> None:
    """Refuses a draw with noise by clients whose size differs between the two worlds.

    The relation is the ledger's; None, if not known yet, refuses only what no relation allows.

    Raises:
      SizeNotPublic: A Poisson draw with q < 1 under any relation, or a sample of fixed size under a
        relation other than REPLACE_ONE.
    """
    if takes_everyone(sampling, q, population):
        return
    if sampling != "fixed":
        raise SizeNotPublic(
            f"Expected cohorts of a public size for noise that clients add, got a {sampling} draw "
            f"with q={q:g}: its size is secret, and the noise reveals it. {_WAY_OUT}"
        )
    if relation not in (None, Relation.REPLACE_ONE):
        raise SizeNotPublic(
            "Expected relation='REPLACE_ONE' for a sample of fixed size whose clients add the "
            f"noise, got {relation}: an added client replaces another one in the cohort and moves "
            f"the sum by two clip norms. {_WAY_OUT}"
        )
