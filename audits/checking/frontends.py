"""Traces a function to the jaxpr of one derivative mode, with the placement of every input.

A mode is certified on its own trace: the primal, its forward derivative (`jvp`), its reverse
derivative (`vjp`), or, for a `Computation`, the derivative that `secfad` builds. Dead equations are
removed first, because a certificate is about the program that runs.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from audits.rules.families import DECISIONS
from audits.transfer.labels import (
    CLIENT_AXIS,
    Axis,
    Label,
    Place,
    data_axes,
)
from audits.transfer.styles import CLIENT_AXIS_NAME, Style
from secfad import CLIENTS, SERVER, Computation, jacobian
from secfad.inner import (
    ClosedJaxpr,
    JaxprEqn,
    any_inside,
    hide_file_from_tracebacks,
    live,
    without_counts,
)

PLACEMENTS = {
    "server": Place.SERVER,
    "server_key": Place.SERVER,
    "clients": Place.CLIENT,
    "client": Place.CLIENT,
    "client_state": Place.CLIENT,
    "client_key": Place.CLIENT,
}
SPMD_CLIENTS = 8


@dataclasses.dataclass(frozen=True)
class Arg:
    """One argument of a program under check.

    Attributes:
      name: Its name in findings.
      shape: Its shape; in stacked and DrJAX style with a leading axis of clients.
      dtype: A dtype, or `"key<fry>"` for a typed PRNG key.
      placement: `"server"`, `"server_key"`, `"clients"`, `"client_state"` or `"client_key"`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    placement: str

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise ValueError(
                f"Expected a placement of {', '.join(PLACEMENTS)} for `{self.name}`, got "
                f"{self.placement!r}. Say who holds the argument."
            )
        object.__setattr__(self, "shape", tuple(self.shape))

    @staticmethod
    def tree(name: str, spec: Any, placement: str) -> Any:
        """One `Arg` for every leaf of a tree of shapes: an argument of `audits.check`."""
        from audits.checking.arguments import tree_of

        return tree_of(name, spec, placement)

    @property
    def spec(self) -> jax.ShapeDtypeStruct:
        """The shape and dtype for tracing."""
        dtype = self.dtype
        if isinstance(dtype, str) and dtype.startswith("key<"):
            implementation = {"fry": "threefry2x32", "rbg": "rbg", "urbg": "unsafe_rbg"}[
                dtype[4:-1]
            ]
            dtype = jax.eval_shape(lambda: jax.random.key(0, impl=implementation)).dtype
        return jax.ShapeDtypeStruct(self.shape, dtype)

    @property
    def secret(self) -> bool:
        """Whether it is a key that its holder keeps secret: a typed key, or declared as a key."""
        typed = jax.dtypes.issubdtype(self.spec.dtype, jax.dtypes.prng_key)
        return typed or self.placement.endswith("_key")

    def label(self, style: Style) -> Label:
        """The label of the argument before the program runs."""
        place = PLACEMENTS[self.placement]
        axes = data_axes(len(self.shape))
        if place == Place.CLIENT and style.stacked:
            axes = (Axis(CLIENT_AXIS), *axes[1:])
        key = self.placement == "client_key" or str(self.dtype).startswith("key<")
        return Label(place, axes, drawn=place == Place.CLIENT and key)


@dataclasses.dataclass(frozen=True)
class Traced:
    """The program of one mode with its inputs.

    Attributes:
      closed: The jaxpr, without dead code.
      inputs: One argument record per input variable.
      wants: For each output the required placement; None if any placement is allowed.
      subjects: For each output that is a derivative, the differentiated argument.
      custom: The primal has custom derivative rules.
    """

    closed: ClosedJaxpr
    inputs: tuple[Arg, ...]
    wants: tuple[Place | None, ...]
    subjects: tuple[str, ...]
    custom: bool = False


def trace_mode(
    fn: Callable, args: Sequence[Arg], *, style: Style, mode: str, wrt: Sequence[int]
) -> Traced:
    """Traces `fn` in one mode.

    Args:
      fn: The function or `secfad` Computation.
      args: Its arguments, in order.
      style: Decides whether a named axis of clients is in scope.
      mode: `"primal"`, `"jvp"`, `"vjp"` or `"mixed"`.
      wrt: Positions of the arguments with respect to which the derivative is taken.

    Raises:
      ValueError: The mode is unknown, or `wrt` is empty or out of range.
    """
    if mode == "primal":
        return _traced(fn, args, style)
    _check_wrt(mode, args, wrt)
    if mode == "jvp":
        return _forward(fn, args, style, wrt)
    if mode == "vjp":
        return _reverse(fn, args, style, wrt)
    if mode == "mixed" and style.name == "native":
        return _mixed(fn, args, style, wrt)
    raise ValueError(
        f'Expected the mode "primal", "jvp", "vjp" or "mixed", got {mode!r}. '
        'Mixed mode is checked through `style="native"` only.'
    )


