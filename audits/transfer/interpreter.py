"""The walk: one label per variable, one rule per equation, and a record of every message.

The interpreter contains no rule of a primitive. It reads equations in order, looks up the family of
each, calls the rule of the family with the labels of the operands, and stores the labels of the
results under the path of the equation. The stored labels, with those of loop carries, are the
evidence of a certificate.

A rule that rejects reports its finding and poisons its results. A poisoned operand silences every
later rule, so one root cause gives one diagnostic.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from audits.rules.findings import Event, Finding, finding
from audits.rules.rules import Severity
from audits.transfer import axis, registry
from audits.transfer.labels import (
    DATA,
    MERGED,
    MERGED_COPIES,
    Axis,
    Label,
    as_numpy,
    constant_digest,
    of_constant,
    poison,
)
from audits.transfer.slots import marked
from audits.transfer.styles import Style
from secfad.inner import (
    ClosedJaxpr,
    Jaxpr,
    JaxprEqn,
    Literal,
    Var,
    is_known_dtype,
    user_line,
)
from secfad.interop.axis_rules import Refused, Summed

Path = tuple[int | str, ...]
Rule = Callable[["Step"], list[Label] | Label]


class Reported(Exception):
    """A rule has reported a finding and has no results."""


@dataclasses.dataclass(frozen=True)
class Scope:
    """The position of the walk.

    Attributes:
      path: Equation indices from the root; unique for every call site.
      count: Number of executions of this position in one run.
      depth: Sums that the control decision of this position waited for.
      client_control: Client data decides whether this position runs.
      recording: Findings and messages count; off while a loop looks for its invariant.
      caller: The equation that calls this body; its line is the fallback for the body.
    """

    path: Path = ()
    count: int = 1
    depth: int = 0
    client_control: bool = False
    recording: bool = True
    caller: "Step | None" = None

    def inside(self, *steps: int | str, **changes) -> "Scope":
        """The scope of a nested jaxpr."""
        path = (*self.path, *steps)
        if changes:
            return dataclasses.replace(self, path=path, **changes)
        return Scope(path, self.count, self.depth, self.client_control, self.recording, self.caller)


@dataclasses.dataclass
class Step:
    """One equation under one set of labels, as a rule sees it."""

    checker: "Checker"
    equation: JaxprEqn
    inputs: list[Label]
    names: list[str]
    scope: Scope

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of the equation."""
        return self.equation.params

    @property
    def style(self) -> Style:
        """The style of the program."""
        return self.checker.style

    @property
    def primitive(self) -> str:
        """The name of the primitive."""
        return self.equation.primitive.name

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of an operand."""
        return tuple(self.equation.invars[index].aval.shape)  # type: ignore[attr-defined]

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of a result."""
        return tuple(self.equation.outvars[index].aval.shape)  # type: ignore[attr-defined]

    def refuse(self, rule: str, **fields: Any) -> list[Label]:
        """Reports a rejection and poisons the results."""
        self.note(rule, Severity.REJECT, **fields)
        return self.poisoned()

    def poisoned(self) -> list[Label]:
        """Results that cause no further findings."""
        self.checker.poisoned |= self.scope.recording
        return [poison(len(v.aval.shape)) for v in self.equation.outvars]  # type: ignore[attr-defined]

    def note(self, rule: str, severity: Severity | None = None, **fields: Any) -> None:
        """Reports a finding at this equation."""
        if self.scope.recording:
            filled: dict[str, Any] = {"primitive": self.primitive} | fields
            where = "/".join(map(str, self.scope.path))
            self.checker.findings.append(
                finding(rule, severity=severity, line=self.line, path=where, **filled)
            )

    @property
    def line(self) -> str:
        """The user's line; for the body of a library function, the line of the call."""
        own = user_line(self.equation)
        caller = self.scope.caller
        outer = "" if caller is None else caller.line
        # A library function is traced once, so its body may name the file of another call.
        same_file = own.split(":")[0] == outer.split(":")[0]
        return own if own and (same_file or not outer) else outer

    def inside(self, *steps: int | str, **changes: Any) -> "Scope":
        """The scope of a jaxpr inside this equation."""
        return self.scope.inside(*steps, caller=self, **changes)

    @property
    def first_rank(self) -> int:
        """Rank of the first result."""
        return len(self.out_shape())


def nbytes(shape: Sequence[int], dtype: Any) -> int:
    """Bytes of an array; PRNG keys count their raw data."""
    itemsize = getattr(dtype, "itemsize", None) or np.dtype(dtype).itemsize
    return int(np.prod(shape, dtype=np.int64)) * int(itemsize)


