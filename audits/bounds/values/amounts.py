"""`Amount`: a non-negative number, or a product of public numbers and server values.

A clip norm may be a server value, such as an adaptive clip. Bounds are then symbolic, and noise is
compared with them by cancelling symbols.

>>> c = Amount.symbol("c")
>>> str(c.times(Amount(2.0)).over(c))
'2'

Source: sensitivities indexed by values follow DFuzz.
"""

import dataclasses
import math

# Server values that scale contributions or noise are assumed to lie between it and its inverse;
# otherwise their products and quotients could vanish in float32.
LEAST = 1e-12
# A bound that underflow more than doubles counts as none.
MOST_RATIO = math.sqrt(3.0)


@dataclasses.dataclass(frozen=True)
class Amount:
    """`factor` times powers of the magnitudes of named server values."""

    factor: float
    powers: tuple[tuple[str, int], ...] = ()

    @classmethod
    def symbol(cls, name: str) -> "Amount":
        """The magnitude of a server value."""
        return cls(1.0, ((name, 1),))

    @property
    def number(self) -> float | None:
        """The value, if it has no symbols."""
        return None if self.powers else self.factor

    def times(self, other: "Amount") -> "Amount":
        """Product."""
        powers = dict(self.powers)
        for name, power in other.powers:
            powers[name] = powers.get(name, 0) + power
        kept = tuple(sorted((n, p) for n, p in powers.items() if p))
        return Amount(self.factor * other.factor, kept)

    def scaled(self, factor: float) -> "Amount":
        """Product with a number."""
        return Amount(self.factor * factor, self.powers)

    def inverse(self) -> "Amount":
        """Reciprocal."""
        factor = math.inf if self.factor == 0 else 1.0 / self.factor
        return Amount(factor, tuple((n, -p) for n, p in self.powers))

    def over(self, other: "Amount") -> "Amount":
        """Quotient."""
        return self.times(other.inverse())

    def plus(self, other: "Amount") -> "Amount | None":
        """Sum, if both have the same symbols."""
        if self.powers != other.powers:
            return None
        return Amount(self.factor + other.factor, self.powers)

    def at_most(self, other: "Amount") -> bool:
        """Whether it is certainly at most the other; False if symbols differ."""
        return self.powers == other.powers and self.factor <= other.factor

    @property
    def least(self) -> float:
        """The smallest number that it can be, by the assumption about server values."""
        return self.factor * math.prod(LEAST ** abs(p) for _, p in self.powers)

    @property
    def most(self) -> float:
        """The largest number that it can be, by the assumption about server values."""
        return self.factor * math.prod(LEAST ** -abs(p) for _, p in self.powers)

    def stretched(self, ratio: float) -> "Amount | None":
        """Root of the squares of it and of `ratio` times it; None if that is more than double."""
        if not ratio <= MOST_RATIO:
            return None
        return self if ratio == 0 else self.scaled(math.sqrt(1.0 + ratio**2))

    def widened(self, gap: float) -> "Amount | None":
        """Root of the sum of the squares of it and of a number; None if that is more than double."""
        if gap == 0:
            return self
        return self.stretched(gap / self.least) if self.least > 0 else None

    def __str__(self) -> str:
        words = [f"{n}" if p == 1 else f"{n}^{p}" for n, p in self.powers]
        if self.factor != 1.0 or not words:
            words.insert(0, f"{self.factor:.6g}")
        return "*".join(words)


def largest(a: Amount, b: Amount) -> Amount | None:
    """The larger of two, if known."""
    if a.at_most(b):
        return b
    return a if b.at_most(a) else None


def root_of_squares(parts: list[Amount]) -> Amount | None:
    """Root of the sum of squares, if all have the same symbols."""
    if not parts or any(p.powers != parts[0].powers for p in parts):
        return None
    return Amount(math.sqrt(sum(p.factor**2 for p in parts)), parts[0].powers)
