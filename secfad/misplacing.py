"""Misplacing: what placement inference says of values of two places that meet."""

from secfad import _jax
from secfad._jax import JaxprEqn
from secfad.errors import PlacementError

_JAX_DERIVATIVE = (
    "in JAX's own derivative of a choice that communicates: use secfad.grad of a computation there"
)
# What errors call a constant that is the server's only because the server chose it.
CHOSEN_CONSTANT = f"a constant that the server chose; {_JAX_DERIVATIVE}"
# What JAX saves of a choice in a loop is moved out of it, where nothing tells clients of the choice.
SILENT_CHOICE = f": the server would choose between client values ({_JAX_DERIVATIVE})"


def mixture(equation: JaxprEqn, server: str, client: str, detail: str = "") -> PlacementError:
    """An equation that reads a server value and a client value, given what they are called."""
    return PlacementError(
        f"`{equation.primitive.name}` expected values of one place, got a server value "
        f"({server}) and a client value ({client}){detail}. "
        "Wrap the server value in `broadcast`.",
        kind="implicit-broadcast",
        line=_jax.user_line(equation),
    )


def two_places(equation: JaxprEqn) -> PlacementError:
    """An equation with a result that is a server value in one case, a client value in another."""
    return PlacementError(
        f"`{equation.primitive.name}` expected a value to stay at one place, got a server value "
        "and a client value for the same result. Broadcast or sum, so that both are alike "
        f"({_JAX_DERIVATIVE}).",
        kind="implicit-broadcast",
        line=_jax.user_line(equation),
    )


def client_control(equation: JaxprEqn, talks: bool) -> PlacementError:
    """A client value that decides over control flow with communication or server values inside."""
    what = "communication inside would happen only if client data says so"
    return PlacementError(
        f"`{equation.primitive.name}` expected a server value to decide, got a client value; "
        f"{what if talks else 'the server cannot follow a decision of one client'}. "
        "Decide on a `sum`, or keep both outcomes at the clients and choose with jnp.where.",
        kind="client-control" if talks else "client-branch",
        line=_jax.user_line(equation),
    )
