"""What a `Fact` says about concrete values: the meaning of every domain, checked in float64.

`World` holds one concrete run: the value of each number and the magnitude of each symbol. `broken`
lists the parts of a fact that a concrete value contradicts. The meaning is that of the docstrings in
`audits/bounds/values/facts.py`:

- entries lie in the interval, NaN and infinities only if their flags are set; a complex number is
  measured by its magnitude;
- a norm holds for every index of its other axes, over the entries that are finite;
- a lower bound of a norm is not finite where the norm is NaN; a factor of at most c over a norm is
  zero or not finite where the norm is not finite;
- symbols stand for magnitudes of server scalars.
"""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np


class Unknown(Exception):
    """The fact speaks of a value that this run does not have."""


@dataclasses.dataclass
class World:
    """One concrete run.

    Attributes:
      values: Values by number; floats as float64, complex numbers as complex128.
      names: Magnitudes of the symbols of server scalars.
      parts: Values that were clipped together, by group and index.
    """

    values: dict = dataclasses.field(default_factory=dict)
    names: dict = dataclasses.field(default_factory=dict)
    parts: dict = dataclasses.field(default_factory=dict)

    def amount(self, amount):
        """The number that an `Amount` is in this run."""
        total = amount.factor
        for name, power in amount.powers:
            total *= self.symbol(name) ** power if self.symbol(name) or power > 0 else math.inf
        return total

    def symbol(self, name):
        """The magnitude of a server scalar."""
        if name in self.names:
            return self.names[name]
        found = re.fullmatch(r"value (\d+)", name)
        if found is None or int(found[1]) not in self.values:
            raise Unknown(name)
        return float(np.max(np.abs(self.values[int(found[1])])))


def is_key(value):
    """Whether a value is a typed PRNG key."""
    return jax.dtypes.issubdtype(jnp.result_type(value), jax.dtypes.prng_key)


def wide(value):
    """A value in double precision."""
    array = np.asarray(value)
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    with np.errstate(all="ignore"):
        return array.astype(np.float64)


