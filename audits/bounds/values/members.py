"""Members of a norm: which value a relation is about, and along which axes.

A norm of a tree has several members. A member follows its value through broadcasts and reductions,
so that a factor is applied only to the values whose norm it was computed from.
"""

import functools

from audits.bounds.values.facts import Fact, Member


@functools.cache
def _straight(rank: int) -> tuple[tuple[int, int], ...]:
    return tuple((k, k) for k in range(rank))


def itself(fact: Fact, rank: int) -> Member:
    """A value as a member of its own norm, before any axis is summed."""
    return Member(fact.number, frozenset(), _straight(rank))


def covers(member: Member, number: int, shape: tuple[int, ...], related: tuple[int, ...]) -> bool:
    """Whether a related value, of shape `related`, lines up with the member of shape `shape`.

    Kept axes must be the same axes; along summed axes the related value must be replicated, which is
    so because a relation follows kept axes only.
    """
    if member.value != number:
        return False
    if len(related) not in (0, len(shape)):
        return False
    if not related:
        return not member.kept
    if any(mine >= len(shape) for mine, _ in member.kept):
        return False
    targets = {here for _, here in member.kept}
    aligned = all(mine == here and shape[mine] == related[here] for mine, here in member.kept)
    return aligned and not targets & member.summed


def includes(tested: Member, needed: Member) -> bool:
    """Whether a statement about all entries of one member is one about those of another."""
    if tested.value != needed.value or not needed.summed <= tested.summed:
        return False
    return all(pair in tested.kept or pair[0] in tested.summed for pair in needed.kept)
