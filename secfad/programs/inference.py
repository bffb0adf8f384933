"""Placement inference: from a traced program to a `Block`, or an error at the user's line.

One forward pass. A value computed from a client value is a client value, one computed from a server
value is a server value, one computed from constants only is neither. Meeting both is an error:
a server value must be broadcast before clients use it, because otherwise its derivative would be
added over clients without a sum that anyone could see. Carries of loops are iterated until their
placement is stable; the lattice has height one, so twice is enough.

Sources: Rush, Charles, Garrett (JMLR 2024), section 2; docs/semantics.md.
"""

from collections.abc import Sequence

from secfad import _jax
from secfad._jax import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from secfad.errors import PlacementError
from secfad.jaxprs.dependence import separated
from secfad.jaxprs.equations import (
    COND,
    CUSTOM_RULES,
    OWN_DERIVATIVE,
    SCAN,
    WHILE,
    as_call,
    communicates,
)
from secfad.jaxprs.rewriting import renamed
from secfad.placements import CLIENTS, SERVER, Placement
from secfad.primitives import broadcast_p, sum_p
from secfad.programs import misplacing
from secfad.programs.blocks import (
    Atom,
    Block,
    Branch,
    Broadcast,
    Local,
    Loop,
    Step,
    Sum,
    While,
)
from secfad.programs.blocks import communicates as has_messages
from secfad.programs.normalization import opened
from secfad.programs.predicates import has_one_predicate, with_one_predicate

Label = Placement | None


def place(
    closed: ClosedJaxpr,
    placements: Sequence[Label],
    origins: Sequence[str],
    *,
    keep_rules: bool = False,
) -> Block:
    """Places every value of a program in normal form.

    Args:
      closed: The program; see `normalization.normalise`.
      placements: Of its inputs.
      origins: What errors call its inputs, such as "argument `model`".
      keep_rules: Never replace a custom derivative rule by its body, because the block will be
        differentiated.

    Raises:
      PlacementError: A value is used where it does not live; names the user's line.
    """
    return _Scope(keep_rules).block(closed, placements, origins)


