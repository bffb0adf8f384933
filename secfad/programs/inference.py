"""Placement inference: from a traced program to a `Placed` one, or an error at the user's line.

One forward pass. A value computed from a client value is a client value, one computed from a server
value is a server value, one computed from constants only is neither. Meeting both is an error:
a server value must be broadcast before clients use it, because otherwise its derivative would be
added over clients without a sum that anyone could see. Carries of loops are iterated until their
placement is stable; the lattice has height one, so twice is enough.

Sources: Rush, Charles, Garrett (JMLR 2024), section 2; docs/semantics.md.
"""

from collections.abc import Sequence

from secfad import _jax
from secfad._jax import ClosedJaxpr, JaxprEqn, Literal, Var
from secfad.errors import PlacementError
from secfad.jaxprs.dependence import one_by_one, separated
from secfad.jaxprs.equations import (
    CUSTOM_RULES,
    OWN_DERIVATIVE,
    Atom,
    Broadcast,
    Cond,
    Scan,
    Sum,
    While,
    as_call,
    view,
    viewed,
)
from secfad.jaxprs.inside import communicates, variables
from secfad.jaxprs.rewriting import Rewriter, renamed
from secfad.placements import CLIENTS, SERVER, Placement
from secfad.programs import misplacing
from secfad.programs.normalization import opened
from secfad.programs.placed import Placed
from secfad.programs.predicates import has_one_predicate, with_one_predicate

Label = Placement | None


def place(
    closed: ClosedJaxpr,
    placements: Sequence[Label],
    origins: Sequence[str],
    *,
    keep_rules: bool = False,
) -> Placed:
    """Places every value of a program in normal form.

    Args:
      closed: The program; see `normalization.normalise`.
      placements: Of its inputs.
      origins: What errors call its inputs, such as "argument `model`".
      keep_rules: Never replace a custom derivative rule by its body, because the program will be
        differentiated.

    Raises:
      PlacementError: A value is used where it does not live; names the user's line.
    """
    return _Scope(keep_rules).placed(closed, placements, origins)


