"""`computation`: a JAX function with a placement for each argument.

The function is ordinary JAX over per-client values. Inside it only `broadcast` and `sum` (and
`mean`, which is two sums) cross between server and clients. A `Computation` can be called inside
another one; run it with `simulate` or `execute`, differentiate it with `grad` and its companions.

Source: Rush, Charles, Garrett (JMLR 2024), section 2.
"""

import dataclasses
import functools
import inspect
import itertools
import keyword
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from secfad import _jax
from secfad.errors import ArgumentError, PlacementError
from secfad.jaxprs.iterations import without_counts
from secfad.jaxprs.references import require_no_references
from secfad.placements import Placement
from secfad.primitives import OUTSIDE
from secfad.vmap_rules import without_rules


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """A function and the placement of each of its arguments, in order.

    Attributes:
      fun: The function, over per-client values.
      placements: Parameter name to placement, in the order of the parameters.
      name: What errors and reports call it.
      defaults: Values of the last arguments, for whoever leaves them out.
      made: What was made of the computation and is kept with it: derivatives, compiled simulations.
    """

    fun: Callable
    placements: Mapping[str, Placement]
    name: str
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Kept here and not in a table of all computations: what is made of one refers to it.
    made: dict[Any, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        """Lets Python's `help` and `inspect.signature` show this computation, not its class."""
        object.__setattr__(self, "__name__", self.name)
        object.__setattr__(self, "__doc__", None)
        # Arguments of translated programs may have names that can only be given by position.
        if all(name.isidentifier() and not keyword.iskeyword(name) for name in self.placements):
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            values = {name: {"default": value} for name, value in self.defaults.items()}
            parameters = [
                inspect.Parameter(name, kind, **values.get(name, {})) for name in self.placements
            ]
            object.__setattr__(self, "__signature__", inspect.Signature(parameters))

    def documented(self, text: str | None) -> "Computation":
        """The computation, with a docstring of its own."""
        object.__setattr__(self, "__doc__", text)
        return self

    def traced(self, specs: tuple) -> tuple[_jax.ClosedJaxpr, Any]:
        """The program and the tree of its results, at arguments of these shapes."""
        closed, tree = self.trace_at(specs)
        require_no_references(self.name, closed.jaxpr)
        return without_counts(without_rules(closed)), tree

    def trace_at(self, specs: tuple) -> tuple[_jax.ClosedJaxpr, Any]:
        """What `traced` gives; derivatives are traced in another way (`secfad.derivatives.traced`)."""
        return _jax.make_jaxpr(self.fun, specs)

    @property
    def fused(self) -> "Computation":
        """The computation to simulate as one program, in which no message is formed."""
        return self

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the function: only useful inside another computation or a JAX trace."""
        try:
            return self.fun(*self.bind(*args, **kwargs))
        except PlacementError as error:
            if error.kind != OUTSIDE:
                raise
            raise PlacementError(
                f"`{self.name}` was called on arrays by itself, but it communicates. Run it with "
                f"secfad.simulate({self.name})(*args) and differentiate it with secfad.grad({self.name}), "
                "not with jax.grad.",
                kind=OUTSIDE,
                line=error.line,
            ) from error

    def bind(self, /, *args: Any, **kwargs: Any) -> tuple:
        """The arguments in order, whether given by position, by name or by their default.

        Raises:
          ArgumentError: An argument is missing, unknown or given twice; names it.
        """
        names = list(self.placements)
        given = dict(zip(names, args)) | kwargs
        faults = {
            "missing": [n for n in names if n not in given and n not in self.defaults],
            "unknown": [n for n in kwargs if n not in names],
            "given twice": [n for n in names[: len(args)] if n in kwargs],
        }
        if len(args) > len(names) or any(faults.values()):
            found = [f"; {what}: {', '.join(map(repr, n))}" for what, n in faults.items() if n]
            raise ArgumentError(
                f"`{self.name}` expected the arguments {described_arguments(self)}, got {len(args)} by "
                f"position and {sorted(kwargs)} by name{''.join(found)}. Pass each argument once."
            )
        return tuple(given[n] if n in given else self.defaults[n] for n in names)


def described_arguments(computation: Computation) -> str:
    """The arguments as errors show them: `(w, x, lr=0.1)`."""
    values = computation.defaults
    shown = (f"{n}={values[n]!r}" if n in values else n for n in computation.placements)
    return f"({', '.join(shown)})"


def require_computation(given: Any) -> None:
    """Raises ArgumentError for what is no computation, such as a function without its decorator."""
    if not isinstance(given, Computation):
        raise ArgumentError(
            f"Expected a Computation, got {type(given).__name__}. Decorate the function with "
            "@secfad.computation(argument=secfad.SERVER, ...)."
        )


def computation(*bare: Callable, **placements: Placement) -> Callable[[Callable], Computation]:
    """Declares a federated computation: `@computation(model=SERVER, batch=CLIENTS)`.

    A parameter with a default may be left out wherever the computation is called, traced or run. One
    that has a default and no placement, such as what `functools.partial` bound, keeps its default and
    is no argument of the computation.

    Args:
      *bare: Nothing: only a decorator without its placements is given a function here.
      **placements: `SERVER` or `CLIENTS` for every parameter of the function without a default. A
        parameter may be a tree; all of it has the one placement.

    Returns:
      A decorator from a function, or any callable object, to a `Computation`.

    Raises:
      ArgumentError: The names are not those of the function's parameters, or there are none.
    """
    if bare:
        raise ArgumentError(
            f"Expected a placement for each parameter, got {bare[0]!r} instead. Write "
            "@secfad.computation(model=secfad.SERVER, batch=secfad.CLIENTS) above the function, with the "
            "names of its own parameters."
        )
    for name, placement in placements.items():
        if not isinstance(placement, Placement):
            raise ArgumentError(
                f"Expected SERVER or CLIENTS for `{name}`, got {placement!r}. "
                "Write @computation(model=secfad.SERVER, batch=secfad.CLIENTS)."
            )

    def decorate(fun: Callable) -> Computation:
        name = _name(fun)
        parameters = _parameters(fun, name)
        required = [n for n, p in parameters.items() if p.default is p.empty]
        if not set(required) <= set(placements) <= set(parameters):
            raise ArgumentError(
                f"`{name}` has the parameters ({', '.join(parameters)}), got placements for "
                f"({', '.join(placements)}). Give each parameter without a default one placement."
            )
        placed = {n: p for n, p in parameters.items() if n in placements}
        made = Computation(
            _by_position(fun, parameters, placed),
            MappingProxyType({n: placements[n] for n in placed}),
            name,
            defaults=MappingProxyType(_defaults(placed)),
        )
        return made.documented(getattr(fun, "__doc__", None))

    return decorate


def _name(fun: Any) -> str:
    """What to call a function, a partial function or a callable object."""
    while isinstance(fun, functools.partial):
        fun = fun.func
    return getattr(fun, "__name__", type(fun).__name__)


def _parameters(fun: Callable, name: str) -> dict[str, inspect.Parameter]:
    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"Expected a function with parameters that have names, got {fun!r}. Wrap it in one: "
            "lambda model, batch: ..."
        ) from error
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(p.kind in variable for p in signature.parameters.values()):
        raise ArgumentError(
            f"`{name}` expected plain parameters, got the signature {signature}. A computation has no "
            "*args and no **kwargs; wrap the function in one that names its parameters."
        )
    return dict(signature.parameters)


def _by_position(fun: Callable, parameters: Mapping, placed: Mapping) -> Callable:
    """The function of its placed parameters by position; the others keep their defaults."""
    by_name = [n for n, p in placed.items() if p.kind is p.KEYWORD_ONLY]
    count = len(placed) - len(by_name)
    if not by_name and list(placed) == list(parameters)[:count]:
        return fun
    leading = list(itertools.takewhile(lambda n: n in placed, parameters))
    count = sum(parameters[n].kind is not inspect.Parameter.KEYWORD_ONLY for n in leading)
    names = list(placed)[count:]

    @functools.wraps(fun, updated=())
    def by_position(*args: Any) -> Any:
        return fun(*args[:count], **dict(zip(names, args[count:])))

    return by_position


def _defaults(placed: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The defaults of the last parameters; one before a parameter that has none cannot be left out."""
    last = itertools.takewhile(lambda p: p.default is not p.empty, reversed([*placed.values()]))
    return {p.name: p.default for p in reversed([*last])}