def _check_wrt(mode: str, args: Sequence[Arg], wrt: Sequence[int]) -> None:
    if not wrt or any(not 0 <= i < len(args) for i in wrt):
        raise ValueError(
            f"Expected positions of arguments in `wrt` for mode {mode!r}, got {tuple(wrt)} with "
            f"{len(args)} arguments. Name at least one, for example wrt=(0,)."
        )


def _forward(fn: Callable, args: Sequence[Arg], style: Style, wrt: Sequence[int]) -> Traced:
    tangents = [
        dataclasses.replace(args[i], name=f"{args[i].name}.tangent", placement=_plain(args[i]))
        for i in wrt
    ]

    def forward(*values):
        primals, moving = values[: len(args)], values[len(args) :]

        def of_wrt(*chosen):
            full = list(primals)
            for position, value in zip(wrt, chosen):
                full[position] = value
            return fn(*full)

        return jax.jvp(of_wrt, tuple(primals[i] for i in wrt), tuple(moving))

    return _traced(forward, [*args, *tangents], style)


def _reverse(fn: Callable, args: Sequence[Arg], style: Style, wrt: Sequence[int]) -> Traced:
    primal = _traced(fn, args, style)
    outs = [v.aval for v in primal.closed.jaxpr.outvars]
    kinds = output_places(primal, style)
    cotangents = [
        Arg(f"cotangent{k}", a.shape, _float_or_float0(a.dtype), place)  # type: ignore[attr-defined]
        for k, (a, place) in enumerate(zip(outs, kinds))
    ]

    def backward(*values):
        primals, sent = values[: len(args)], values[len(args) :]

        def of_wrt(*chosen):
            full = list(primals)
            for position, value in zip(wrt, chosen):
                full[position] = value
            return jax.tree.leaves(fn(*full))

        results, pull = jax.vjp(of_wrt, *(primals[i] for i in wrt))
        moved = [
            c if jnp.issubdtype(r.dtype, jnp.inexact) else np.zeros(r.shape, jax.dtypes.float0)
            for c, r in zip(sent, results)
        ]
        return pull(moved)

    traced = _traced(backward, [*args, *cotangents], style)
    return dataclasses.replace(
        traced,
        wants=tuple(PLACEMENTS[args[i].placement] for i in wrt),
        subjects=tuple(args[i].name for i in wrt),
        custom=any_inside(primal.closed.jaxpr, _is_custom_rule),
    )


def _is_custom_rule(equation: JaxprEqn) -> bool:
    return DECISIONS.get(equation.primitive.name) == "custom_rule"


def _mixed(fn: Callable, args: Sequence[Arg], style: Style, wrt: Sequence[int]) -> Traced:
    """Sums local Jacobians in the rounds of the primal; the server differentiates the rest."""
    words = {Place.SERVER: SERVER, Place.CLIENT: CLIENTS}
    placements = {a.name: words[PLACEMENTS[a.placement]] for a in args}
    name = getattr(fn, "__name__", "program")
    computation = Computation(getattr(fn, "fun", fn), MappingProxyType(placements), name)
    derived = jacobian(computation, tuple(wrt), mode="mixed")
    return _traced(derived.fun, args, style)


def _float_or_float0(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.float32


def _plain(arg: Arg) -> str:
    return "server" if PLACEMENTS[arg.placement] == Place.SERVER else "clients"


def output_places(primal: Traced, style: Style) -> list[str]:
    """The placement of the cotangent of each output, which is that of the output."""
    from audits.checking.checking import labels_of

    return [
        "clients" if label.place == Place.CLIENT else "server" for label in labels_of(primal, style)
    ]


@functools.cache
def _hide_drjax(folder: str) -> None:
    hide_file_from_tracebacks(folder)


def _traced(fn: Callable, args: Sequence[Arg], style: Style) -> Traced:
    if style.name == "drjax" and "drjax" in sys.modules:
        # Lines inside DrJAX's operators are not user code.
        _hide_drjax(str(Path(str(sys.modules["drjax"].__file__)).parent) + os.sep)
    fun = getattr(fn, "fun", fn)
    make = jax.make_jaxpr(
        fun, axis_env=[(CLIENT_AXIS_NAME, SPMD_CLIENTS)] if style.name == "spmd" else None
    )
    closed = live(without_counts(make(*(a.spec for a in args))))
    outs = len(closed.jaxpr.outvars)
    return Traced(closed, tuple(args), (None,) * outs, ("",) * outs)
