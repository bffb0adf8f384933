"""`computation`: a JAX function with a placement for each argument.

The function is ordinary JAX over per-client values. Inside it only `broadcast` and `sum` (and
`mean`, which is two sums) cross between server and clients. A `Computation` can be called inside
another one; run it with `simulate` or `execute`, differentiate it with `grad` and its companions.

Source: Rush, Charles, Garrett (JMLR 2024), section 2.
"""

import dataclasses
import inspect
import keyword
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from secfad import _jax
from secfad.errors import ArgumentError
from secfad.placements import Placement

_jax.hide_file_from_tracebacks(__file__)


@dataclasses.dataclass(frozen=True, eq=False)
class Computation:
    """A function and the placement of each of its arguments, in order.

    Attributes:
      fun: The function, over per-client values.
      placements: Parameter name to placement, in the order of the parameters.
      name: What errors and reports call it.
      tracer: Gives the program and the tree of its results at arguments of given shapes, where
        that is cheaper than to call `fun` in a trace.
      unfactored: Makes the same computation without anything that only saves messages.
      origin: What it is a derivative of, if that has the same arguments.
    """

    fun: Callable
    placements: Mapping[str, Placement]
    name: str
    tracer: Callable[[tuple], tuple[_jax.ClosedJaxpr, Any]] | None = None
    unfactored: "Callable[[], Computation] | None" = None
    origin: "Computation | None" = None

    def __post_init__(self):
        """Lets Python's `help` and `inspect.signature` show this computation, not its class."""
        object.__setattr__(self, "__name__", self.name)
        object.__setattr__(self, "__doc__", None)
        # Arguments of translated programs may have names that can only be given by position.
        if all(name.isidentifier() and not keyword.iskeyword(name) for name in self.placements):
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters = [inspect.Parameter(name, kind) for name in self.placements]
            object.__setattr__(self, "__signature__", inspect.Signature(parameters))

    def documented(self, text: str | None) -> "Computation":
        """The computation, with a docstring of its own."""
        object.__setattr__(self, "__doc__", text)
        return self

    def traced(self, specs: tuple) -> tuple[_jax.ClosedJaxpr, Any]:
        """The program and the tree of its results, at arguments of these shapes."""
        return self.tracer(specs) if self.tracer else _jax.make_jaxpr(self.fun, specs)

    @property
    def fused(self) -> "Computation":
        """The computation to simulate as one program, in which no message is formed."""
        return self.unfactored() if self.unfactored else self

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the function: only useful inside another computation or a JAX trace."""
        return self.fun(*self.bind(*args, **kwargs))

    def bind(self, /, *args: Any, **kwargs: Any) -> tuple:
        """The arguments in order, whether given by position or by name."""
        names = list(self.placements)
        given = dict(zip(names, args)) | kwargs
        if (
            len(args) > len(names)
            or set(given) != set(names)
            or len(given) < len(args) + len(kwargs)
        ):
            raise ArgumentError(
                f"`{self.name}` expected the arguments ({', '.join(names)}), got {len(args)} by position"
                f" and {sorted(kwargs)} by name. Pass each argument once."
            )
        return tuple(given[name] for name in names)


def require_computation(given: Any) -> None:
    """Raises ArgumentError for what is no computation, such as a function without its decorator."""
    if not isinstance(given, Computation):
        raise ArgumentError(
            f"Expected a Computation, got {type(given).__name__}. Decorate the function with "
            "@secfad.computation(argument=secfad.SERVER, ...)."
        )


def computation(*bare: Callable, **placements: Placement) -> Callable[[Callable], Computation]:
    """Declares a federated computation: `@computation(model=SERVER, batch=CLIENTS)`.

    Args:
      *bare: Nothing: only a decorator without its placements is given a function here.
      **placements: `SERVER` or `CLIENTS` for every parameter of the function. A parameter may be a
        tree; all of it has the one placement.

    Returns:
      A decorator from a function to a `Computation`.

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
        parameters = list(inspect.signature(fun).parameters.values())
        names = [p.name for p in parameters]
        if any(p.kind not in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY) for p in parameters):
            raise ArgumentError(
                f"Expected plain parameters, got the signature {inspect.signature(fun)}. "
                "A computation has no *args, **kwargs or keyword-only parameters."
            )
        if set(names) != set(placements):
            raise ArgumentError(
                f"`{fun.__name__}` has the parameters ({', '.join(names)}), got placements for "
                f"({', '.join(placements)}). Give each parameter one placement."
            )
        ordered = MappingProxyType({name: placements[name] for name in names})
        made = Computation(fun, ordered, getattr(fun, "__name__", "computation"))
        return made.documented(fun.__doc__)

    return decorate
