"""Certificates for programs of other styles: they certify the native projection of the program.

The projection of a DrJAX program, or of a per-client function with a named axis, is the equivalent
native computation. `secfad.interop` replaces DrJAX's operators. This module replaces a `psum` over
the axis of clients by a `sum`, and inserts a `broadcast` where a client uses a server value. The
checker judges the program as written and every mode of the projection. The certificate, its
evidence and the verifier refer to the projection, which is differentiated, privatised and run. An
array style therefore needs no separate evidence, and two readings of one program must agree.

The projection computes the same values. Its derivatives are those of the sum over all clients,
unlike the derivative of `psum` under a named axis.
"""

import dataclasses
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import jax

from audits.certifying import CertificationError, check_modes, issue
from audits.checking.arguments import Leaves
from audits.checking.checking import check
from audits.checking.frontends import PLACEMENTS, SPMD_CLIENTS, Arg, trace_mode
from audits.rules.findings import Report
from audits.transfer import registry
from audits.transfer.labels import Place
from audits.transfer.styles import CLIENT_AXIS_NAME, STYLES
from privacy.certificates.certificates import Certificate
from privacy.certificates.cohort_ranges import CohortRange
from secfad import CLIENTS, SERVER, Computation, Placement, broadcast
from secfad import sum as federated_sum
from secfad.errors import TranslationError
from secfad.inner import ClosedJaxpr, Inside, JaxprEqn, Literal, as_call, evaluate, user_line
from secfad.interop.drjax import from_drjax

PROJECTED = ("drjax", "spmd")


def certify_arrays(
    fn: Callable,
    args: Sequence[Any],
    *,
    style: str,
    modes: Sequence[str] = ("primal",),
    argnums: int | Sequence[int] = 0,
) -> Certificate:
    """Certifies a DrJAX program or a per-client function with named collectives.

    Guarantees:
      Issued only if the checker accepts the program in its own style and every mode of its
      projection. The certificate covers the projection, and only the number of clients of the
      trace, because Python code of such a program may depend on this number.

    Args:
      fn: The program; its arguments are positional arrays or trees of them.
      args: Its arguments, an `Arg` or a tree of them each (`Arg.tree`); in DrJAX style they include
        the axis of clients.
      style: `"drjax"` or `"spmd"`.
      modes: `"primal"`, `"forward"`, `"reverse"`, `"mixed"`.
      argnums: Arguments of the derivative modes.

    Raises:
      CertificationError: With the findings of the program or of its projection.
      TranslationError: The program has no projection. It was checked but cannot be certified.
      ValueError: Another style.
    """
    if style not in PROJECTED:
        raise ValueError(
            f"Expected a style of {', '.join(PROJECTED)}, got {style!r}. Use audits.check for a verdict "
            "on stacked programs, and a native computation for a certificate."
        )
    wrt = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    report = check(fn, args, style=style)
    if report.kind == "reject":
        raise CertificationError([report])
    computation, specs = project(fn, args, style=style)
    reports = check_modes(computation, *specs, modes=modes, argnums=wrt)
    if any(found.kind == "reject" for found, _ in reports.values()):
        raise CertificationError([found for found, _ in reports.values()])
    if "primal" in reports:
        require_same_sums(report, reports["primal"][0])
    return dataclasses.replace(issue(computation, reports), cohort=traced_cohort(args, style))


def traced_cohort(args: Sequence[Any], style: str) -> CohortRange:
    """The one number of clients that a program of arrays was traced with."""
    clients = args_clients(jax.tree.leaves(list(args))) if style == "drjax" else SPMD_CLIENTS
    reason = f"a {style} program is certified for the number of clients that it was traced with"
    return CohortRange(clients, clients, reason)


def require_same_sums(written: Report, projected: Report) -> None:
    """The two readings of a program, as written and as projected, must release the same sums.

    Raises:
      TranslationError: They do not.
    """
    read, made = (
        sorted((e.shape, e.dtype, e.count) for e in report.facts.events if e.kind == "sum")
        for report in (written, projected)
    )
    if read != made:
        raise TranslationError(
            f"Expected the sums of the program, {read}, in its projection, got {made}. Write the "
            "program with secfad.sum to certify it."
        )


def args_clients(args: Sequence[Arg]) -> int:
    """Length of the axis of clients."""
    held = [a.shape[0] for a in args if PLACEMENTS[a.placement] == Place.CLIENT and a.shape]
    if not held:
        raise ValueError(
            "Expected an argument at the clients, got none, so there is nothing to sum."
        )
    return held[0]


