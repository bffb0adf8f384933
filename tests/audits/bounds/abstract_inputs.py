"""Random abstract inputs with concrete values inside them.

A `Scene` draws one fact per operand of a program: a range, a constant, norms, a server scalar, or a
relation to other values, which may be operands too. `sample` then draws concrete values that these
facts allow, again and again, and prefers the ends: limits of ranges, tight norms, infinities, NaN,
negative zero, the smallest and largest numbers.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from concretisation import World, joint_norm, precision, wide
from hostile_values import FLOATS, factor, is_float, random_interval, within
from hostile_values import least as least_value

from audits.bounds.domains.intervals import flushed
from audits.bounds.values.amounts import Amount
from audits.bounds.values.facts import Fact, Interval, Member, Norm, Relation, everything

FIRST = 1_000_000  # numbers of given facts; the prover starts at zero
PLAIN = Interval(-math.inf, math.inf)


@dataclasses.dataclass
class Operand:
    """One value of a scene.

    Attributes:
      fact: What is stated about it.
      shape: Its shape.
      dtype: Its dtype.
      sample: From a generator and the run so far to a concrete value.
      server: It is a server scalar that the clients have a copy of.
    """

    fact: Fact
    shape: tuple
    dtype: object
    sample: object
    server: bool = False


class Scene:
    """Operands with facts, and the hidden values that the facts speak of."""

    def __init__(self, rng):
        self.rng = rng
        self.operands, self.order, self.hidden = [], [], []
        self.symbols = {}
        self._next = FIRST

    def number(self):
        """A new number."""
        self._next += 1
        return self._next

    # Kinds of values.

    def ranged(self, shape, dtype, interval=None):
        """A value in a range."""
        if interval is None:
            free = self.rng.random() < 0.3
            interval = everything(dtype) if free else random_interval(self.rng, dtype)
        fact = Fact(self.number(), interval)
        return Operand(fact, shape, dtype, lambda rng, run: within(rng, shape, dtype, interval))

    def constant(self, shape, dtype):
        """A public number."""
        choices = [0.0, 1.0, 2.0, 0.5, -1.0, -2.0, 0.001, 3.0, 100.0]
        value = np.asarray(self.rng.choice(choices), np.float64).astype(dtype)
        if not np.isfinite(wide(value)):
            value = np.zeros((), dtype)
        size = float(wide(value))
        fact = Fact(self.number(), flushed(Interval(size, size), dtype))
        return Operand(fact, shape, dtype, lambda rng, run: np.full(shape, value))

    def symbolic(self, shape, dtype):
        """A server scalar, or copies of it."""
        number, name = self.number(), f"s{len(self.symbols)}"
        factor = float(self.rng.choice([1.0, 1.0, 2.0, 0.25]))
        power = int(self.rng.choice([1, 1, 1, -1]))
        self.symbols[name] = None

        def sample(rng, run):
            pool = [
                1.0,
                -2.0,
                0.9,
                1e-3,
                255.0,
                300.0,
                1e-8,
                3e4,
                -0.5,
            ]  # between LEAST and 1 / LEAST
            with np.errstate(all="ignore"):
                value = np.asarray(rng.choice(pool)).astype(dtype)
                size = abs(float(wide(value)))
                known = size / factor if power == 1 else factor / size if size else math.inf
            run.names[name] = known
            return np.full(shape, value)

        interval = PLAIN if is_float(dtype) else everything(dtype)
        fact = Fact(number, interval, amount=Amount(factor, ((name, power),)))
        return Operand(fact, shape, dtype, sample, server=True)

    def normed(self, shape, dtype):
        """A value with norms over random groups of axes, tight in some index."""
        axes = [frozenset(k for k in range(len(shape)) if self.rng.random() < 0.6)]
        if self.rng.random() < 0.3:
            axes.append(frozenset(range(len(shape))))
        limit = float(self.rng.choice([0.01, 1.0, 3.0, 1e4]))
        endless = bool(np.isinf(np.asarray(np.inf).astype(dtype)))
        flags = [bool(self.rng.random() < 0.3), endless and bool(self.rng.random() < 0.3)]
        norms = tuple(Norm(a, Amount(limit * (1 + k))) for k, a in enumerate(axes))
        interval = Interval(-math.inf, math.inf, *flags)
        eps, _ = precision(jnp.dtype(dtype))

        def sample(rng, run):
            array = wide(within(rng, shape, dtype, Interval(-1e4, 1e4)))
            for norm in norms:
                size = np.sqrt((np.abs(array) ** 2).sum(axis=tuple(norm.axes), keepdims=True))
                factor = np.minimum(1.0, norm.amount.factor / np.maximum(size, 1e-300))
                array = array * factor * (1 - 2 * eps)
            for bad, flag in ((np.nan, flags[0]), (np.inf, flags[1])):
                if flag and rng.random() < 0.3:
                    array = np.where(rng.random(size=shape) < 0.3, bad, array)
            with np.errstate(all="ignore"):
                return array.astype(dtype)

        return Operand(Fact(self.number(), interval, norms=norms), shape, dtype, sample)

    def multiple(self, base):
        """A public number times another value."""
        factor = float(self.rng.choice([0.5, 2.0, 1.0]))
        signed = float(self.rng.choice([-1.0, 1.0])) * factor

        def sample(rng, run):
            with np.errstate(all="ignore"):
                return (run.raw[base.fact.number] * np.asarray(signed).astype(base.dtype)).astype(
                    base.dtype
                )

        fact = Fact(
            self.number(), everything(base.dtype), multiple=(base.fact.number, Amount(factor))
        )
        return Operand(fact, base.shape, base.dtype, sample)

    # Relations.

    def members(self, shape, dtype):
        """Hidden values whose joint norm has an entry for every index of a related value."""
        base_shape, summed, kept = self._arranged(shape)
        base = self._base(base_shape, dtype)
        members = {Member(base.fact.number, summed, kept)}
        if self.rng.random() < 0.4:
            again = self._base(base_shape, dtype)
            members.add(Member(again.fact.number, summed, kept))
        return base, frozenset(members)

    def _base(self, shape, dtype):
        made = self.ranged(shape, dtype, everything(dtype) if self.rng.random() < 0.7 else None)
        self.hidden.append(made)
        return made

    def _arranged(self, shape):
        """Shape of a member, its summed axes, and the pairs of the others."""
        rank, kind = len(shape), self.rng.random()
        if not shape and kind < 0.8:
            whole = tuple(
                int(n) for n in self.rng.integers(1, 4, size=int(self.rng.integers(0, 3)))
            )
            return whole, frozenset(range(len(whole))), ()
        if kind < 0.6:  # along the summed axes, the related value is a copy
            summed = frozenset(k for k in range(rank) if self.rng.random() < 0.5)
            return shape, summed, tuple((k, k) for k in range(rank) if k not in summed)
        extra = int(self.rng.integers(rank + 1))  # one more axis, which is summed
        inner = (*shape[:extra], 3, *shape[extra:])
        kept = tuple((k + (k >= extra), k) for k in range(rank))
        return inner, frozenset({extra}), kept

    def related(self, shape, dtype, kind=None):
        """A bound of a joint norm, or a factor of at most c over it."""
        kind = kind or str(self.rng.choice(["square", "norm", "scale"]))
        base, members = self.members(shape, dtype)
        amount = Amount(float(self.rng.choice([1.0, 1.0, 0.5, 3.0])))
        gap = float(self.rng.choice([0.0, 1e-19, 0.01]))
        relation = Relation(kind, members, amount, gap=gap, origin=self.number())
        low = float(self.rng.choice([0.0, 0.0, 0.25]))
        finite = kind == "scale" and bool(self.rng.random() < 0.5)
        high = 1.0 if finite and self.rng.random() < 0.5 else math.inf
        interval = Interval(0.0 if kind == "scale" else low, high, True, not finite)
        scaled = frozenset({members}) if finite else frozenset()
        if finite and high == 1.0 and self.rng.random() < 0.3:
            interval = interval._replace(nan=False)
        fact = Fact(self.number(), interval, relation=relation, scaled=scaled)
        draw = factor if kind == "scale" else least_value
        power = 2 if kind == "square" else 1

        def sample(rng, run):
            norm = joint_norm(members, shape, run)
            with np.errstate(all="ignore"):
                return draw(rng, norm, amount.factor, gap, interval, power, dtype).reshape(shape)

        return Operand(fact, shape, dtype, sample), base

    def flag(self, shape, kind=None):
        """A flag about a joint norm."""
        kinds = ["finite", "within", "outside", "outside unless NaN", "nan"]
        kind = kind or str(self.rng.choice(kinds))
        dtype = str(self.rng.choice(FLOATS[:3]))
        if kind == "nan":
            base = self._base(shape, dtype)
            straight = tuple((k, k) for k in range(len(shape)))
            members = frozenset({Member(base.fact.number, frozenset(), straight)})
        else:
            base, members = self.members(shape, dtype)
        amount, number = Amount(float(self.rng.choice([0.5, 1.0, 10.0]))), self.number()
        mixed = kind in ("finite", "within") and bool(self.rng.random() < 0.4)
        gap = 0.0 if kind in ("finite", "nan") else float(self.rng.choice([0.0, 1e-19, 0.01]))
        origin = self.number() if kind != "nan" else -1
        relation = Relation(kind, members, amount, number, mixed, gap, origin)

        def sample(rng, run):
            norm = joint_norm(members, shape, run)
            limit, other = math.hypot(amount.factor, gap), rng.random(size=shape) < 0.7
            true = {
                "finite": np.isfinite(norm), "within": norm <= limit,
                "outside": ~(norm <= limit), "outside unless NaN": norm > limit, "nan": np.isnan(norm),
            }[kind]  # fmt: skip
            return np.asarray(true & other if mixed else true).reshape(shape)

        fact = Fact(number, Interval(0.0, 1.0), relation=relation)
        return Operand(fact, shape, np.dtype(bool), sample), base

    # Operands.

    def fill(self, wanted):
        """One operand for each shape, dtype and role, in any order, often related to each other."""
        made = {}
        for k in self.rng.permutation(len(wanted)):
            shape, dtype, role = wanted[k]
            made[int(k)] = self._drawn(tuple(shape), jnp.dtype(dtype), role, list(made.values()))
        self.operands = [made[k] for k in range(len(wanted))]
        self.order = list(made.values())

    def _drawn(self, shape, dtype, role, before):
        rng = self.rng
        if role in ("zero", "one"):
            size = float(role == "one")
            fact = Fact(self.number(), Interval(size, size))
            return Operand(fact, shape, dtype, lambda rng, run: np.full(shape, size, dtype))
        alike = [o for o in [*before, *self.hidden] if o.shape == shape and o.dtype == dtype]
        if alike and rng.random() < 0.5:
            base = alike[int(rng.integers(len(alike)))]
            if rng.random() < 0.2 and is_float(dtype):
                return self.multiple(base)
            again = lambda rng, run: run.raw[base.fact.number]
            return dataclasses.replace(base, sample=again)
        kind = rng.random()
        if dtype == np.bool_:
            return self.flag(shape)[0] if kind < 0.8 else self.ranged(shape, dtype)
        if not is_float(dtype):
            signed = np.issubdtype(dtype, np.signedinteger)
            makers = [self.ranged, self.ranged, *[self.constant, self.symbolic] * signed]
            return makers[int(rng.integers(len(makers)))](shape, dtype)
        if kind < 0.45:
            return self.related(shape, dtype)[0]
        makers = [self.ranged, self.ranged, self.constant, self.symbolic, self.normed]
        return makers[int(rng.integers(len(makers)))](shape, dtype)

    def sample(self, rng):
        """Concrete values of the operands, the hidden values by number, and the symbols."""
        run = Run(World())
        values = []
        for operand in [*self.hidden, *self.order]:
            number = operand.fact.number
            value = run.raw[number] if number in run.raw else operand.sample(rng, run)
            run.raw[number] = np.asarray(value)
            run.values[number] = wide(value)
        for operand in self.operands:
            values.append(run.raw[operand.fact.number])
        return values, {o.fact.number: run.raw[o.fact.number] for o in self.hidden}, run.names


class Run:
    """The values drawn so far, in their dtypes and in double precision."""

    def __init__(self, world):
        self.raw, self.values, self.names = {}, world.values, world.names
