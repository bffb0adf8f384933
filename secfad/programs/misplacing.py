"""Misplacing: what placement inference says of values of two places that meet."""

from secfad import _jax
from secfad._jax import JaxprEqn
from secfad.errors import PlacementError, TracingError
from secfad.primitives import HIDDEN

_JAX_DERIVATIVE = (
    "in JAX's own derivative of a choice that communicates: use secfad.grad of a computation there"
)
# What errors call a constant that is the server's only because the server chose it.
CHOSEN_CONSTANT = f"a constant that the server chose; {_JAX_DERIVATIVE}"
# JAX saves what the branch taken computed, by a choice that tells the clients nothing.
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


_INSTEAD = {
    "linear_solve": "Use jax.scipy.sparse.linalg.cg or jax.lax.custom_linear_solve",
    "linear_call": "Use jax.lax.custom_linear_solve, or a jax.custom_vjp",
}


def hidden(equation: JaxprEqn, *others: JaxprEqn) -> PlacementError:
    """An operation, one of several, with communication inside, where nothing follows it."""
    names = dict.fromkeys(e.primitive.name for e in (equation, *others))
    instead = next((_INSTEAD[n] for n in names if n in _INSTEAD), "Communicate outside of it")
    return PlacementError(
        f"communication inside {' or '.join(f'`{name}`' for name in names)} cannot be followed: no "
        f"table, cost or certificate would show it. {instead}. Communication may stand in jit, "
        "checkpoint, scan, while_loop, cond, custom_jvp, custom_vjp and custom_linear_solve.",
        kind=HIDDEN,
        line=_jax.user_line(equation),
    )


def unknown(reason: Exception, equation: JaxprEqn, *others: JaxprEqn) -> TracingError:
    """An operation of which JAX cannot show what it does."""
    names = dict.fromkeys(e.primitive.name for e in (equation, *others))
    text = (str(reason).splitlines() or [""])[0]
    return TracingError(
        f"{_jax.user_line(equation)}: {' or '.join(f'`{name}`' for name in names)} holds a function, and "
        f"cannot be mapped over clients and compiled to see whether that communicates "
        f"({type(reason).__name__}: {text}). Give it a rule for jax.vmap, or leave it out."
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
