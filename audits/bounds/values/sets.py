"""Sets that grow along a program, shared if nothing is added.

The dependences of a server value only grow: after a thousand rounds there are a thousand sums. A
set of sums is therefore an integer with one bit per sum, and a union takes one word for every
thirty sums. A union that adds nothing returns the larger set without a copy.

>>> events_of(united(only(1), only(4)))
[1, 4]
"""

from typing import TypeVar

Sums = int
NONE: Sums = 0
Bits = TypeVar("Bits", int, frozenset[int])


def only(event: int) -> Sums:
    """The set of one sum."""
    return 1 << event


def events_of(sums: Sums) -> list[int]:
    """The sums of a set, in order."""
    digits = bin(sums)[:1:-1]
    return [k for k, digit in enumerate(digits) if digit == "1"]


def united(a: Bits, b: Bits) -> Bits:
    """The union; one of the two sets if it contains the other."""
    if a is b or not b:
        return a
    if not a:
        return b
    both = a | b
    return a if len_of(both) == len_of(a) else b if len_of(both) == len_of(b) else both


def len_of(bits: int | frozenset[int]) -> int:
    """The number of members."""
    return bits.bit_count() if isinstance(bits, int) else len(bits)