class Checker:
    """Collects the findings of a walk. One instance checks one program once."""

    def __init__(
        self, style: Style, rules: Mapping[str, Rule], *, public: frozenset[str], mode: str
    ):
        self.style = style
        self.rules = rules
        self.public = public
        self.mode = mode
        self.findings: list[Finding] = []
        self.events: list[Event] = []
        self.poisoned = False
        self.operands: dict[int, tuple[Path, int]] = {}
        self.recorded: dict[int, Event] = {}
        self.evidence: dict[Path, dict[Var, Label]] = {}
        self.programs: dict[Path, Jaxpr] = {}
        self.residuals: dict[Path, int] = {}
        self.indexed: dict[str, list[int]] = {}
        self._sources: dict[tuple[Path, int], int] = {}
        self._source_events: dict[int, Event] = {}
        self._sent: set[tuple[int, Path]] = set()
        self._quiet: dict[tuple, tuple[ClosedJaxpr, list[Label]]] = {}

    def run(
        self, closed: ClosedJaxpr, labels: Sequence[Label], names: Sequence[str]
    ) -> list[Label]:
        """Labels of the outputs from the labels of the inputs."""
        for variable in (*closed.jaxpr.invars, *closed.jaxpr.constvars, *closed.jaxpr.outvars):
            dtype = getattr(variable.aval, "dtype", None)
            if dtype is not None and not is_known_dtype(dtype):
                self.poisoned = True
                self.findings.append(
                    finding("FAD002", primitive=f"{dtype} of another generator", remedy=_GENERATORS)
                )
                break
        return self.closed(closed, list(labels), list(names), Scope())

    def closed(
        self, closed: ClosedJaxpr, labels: list[Label], names: list[str], scope: Scope
    ) -> list[Label]:
        """Walks a closed jaxpr; its constants are judged where they are.

        A walk that records nothing depends only on its labels, so its results are memoized. Loops
        repeat it until they have an invariant; without the memo, nested loops would repeat it
        exponentially often.
        """
        if scope.recording:
            return self._closed(closed, labels, names, scope)
        key = (scope.path, id(closed), tuple(labels), scope.depth, scope.client_control)
        if key not in self._quiet:
            # Keep the program alive, so that its id stays unique.
            self._quiet[key] = (closed, self._closed(closed, labels, names, scope))
        return list(self._quiet[key][1])

    def _closed(
        self, closed: ClosedJaxpr, labels: list[Label], names: list[str], scope: Scope
    ) -> list[Label]:
        constants = [self._constant(c, scope) for c in closed.consts]
        return self.jaxpr(closed.jaxpr, constants, labels, names, scope)

    def jaxpr(
        self,
        jaxpr: Jaxpr,
        constants: list[Label],
        labels: list[Label],
        names: list[str],
        scope: Scope,
    ) -> list[Label]:
        """Walks a jaxpr whose constants have labels already."""
        env: dict[Var, Label] = dict(zip(jaxpr.constvars, constants)) | dict(
            zip(jaxpr.invars, labels)
        )
        called: dict[Var, str] = dict(zip(jaxpr.invars, names))
        for position, equation in enumerate(jaxpr.eqns):
            here = scope.inside(position)
            inputs = [self._value(env, v, here) for v in equation.invars]
            texts = [_name(called, v) for v in equation.invars]
            results = self._apply(Step(self, equation, inputs, texts, here))
            for variable, label in zip(equation.outvars, results):
                env[variable] = label
                called[variable] = f"the result of {equation.primitive.name}"
        if scope.recording:
            self.evidence[scope.path] = env
            self.programs[scope.path] = jaxpr
        return [self._value(env, v, scope) for v in jaxpr.outvars]

    def _value(self, env: Mapping[Var, Label], atom: Var | Literal, scope: Scope) -> Label:
        return self._constant(atom.val, scope) if isinstance(atom, Literal) else env[atom]

    def _apply(self, step: Step) -> list[Label]:
        if any(label.poisoned for label in step.inputs):
            return step.poisoned()
        family = registry.family(step.equation.primitive, style=self.style.name)
        if family == registry.IMPOSTOR:
            return step.refuse("FAD009")
        foreign = registry.foreign_code(step.equation)
        if foreign:
            return step.refuse(
                "FAD002", primitive=f"{step.primitive} of {foreign}", remedy=_GENERATORS
            )
        handler = self.rules.get(family)
        if handler is None:
            return step.refuse("FAD001")
        if family not in _MERGING and not self._unmerged(step):
            return step.refuse("FAD108")
        try:
            found = axis.asked(step, family)
        except Refused as reason:
            return step.refuse(axis.RULES[reason.kind], clients=1, minimum=2)
        if isinstance(found, Summed) and not self.style.sums_by_reduction:
            return step.refuse("FAD103")
        try:
            results = handler(step)
        except Reported:
            return step.poisoned()
        results = results if isinstance(results, list) else [results]
        ranks = [len(v.aval.shape) for v in step.equation.outvars]  # type: ignore[attr-defined]
        ranked = [len(label.axes) for label in results] == ranks
        if not ranked or not axis.agrees(step, found, family, results):
            return step.refuse("FAD001")  # the rule has not understood the equation
        results = marked(step, family, results)
        return [self._below_control(label, step.scope) for label in results]

    def _unmerged(self, step: Step) -> bool:
        """Forgets merged copies; returns False for merged clients, which may not go further."""
        for index, label in enumerate(step.inputs):
            tags = label.tags
            if MERGED in tags:
                return False
            if MERGED_COPIES in tags:
                axes = tuple(Axis(DATA) if a.tag == MERGED_COPIES else a for a in label.axes)
                step.inputs[index] = label.replace(axes=axes)
        return True

    def _below_control(self, label: Label, scope: Scope) -> Label:
        return label if label.depth >= scope.depth else label.replace(depth=scope.depth)

    def _constant(self, value: Any, scope: Scope) -> Label:
        if isinstance(value, jax.Ref):
            self._report_constant("FAD004", scope, primitive="jax.Ref, captured")
            return poison(len(value.shape))
        array = as_numpy(value)
        label = of_constant(array, np.ndim(value), self.public)
        if label is None:
            fields = {"shape": array.shape, "dtype": array.dtype, "digest": constant_digest(array)}
            self._report_constant("FAD005", scope, **fields)
            return poison(np.ndim(value))
        return label

    def _report_constant(self, rule: str, scope: Scope, **fields: Any) -> None:
        self.poisoned |= scope.recording
        if scope.recording:
            path = "/".join(map(str, scope.path))
            self.findings.append(finding(rule, path=path, line=self._line_hint(), **fields))

    def _line_hint(self) -> str:
        return getattr(self, "constant_line", "")

    # Messages.

    def source(self, step: Step, index: int, size: int) -> int:
        """An identity for a server value that may later be sent to the clients."""
        key = (step.scope.path, index)
        if key not in self._sources:
            self._sources[key] = len(self._sources)
        number = self._sources[key]
        operand = step.equation.invars[index] if index >= 0 else step.equation.outvars[0]
        aval: Any = operand.aval
        if step.scope.recording:
            self._source_events[number] = self._event(
                "broadcast", step, "broadcast", aval.shape, aval.dtype, size, 0
            )
        return number

    def send(self, sources: frozenset[int], depth: int, scope: Scope) -> None:
        """Records broadcasts of server values that are combined with client values, once per
        source.
        """
        if not scope.recording:
            return
        for number in sorted(sources):
            event = self._source_events.get(number)
            if event is not None and (number, ()) not in self._sent:
                self._sent.add((number, ()))
                self.events.append(dataclasses.replace(event, index=len(self.events), depth=depth))

    def senders(self) -> frozenset[Path]:
        """Equations that replicate a server value which reached the clients."""
        return frozenset(p for (p, _), n in self._sources.items() if (n, ()) in self._sent)

    def message(
        self, kind: str, step: Step, name: str, aval: Any, depth: int, *, position: int = -1
    ) -> int:
        """Records one leaf of a broadcast or sum; returns its index in the schedule."""
        if not step.scope.recording:
            return -1
        size = nbytes(aval.shape, aval.dtype)
        event = self._event(kind, step, name, aval.shape, aval.dtype, size, depth)
        self._add(event)
        self.operands[event.index] = (step.scope.path, position)
        return event.index

    def summed(self, step: Step, number: int, indexed: bool) -> None:
        """Remembers the line of a sum of client-indexed values."""
        if indexed and step.scope.recording:
            self.indexed.setdefault(step.line, []).append(number)

    def _event(self, kind, step: Step, name, shape, dtype, size, depth) -> Event:
        return Event(
            kind=kind,
            index=len(self.recorded),
            name=name,
            shape=tuple(shape),
            dtype=str(dtype),
            bytes=size,
            depth=depth,
            count=step.scope.count,
            line=step.line,
            where="/".join(map(str, step.scope.path)),
        )

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self.recorded[event.index] = event

    def keep(self, step: Step, index: int) -> None:
        """A client keeps an operand from one phase to the next."""
        if step.scope.recording:
            aval: Any = step.equation.invars[index].aval
            self.residuals[(*step.scope.path, index)] = nbytes(aval.shape, aval.dtype)


_GENERATORS = "Use keys of threefry2x32, rbg or unsafe_rbg of JAX, and JAX's primitives"
# The primitives that may use an axis that merges clients with data.
_MERGING = frozenset({"reshape", "transpose", "conv", "call", "custom_rule"})


def _name(names: Mapping[Var, str], atom: Var | Literal) -> str:
    return "a constant" if isinstance(atom, Literal) else names.get(atom, "a constant")