def project(fn: Callable, args: Sequence[Any], *, style: str) -> tuple[Computation, tuple]:
    """The native computation of a program, and the specs of its arguments.

    Args:
      fn: The program.
      args: Its arguments, an `Arg` or a tree of them each, held by the server or by the clients.
      style: `"drjax"` or `"spmd"`.

    Raises:
      ValueError: The leaves of one argument have several holders.
      TranslationError: An operation has no counterpart. Raised when the computation is traced.
    """
    leaves = Leaves.of(fn, args)
    placements = {name: _holder(name, arg) for name, arg in zip(leaves.names, args)}
    if style == "drjax":
        specs = tuple(jax.tree.map(_at_one_client, arg) for arg in args)
        return from_drjax(_with_parameters(fn, list(placements)), **placements), specs
    traced = trace_mode(leaves.fn, leaves.args, style=STYLES["spmd"], mode="primal", wrt=())
    start = ["C" if _of_clients(a) else "S" for a in leaves.args]
    shapes = [a.spec for a in leaves.args]
    tree = jax.tree.structure(jax.eval_shape(_named(leaves.fn), *shapes))

    def one_client(*values: Any) -> Any:
        flat = jax.tree.leaves(values)
        return jax.tree.unflatten(tree, _Projection().run(traced.closed, flat, start)[0])

    name = getattr(fn, "__name__", "program")
    computation = Computation(one_client, MappingProxyType(placements), name)
    return computation, tuple(jax.tree.map(lambda a: a.spec, arg) for arg in args)


def _of_clients(arg: Arg) -> bool:
    return PLACEMENTS[arg.placement] == Place.CLIENT


def _holder(name: str, tree: Any) -> Placement:
    """Who holds the leaves of an argument."""
    held = {_of_clients(arg) for arg in jax.tree.leaves(tree)}
    if len(held) > 1:
        raise ValueError(
            f"Expected one placement for all of `{name}`, got several. Make two arguments of it."
        )
    return CLIENTS if True in held else SERVER


def _at_one_client(arg: Arg) -> jax.ShapeDtypeStruct:
    """The shape of a leaf without the axis of clients."""
    return jax.ShapeDtypeStruct(arg.shape[1:] if _of_clients(arg) else arg.shape, arg.spec.dtype)


def _named(fn: Callable) -> Callable:
    """The function under a named axis of clients, to get the structure of its result."""
    return jax.vmap(fn, in_axes=None, axis_name=CLIENT_AXIS_NAME, axis_size=SPMD_CLIENTS)


def _with_parameters(fn: Callable, names: Sequence[str]) -> Callable:
    """The function with the given parameter names."""
    import inspect

    def named(*values: Any) -> Any:
        return fn(*values)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    named.__name__ = getattr(fn, "__name__", "program")
    return named


class _Projection:
    """Evaluates a per-client trace with secfad's sums and broadcasts: K public, S server, C client."""

    def run(
        self, closed: ClosedJaxpr, values: Sequence[Any], places: Sequence[str]
    ) -> tuple[list[Any], list[str]]:
        jaxpr = closed.jaxpr
        env = dict(zip(jaxpr.constvars, zip(closed.consts, "K" * len(closed.consts))))
        env.update(zip(jaxpr.invars, zip(values, places)))
        sent: dict[Any, Any] = {}

        def read(atom: Any) -> tuple[Any, str]:
            return (atom.val, "K") if isinstance(atom, Literal) else env[atom]

        for equation in jaxpr.eqns:
            found = [read(v) for v in equation.invars]
            here = [p for _, p in found]
            if "C" in here and not _is_sum(equation) and not _has_sum(equation):
                found = [
                    self._at_clients(sent, atom, *pair)
                    for atom, pair in zip(equation.invars, found)
                ]
            results = self._equation(equation, [v for v, _ in found], here)
            env.update(zip(equation.outvars, zip(*results)))
        outs = [read(v) for v in jaxpr.outvars]
        return [v for v, _ in outs], [p for _, p in outs]

    def _at_clients(self, sent: dict, atom: Any, value: Any, place: str) -> tuple[Any, str]:
        """Broadcasts a server value that a client uses, once."""
        if place != "S":
            return value, place
        if atom not in sent:
            sent[atom] = broadcast(value, name="implicit")
        return sent[atom], "C"

    def _equation(
        self, equation: JaxprEqn, values: list[Any], places: list[str]
    ) -> tuple[list[Any], list[str]]:
        outputs = len(equation.outvars)
        if _is_sum(equation):
            return list(federated_sum(tuple(values), name="psum")), ["S"] * outputs
        if _has_sum(equation):
            call = as_call(equation)
            if call is None:
                raise TranslationError(
                    f"Expected `psum` outside of loops and branches, got one inside "
                    f"`{equation.primitive.name}`. Write the program with secfad.sum to certify it.",
                    line=user_line(equation),
                )
            chosen = [equation.invars.index(v) for v in call.operands]
            return self.run(call.body, [values[k] for k in chosen], [places[k] for k in chosen])
        place = "C" if "C" in places else "S" if "S" in places else "K"
        return evaluate(equation, values), [place] * outputs


def _is_sum(equation: JaxprEqn) -> bool:
    """A `psum` over the clients; one over the axes of an inner `vmap` is each client's own."""
    if registry.family(equation.primitive, style="spmd") != "psum":
        return False
    return tuple(equation.params["axes"]) == (CLIENT_AXIS_NAME,)


_has_sum = Inside(_is_sum)