class _Scope:
    """Inference over one jaxpr; nested jaxprs get scopes of their own."""

    def __init__(self, keep_rules: bool):
        self.keep_rules = keep_rules
        self.steps: list[Step] = []
        self.labels: dict[Var, Label] = {}
        self.origins: dict[Var, str] = {}
        self.env: dict[Var, Atom] = {}
        self.constants: dict[Var, object] = {}

    def block(self, closed: ClosedJaxpr, labels: Sequence[Label], origins: Sequence[str]) -> Block:
        jaxpr = closed.jaxpr
        for variable, label, origin in zip(jaxpr.invars, labels, origins):
            self.labels[variable], self.origins[variable] = label, origin
        for variable, value in zip(jaxpr.constvars, closed.consts):
            self.labels[variable] = None
            self.constants[variable] = value
        self.read(jaxpr)
        results = tuple(self.now(v) for v in jaxpr.outvars)
        return Block(tuple(jaxpr.invars), results, tuple(self.steps), self.labels, self.constants)

    def now(self, atom: Atom) -> Atom:
        return atom if isinstance(atom, Literal) else self.env.get(atom, atom)

    def label(self, atom: Atom) -> Label:
        return None if isinstance(atom, Literal) else self.labels[atom]

    def origin(self, atom: Atom) -> str:
        return "a constant" if isinstance(atom, Literal) else self.origins.get(atom, "a value")

    def define(self, step: Step, labels: Sequence[Label], origin: str | None = None) -> None:
        self.steps.append(step)
        if origin is None:
            placed = [v for v in step.inputs if self.label(v) is not None]
            origin = self.origin(placed[0]) if placed else "a constant"
        for variable, label in zip(step.outputs, labels):
            self.labels[variable], self.origins[variable] = label, origin

    def read(self, jaxpr: Jaxpr) -> None:
        for original in jaxpr.eqns:
            equation = original.replace(invars=[self.now(v) for v in original.invars])
            if equation.primitive is broadcast_p:
                self._broadcast(equation)
            elif equation.primitive is sum_p:
                self._sum(equation)
            elif equation.primitive is SCAN:
                self._scan(equation)
            elif equation.primitive is WHILE:
                self._while(equation)
            elif equation.primitive is COND:
                self._cond(equation)
            else:
                self._local(equation)

    def _broadcast(self, equation: JaxprEqn) -> None:
        name = equation.params["name"]
        sent = []
        for operand, result in zip(equation.invars, equation.outvars):
            if self.label(operand) is CLIENTS:
                raise PlacementError(
                    f"`broadcast` named {name!r} expected a server value, got a client value "
                    f"({self.origin(operand)}). Add it up with `sum` first; only the server sends "
                    "to every client.",
                    kind="addressed-broadcast",
                    line=_jax.user_line(equation),
                )
            if self.label(operand) is None:
                # Both sides know a constant: nothing is sent.
                self.env[result] = operand
            else:
                sent.append((operand, result))
        if sent:
            inputs, outputs = zip(*sent)
            step = Broadcast(name, inputs, outputs, equation)
            self.define(step, [CLIENTS] * len(sent), f"broadcast `{name}`")

    def _sum(self, equation: JaxprEqn) -> None:
        name = equation.params["name"]
        for operand in equation.invars:
            if self.label(operand) is SERVER:
                raise PlacementError(
                    f"`sum` named {name!r} expected a client value, got a server value "
                    f"({self.origin(operand)}). Wrap it in `broadcast` if clients should use it; "
                    "multiply by the number of clients if that is meant.",
                    kind="misplaced-operand",
                    line=_jax.user_line(equation),
                )
        step = Sum(name, tuple(equation.invars), tuple(equation.outvars), equation)
        self.define(step, [SERVER] * len(equation.outvars), f"sum `{name}`")

    def _local(self, equation: JaxprEqn) -> None:
        if self.keep_rules and equation.primitive in OWN_DERIVATIVE and communicates(equation):
            self._ruled(equation)
            return
        if communicates(equation) and as_call(equation) is None:
            raise misplacing.hidden(equation)
        labels = {self.label(v) for v in equation.invars} - {None}
        if len(labels) < 2:
            flags = [self.label(v) is not None for v in equation.invars]
            parts = separated(equation, flags) if labels else None
            if parts is not None:
                for free in parts[0]:
                    self.define(Local(free, None), [None] * len(free.outvars))
                equation = parts[1]
            placement = labels.pop() if labels else None
            self.define(Local(equation, placement), [placement] * len(equation.outvars))
            return
        call = as_call(equation)
        if call is None or (self.keep_rules and equation.primitive in CUSTOM_RULES):
            raise self._mixture(equation)
        self._inline(equation, call.body, [self.now(v) for v in call.operands])

    def _ruled(self, equation: JaxprEqn) -> None:
        """A call that communicates and has its own derivative: one step at both places."""
        call = as_call(equation)
        assert call is not None
        body = self._body(
            equation, opened(call.body), call.operands, [self.label(v) for v in call.operands]
        )
        self.define(Local(equation, None), [body.placement(v) for v in body.results])

    def _inline(self, equation: JaxprEqn, body: ClosedJaxpr, inputs: Sequence[Atom]) -> None:
        fresh = renamed(body, inputs, equation)
        for variable, value in zip(fresh.jaxpr.constvars, fresh.consts):
            self.labels[variable] = None
            self.constants[variable] = value
        self.read(fresh.jaxpr)
        for variable, result in zip(equation.outvars, fresh.jaxpr.outvars):
            self.env[variable] = self.now(result)

    def _mixture(self, equation: JaxprEqn, detail: str = "") -> PlacementError:
        server = next(v for v in equation.invars if self.label(v) is SERVER)
        client = next(v for v in equation.invars if self.label(v) is CLIENTS)
        return misplacing.mixture(equation, self.origin(server), self.origin(client), detail)

    def _stays_local(self, equation: JaxprEqn) -> bool:
        labels = {self.label(v) for v in equation.invars} - {None}
        return len(labels) < 2 and not communicates(equation)

    def _apart(self, equation: JaxprEqn) -> bool:
        """Places a silent loop of the server beside a silent one of the clients as two loops."""
        if communicates(equation):
            return False
        parts = separated(equation, [self.label(v) is CLIENTS for v in equation.invars])
        if parts is None or any(self.label(v) is SERVER for v in parts[1].invars):
            return False
        for part in (*parts[0], parts[1]):
            self._local(part)
        return True

    def _body(
        self,
        equation: JaxprEqn,
        body: ClosedJaxpr,
        inputs: Sequence[Atom],
        labels: Sequence[Label],
    ) -> Block:
        origins = [self.origin(v) for v in inputs]
        return _Scope(self.keep_rules).block(renamed(body, caller=equation), labels, origins)

    def _scan(self, equation: JaxprEqn) -> None:
        if self._stays_local(equation):
            self._local(equation)
            return
        if self._apart(equation):
            return
        params, inputs = equation.params, equation.invars
        consts, carries = params["num_consts"], params["num_carry"]
        labels = [self.label(v) for v in inputs]
        while True:
            body = self._body(equation, params["jaxpr"], inputs, labels)
            out = [body.placement(v) for v in body.results]
            now = labels[consts : consts + carries]
            joined = [self._joined(equation, a, b) for a, b in zip(now, out[:carries])]
            if joined == now:
                break
            labels[consts : consts + carries] = joined
        step = Loop(
            body,
            consts,
            carries,
            params["length"],
            params["reverse"],
            tuple(inputs),
            tuple(equation.outvars),
            equation,
        )
        self.define(step, [*joined, *out[carries:]])

    def _while(self, equation: JaxprEqn) -> None:
        if self._stays_local(equation):
            self._local(equation)
            return
        params, inputs = equation.params, equation.invars
        first, second = params["cond_nconsts"], params["body_nconsts"]
        labels = [self.label(v) for v in inputs]
        while True:
            body = self._body(equation, params["body_jaxpr"], inputs[first:], labels[first:])
            out = [body.placement(v) for v in body.results]
            now = labels[first + second :]
            joined = [self._joined(equation, a, b) for a, b in zip(now, out)]
            if joined == now:
                break
            labels[first + second :] = joined
        chosen = [*range(first), *range(first + second, len(inputs))]
        predicate = self._body(
            equation, params["cond_jaxpr"], [inputs[i] for i in chosen], [labels[i] for i in chosen]
        )
        self._require_server_control(
            equation, predicate.placement(predicate.results[0]), has_messages(body)
        )
        if not has_one_predicate(equation):
            self._while(with_one_predicate(equation, [label is CLIENTS for label in joined]))
            return
        step = While(
            predicate, body, first, second, tuple(inputs), tuple(equation.outvars), equation
        )
        self.define(step, joined)

    def _cond(self, equation: JaxprEqn) -> None:
        if self._stays_local(equation):
            self._local(equation)
            return
        talks = communicates(equation)
        self._require_server_control(equation, self.label(equation.invars[0]), talks)
        inputs = equation.invars[1:]
        labels = [self.label(v) for v in inputs]
        branches = tuple(
            self._body(equation, b, inputs, labels) for b in equation.params["branches"]
        )
        columns = list(zip(*([b.placement(v) for v in b.results] for b in branches)))
        if any({SERVER, CLIENTS} <= set(column) for column in columns):
            raise misplacing.two_places(equation)
        joined = [next((label for label in column if label), None) for column in columns]
        index = self.label(equation.invars[0])
        if CLIENTS in joined and index is SERVER and not talks:
            raise self._mixture(equation, misplacing.SILENT_CHOICE)
        # What a server value chooses is the server's, even where the branches are constants.
        labels = [index if label is None else label for label in joined]
        step = Branch(branches, tuple(equation.invars), tuple(equation.outvars), equation)
        self.define(step, labels)
        if index is SERVER:
            chosen = (v for v, column in zip(step.outputs, columns) if None in column)
            self.origins.update(dict.fromkeys(chosen, misplacing.CHOSEN_CONSTANT))

    def _require_server_control(self, equation: JaxprEqn, label: Label, talks: bool) -> None:
        if label is CLIENTS:
            raise misplacing.client_control(equation, talks)

    def _joined(self, equation: JaxprEqn, first: Label, second: Label) -> Label:
        if first is None or second is None or first is second:
            return first or second
        raise misplacing.two_places(equation)