def precision(dtype):
    """The relative rounding error of one operation, and the smallest normal number."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return precision(np.zeros((), dtype).real.dtype)
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        return 0.0, 0.0
    info = jnp.finfo(dtype)
    return 2.0 ** -int(info.nmant), float(info.smallest_normal)


def broken(fact, value, world, *, steps=4):
    """The parts of a fact that a concrete value contradicts, as sentences.

    Args:
      fact: A `Fact`.
      value: The array, in its own dtype.
      world: The run in which it is this.
      steps: Roundings that may separate the value from its bound.
    """
    if is_key(value):
        return []
    eps, tiny = max(precision(value.dtype), precision(fact.low or "bool"))
    found, array = [], wide(value)
    for name, check in CHECKS.items():
        try:
            text = check(fact, array, world, steps * eps + 1e-12, tiny)
        except Unknown:
            continue
        if text:
            found.append(f"{name}: {text}")
    return found


def _interval(fact, value, world, eps, tiny):
    i = fact.interval
    finite = np.isfinite(value)
    if np.any(np.isnan(value)) and not i.nan:
        return f"NaN outside of {i}"
    if np.any(~finite & ~np.isnan(value)) and not i.inf:
        return f"infinity outside of {i}"
    kept = value[~np.isnan(value)]
    if not kept.size:
        return ""
    if np.iscomplexobj(value):
        size, reach = float(np.abs(kept).max()), max(abs(i.low), abs(i.high))
        return "" if size <= reach * (1 + eps) + tiny else f"magnitude {size} outside of {i}"
    low, high = float(kept.min()), float(kept.max())
    below = low < i.low and low < i.low - eps * abs(i.low) - (tiny if i.low <= 0 else 0)
    above = high > i.high and high > i.high + eps * abs(i.high) + (tiny if i.high >= 0 else 0)
    return "" if not (below or above) else f"entries in [{low}, {high}] outside of {i}"


def _norms(fact, value, world, eps, tiny):
    for norm in fact.norms:
        if getattr(norm, "divisor", None) is not None:
            continue  # holds only where a guard says that the divisor is large
        axes = tuple(sorted(norm.axes))
        if any(k >= value.ndim for k in axes):
            return f"{norm} of a value of shape {value.shape}"
        with np.errstate(all="ignore"):
            size = np.sqrt((np.where(np.isfinite(value), np.abs(value), 0.0) ** 2).sum(axis=axes))
        limit, entries = world.amount(norm.amount), math.prod(value.shape[k] for k in axes)
        if size.size and size.max() > limit * (1 + eps) + math.sqrt(entries) * tiny:
            return f"norm {size.max()} over {axes}, stated is {norm.amount} = {limit}"
    return ""


def joint_norm(members, shape, world):
    """The joint norm N of some members, at every index of a related value of some shape."""
    total = np.zeros(shape)
    for member in members:
        if member.value not in world.values:
            raise Unknown(member.value)
        value = world.values[member.value]
        if any(k >= value.ndim for k in member.summed):
            raise Unknown(member)
        with np.errstate(all="ignore"):
            squares = (np.abs(value) ** 2).sum(axis=tuple(sorted(member.summed)))
        left = [k for k in range(value.ndim) if k not in member.summed]
        places = dict(member.kept)
        if sorted(places) != left or len(set(places.values())) != len(left):
            raise Unknown(member)
        target = [1] * len(shape)
        for k in left:
            if places[k] >= len(shape) or shape[places[k]] != value.shape[k]:
                raise Unknown(member)
            target[places[k]] = value.shape[k]
        order = sorted(range(len(left)), key=lambda j: places[left[j]])
        total = total + np.transpose(squares, order).reshape(target)
    return np.sqrt(total)


def _relation(fact, value, world, eps, tiny):
    related = fact.relation
    if related is None:
        return ""
    norm, limit = joint_norm(related.members, value.shape, world), world.amount(related.amount)
    with np.errstate(all="ignore"):
        text = _RELATED[related.kind](value, norm, limit, related.gap, eps, tiny)
    return f"{text}: {related}" if text else ""


def _at_least(power):
    """The value to this power is at least amount^2 * (N^2 - gap^2)."""

    def check(value, norm, limit, gap, eps, tiny):
        if np.any(np.isnan(norm) & np.isfinite(value)):
            return "finite although the norm is NaN"
        least = limit**2 * (norm**2 - gap**2) * (1 - eps)
        reached = np.where(value < 0, -np.inf, (np.maximum(value, 0) + tiny) ** power)
        bad = (reached < least) & ~np.isnan(norm)
        return f"{value[bad][0]} for a norm {norm[bad][0]}" if bad.any() else ""

    return check


def _at_most(value, norm, limit, gap, eps, tiny):
    """The value squared times N^2 is at most amount^2 + value^2 * gap^2."""
    known = np.isfinite(value) & np.isfinite(norm)
    most = np.sqrt(limit**2 + (np.abs(value) * gap) ** 2)
    bad = known & (np.abs(value) * norm > most * (1 + eps) + tiny * norm)
    # Then the product with a member is zero or not finite.
    bad |= ~np.isfinite(norm) & np.isfinite(value) & (np.abs(value) > tiny)
    return f"{value[bad][0]} times the norm {norm[bad][0]}, stated is {limit}" if bad.any() else ""


def _flag(side, condition):
    """A flag has this value only if a condition on the norm and its limit holds."""

    def check(value, norm, limit, gap, eps, tiny):
        bad = ((value != 0) == side) & ~condition(norm, np.hypot(limit, gap) * (1 + eps))
        return f"{side} for a norm {norm[bad][0]} and {limit}" if bad.any() else ""

    return check


_RELATED = {
    "square": _at_least(1),
    "norm": _at_least(2),
    "scale": _at_most,
    "finite": _flag(True, lambda n, c: np.isfinite(n)),
    "within": _flag(True, lambda n, c: n <= c),
    "outside": _flag(False, lambda n, c: n <= c),
    "outside unless NaN": _flag(False, lambda n, c: (n <= c) | np.isnan(n)),
    "nan": _flag(False, lambda n, c: ~np.isnan(n)),
}


def _scaled(fact, value, world, eps, tiny):
    for members in fact.scaled:
        try:
            norm = joint_norm(members, value.shape, world)
        except Unknown:
            continue
        if np.any(np.isfinite(norm) & ~np.isfinite(value)):
            return f"not finite although {sorted(members)} are"
    return ""


def _multiple(fact, value, world, eps, tiny):
    if fact.multiple is None:
        return ""
    number, amount = fact.multiple
    if number not in world.values:
        raise Unknown(number)
    other = world.values[number]
    if other.shape != value.shape:
        return f"of a value of shape {other.shape}"
    with np.errstate(all="ignore"):
        limit = np.abs(other) * world.amount(amount) * (1 + eps) + tiny
        bad = np.isfinite(value) & (np.abs(value) > limit)
    return f"{value[bad][0]} above {limit[bad][0]}" if bad.any() else ""


def _amount(fact, value, world, eps, tiny):
    if fact.amount is None or not value.size:
        return ""
    size, sizes = world.amount(fact.amount), np.abs(value)
    if math.isnan(size) or np.isnan(sizes).all():
        return ""  # the server's own NaN
    with np.errstate(all="ignore"):
        far = ~(np.abs(sizes - size) <= eps * size + tiny) & ~(np.isinf(size) & (sizes == size))
    return f"{sizes[far].flat[0]}, stated is {fact.amount} = {size}" if far.any() else ""


def _part(fact, value, world, eps, tiny):
    """A joint clip holds for all of its results together."""
    part = fact.part
    if part is None:
        return ""
    known = world.parts.setdefault(part.group, {})
    known[part.index] = float(np.sum(np.abs(value) ** 2)) / part.unit**2
    joint, limit = math.sqrt(sum(known.values())), world.amount(part.bound)
    return f"joint norm {joint}, stated is {limit}" if joint > limit * (1 + eps) + tiny else ""


CHECKS = {
    "interval": _interval,
    "norm": _norms,
    "relation": _relation,
    "scaled": _scaled,
    "multiple": _multiple,
    "amount": _amount,
    "part": _part,
}