class _Scope(Rewriter):
    """Inference over one program; those inside get scopes of their own.

    Attributes:
      labels: Places of the emitted variables, at every depth.
      origins: What errors call them.
      inside: Constants of the programs inside.
    """

    def __init__(self, keep_rules: bool):
        super().__init__()
        self.keep_rules = keep_rules
        self.labels: dict[Var, Label] = {}
        self.origins: dict[Var, str] = {}
        self.inside: dict[Var, object] = {}

    def placed(
        self, closed: ClosedJaxpr, labels: Sequence[Label], origins: Sequence[str]
    ) -> Placed:
        self.labels.update(zip(closed.jaxpr.invars, labels))
        self.origins.update(zip(closed.jaxpr.invars, origins))
        made = self.rewritten(closed).jaxpr
        self.labels.update(dict.fromkeys(self.constants))
        return Placed(made, self.labels, self.constants | self.inside)

    def label(self, atom: Atom) -> Label:
        if isinstance(atom, Literal) or atom in self.constants:
            return None
        return self.labels[atom]

    def origin(self, atom: Atom) -> str:
        return "a constant" if isinstance(atom, Literal) else self.origins.get(atom, "a value")

    def emit(self, equation: JaxprEqn, labels: Sequence[Label], origin: str | None = None) -> None:
        """Emits an equation whose results are at these places."""
        if origin is None:
            placed = [v for v in equation.invars if self.label(v) is not None]
            origin = self.origin(placed[0]) if placed else "a constant"
        results = [Var(v.aval) for v in equation.outvars]
        self.equations.append(equation.replace(outvars=results))
        self.define(equation, results)
        self.labels.update(zip(results, labels))
        self.origins.update(dict.fromkeys(results, origin))

    def equation(self, equation: JaxprEqn) -> None:
        equation = equation.replace(invars=self.now(equation.invars))
        match view(equation):
            case Broadcast():
                self._broadcast(equation)
            case Sum():
                self._sum(equation)
            case Scan() | While() | Cond() as control:
                self._control(control)
            case _ if len({self.label(v) for v in equation.invars}) > 1:
                for part in one_by_one(equation):
                    self._local(part)
            case _:
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
            invars, outvars = map(list, zip(*sent))
            message = equation.replace(invars=invars, outvars=outvars)
            self.emit(message, [CLIENTS] * len(sent), f"broadcast `{name}`")

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
        self.emit(equation, [SERVER] * len(equation.outvars), f"sum `{name}`")

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
                    self.emit(free, [None] * len(free.outvars))
                equation = parts[1]
            placement = labels.pop() if labels else None
            self.emit(equation, [placement] * len(equation.outvars))
            return
        call = as_call(equation)
        if call is None or (self.keep_rules and equation.primitive in CUSTOM_RULES):
            raise self._mixture(equation)
        self.define(equation, self.inline(call.body, call.operands, equation))

    def _ruled(self, equation: JaxprEqn) -> None:
        """A call that communicates and has its own derivative: one step at both places."""
        call = as_call(equation)
        assert call is not None
        labels = [self.label(v) for v in call.operands]
        body = self._body(equation, opened(call.body), call.operands, labels)
        self.emit(equation, _results(body))

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
    ) -> Placed:
        origins = [self.origin(v) for v in inputs]
        return _Scope(self.keep_rules).placed(renamed(body, caller=equation), labels, origins)

    def _control(self, control: Scan | While | Cond) -> None:
        if self._stays_local(control.equation):
            self._local(control.equation)
            return
        match control:
            case Scan():
                if not self._apart(control.equation):
                    self._scan(control)
            case While():
                self._while(control)
            case Cond():
                self._cond(control)

    def _driven(self, equation: JaxprEqn, bodies: Sequence[Placed], labels: list[Label]) -> None:
        """Defines control flow with placed bodies."""
        if self._stays_local(equation):
            # Nothing was sent in it but constants, which both sides know.
            self._local(equation)
            return
        for body in bodies:
            self.labels.update(body.places)
            self.inside.update(body.constants)
        self.emit(equation, labels)

    def _scan(self, loop: Scan) -> None:
        consts, carry, xs = loop.split([self.label(v) for v in loop.inputs])
        while True:
            body = self._body(loop.equation, loop.body, loop.inputs, [*consts, *carry, *xs])
            out, ys = loop.split_out(_results(body))
            before, carry = carry, self._joined(loop.equation, carry, out)
            if carry == before:
                break
        self._driven(loop.with_(body=body.closed), [body], [*carry, *ys])

    def _while(self, loop: While) -> None:
        head, consts, carry = loop.split([self.label(v) for v in loop.inputs])
        operands = [*loop.body_consts, *loop.carry]
        while True:
            body = self._body(loop.equation, loop.body, operands, [*consts, *carry])
            before, carry = carry, self._joined(loop.equation, carry, _results(body))
            if carry == before:
                break
        operands = [*loop.predicate_consts, *loop.carry]
        predicate = self._body(loop.equation, loop.predicate, operands, [*head, *carry])
        if _results(predicate)[0] is CLIENTS:
            talks = communicates.in_jaxpr(body.jaxpr)
            raise misplacing.client_control(loop.equation, talks)
        if not has_one_predicate(loop.equation):
            at_clients = [label is CLIENTS for label in carry]
            self._control(viewed(with_one_predicate(loop.equation, at_clients), While))
            return
        made = loop.with_(predicate=predicate.closed, body=body.closed)
        self._driven(made, [predicate, body], carry)

    def _cond(self, cond: Cond) -> None:
        equation, talks = cond.equation, communicates(cond.equation)
        index, labels = cond.split([self.label(v) for v in cond.inputs])
        if index is CLIENTS:
            raise misplacing.client_control(equation, talks)
        branches = [self._body(equation, b, cond.operands, labels) for b in cond.branches]
        columns = list(zip(*map(_results, branches)))
        if any({SERVER, CLIENTS} <= set(column) for column in columns):
            raise misplacing.two_places(equation)
        joined = [next((label for label in column if label), None) for column in columns]
        if CLIENTS in joined and index is SERVER and not talks:
            raise self._mixture(equation, misplacing.SILENT_CHOICE)
        # What a server value chooses is the server's, even where the branches are constants.
        labels = [index if label is None else label for label in joined]
        self._driven(cond.with_(branches=[b.closed for b in branches]), branches, labels)
        if index is SERVER:
            pairs = zip(self.now(cond.outputs), columns)
            chosen = variables(v for v, column in pairs if None in column)
            self.origins.update(dict.fromkeys(chosen, misplacing.CHOSEN_CONSTANT))

    def _joined(
        self, equation: JaxprEqn, before: Sequence[Label], after: Sequence[Label]
    ) -> list[Label]:
        if any({SERVER, CLIENTS} <= {*pair} for pair in zip(before, after)):
            raise misplacing.two_places(equation)
        return [first or second for first, second in zip(before, after)]


def _results(body: Placed) -> list[Label]:
    return [body.placement(v) for v in body.results]
