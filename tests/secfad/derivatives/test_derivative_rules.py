"""Client code with derivative rules of its own: what is behind a rule is not differentiated.

Implicit layers, solvers and differential equations have loops inside of rules. Mixed and blockwise mode
take the derivative that the rule gives, in the direction in which there is one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.ode import odeint
from jax.scipy.sparse.linalg import cg

import secfad as fad
from secfad.derivatives.jacobians import NonlinearRuleWarning
from secfad.errors import ModeError

pytestmark = pytest.mark.usefixtures("double_precision", "quick_compilation")

S, C = fad.SERVER, fad.CLIENTS
RNG = np.random.default_rng(0)
W, X = np.array([0.3, 0.1, -0.5]), RNG.normal(size=(4, 3))


def newton(a):
    step = lambda r: 0.5 * (r + a / r)
    return jax.lax.while_loop(lambda r: jnp.abs(r**2 - a) > 1e-14, step, a)


@jax.custom_vjp
def root_vjp(a):
    return newton(a)


root_vjp.defvjp(lambda a: (newton(a),) * 2, lambda r, g: (g / (2 * r),))


@jax.custom_jvp
def root_jvp(a):
    return newton(a)


root_jvp.defjvp(lambda p, t: (root_jvp(*p), t[0] / (2 * root_jvp(*p))))


@jax.custom_jvp
def root_pushed(a):
    """Its rule iterates on the tangent, so that there is no way back."""
    return newton(a)


@root_pushed.defjvp
def _(primals, tangents):
    r = root_pushed(*primals)
    halved = lambda s: (s[0] + 1, s[1] + 0.5 ** (s[0] + 1.0) * tangents[0] / (2 * r))
    going_on = lambda s: s[0] < 60 + jnp.int32(0 * r)
    return r, jax.lax.while_loop(going_on, halved, (0, jnp.zeros_like(r)))[1]


def distance(w, x):
    return 1 + jnp.sum((x - w) ** 2)


def solved(w, x):
    matrix = jnp.eye(3) * (2 + w @ w) + jnp.outer(x, x)
    return jnp.sum(cg(lambda v: matrix @ v, x * w, tol=1e-13)[0] ** 2)


def implicit(tangent_solve):
    def fun(w, x):
        f = lambda u: u**3 + u - w * x
        descend = lambda g, u: jax.lax.while_loop(
            lambda u: jnp.max(jnp.abs(g(u))) > 1e-13, lambda u: u - g(u) / (1 + 3 * u**2), u
        )
        return jnp.sum(jax.lax.custom_root(f, jnp.zeros(3), descend, tangent_solve))

    return fun


def summed_in_scan(w, x):
    add = lambda c, a: (c + root_vjp(distance(w, x) + a), None)
    return jax.lax.scan(add, 0.0, x)[0]


LOCAL = {
    "custom_vjp": lambda w, x: root_vjp(distance(w, x)),
    "custom_jvp": lambda w, x: root_jvp(distance(w, x)),
    "custom_jvp of iterations": lambda w, x: root_pushed(distance(w, x)),
    "custom_vjp in scan": summed_in_scan,
    "linear solver": solved,
    "root, dense": implicit(lambda g, y: jnp.linalg.solve(jax.jacobian(g)(y), y)),
    # JAX has no reverse mode of it, and needs none.
    "root, iterations": implicit(lambda g, y: cg(g, y, tol=1e-13)[0]),
}
USUAL = {"custom_vjp", "custom_jvp", "custom_jvp of iterations", "custom_vjp in scan"}


def federated(local):
    @fad.computation(w=S, x=C)
    def computation(w, x):
        return jnp.sin(fad.mean(local(fad.broadcast(w), x)))

    return computation


def is_exact(local, mode, tolerance=1e-7, step=1e-5):
    """Whether a mode gives the differences of the value, which no rule decides."""
    value = jax.jit(lambda w: jnp.sin(jnp.mean(jax.vmap(local, (None, 0))(w, jnp.asarray(X)))))
    expected = [(value(W + d) - value(W - d)) / (2 * step) for d in step * np.eye(3)]
    got = fad.simulate(fad.grad(federated(local), mode=mode))(W, X)
    return np.allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.sample(quick=2)
@pytest.mark.parametrize("mode", ["mixed", "blockwise"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in USUAL else pytest.mark.slow) for n in LOCAL]
)
def test_the_derivative_is_that_of_the_rule(name, mode):
    assert is_exact(LOCAL[name], mode)


@pytest.mark.slow
def test_each_source_and_each_operand_is_differentiated_in_its_own_direction():
    """A rule that only goes back, and a loop that only goes forward, in one message."""

    @fad.computation(w=S, x=C)
    def together(w, x):
        a, b = fad.broadcast((w, 2 * w))
        back, forward = root_vjp(distance(a, x)), newton(distance(b, x))
        return jnp.prod(jnp.stack(fad.mean((back, forward, back * forward))))

    def central(w):
        root = lambda w, x: jnp.sqrt(distance(w, x))
        back, forward = (jax.vmap(root, (None, 0))(v, X) for v in (w, 2 * w))
        return jnp.mean(back) * jnp.mean(forward) * jnp.mean(back * forward)

    got = fad.simulate(fad.grad(together, mode="mixed"))(W, X)
    np.testing.assert_allclose(got, jax.grad(central)(W), rtol=1e-10)


def test_what_has_no_derivative_in_any_direction_is_refused_with_what_jax_says():
    both = federated(lambda w, x: newton(root_vjp(distance(w, x))))
    words = r"either direction. Reverse: .*while_loop.* Forward: .*custom_vjp"
    with pytest.raises(ModeError, match=words):
        fad.trace(fad.grad(both, mode="mixed"), W, X[0])
    for mode in ("reverse", "forward"):
        with pytest.raises(ModeError):
            fad.trace(fad.grad(both, mode=mode), W, X[0])


def test_a_rule_with_a_linear_loop_in_it_is_seen_to_be_linear():
    @jax.custom_vjp
    def fun(a):
        return jnp.sin(a)

    def backward(a, g):
        halves = lambda s: (s[0] + 1, 0.5 * s[1], s[2] + s[1])
        return (jnp.cos(a) * jax.lax.while_loop(lambda s: s[0] < 60, halves, (0, g / 2, 0 * g))[2],)

    fun.defvjp(lambda a: (jnp.sin(a), a), backward)
    # A warning would be an error.
    assert is_exact(lambda w, x: jnp.sum(fun(w * x)), "mixed")


# Of packages. Each takes seconds to compile.
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mixed", "blockwise"])
class TestPackages:
    def test_jaxopt(self, mode):
        jaxopt = pytest.importorskip("jaxopt")
        contract = lambda u, t: 0.3 * jnp.sin(u) + t

        def fixed_point(w, x):
            solver = jaxopt.FixedPointIteration(contract, maxiter=200, tol=1e-13)
            return jnp.sum(solver.run(jnp.zeros(3), w * x).params ** 2)

        # Its linear solver stops at 1e-6.
        assert is_exact(fixed_point, mode, 1e-6)

    @pytest.mark.filterwarnings("ignore::secfad.derivatives.jacobians.NonlinearRuleWarning")
    def test_diffrax(self, mode):
        diffrax = pytest.importorskip("diffrax")

        def decayed(w, x):
            term = diffrax.ODETerm(lambda t, y, a: -a * y)
            control = diffrax.PIDController(rtol=1e-10, atol=1e-10)
            solution = diffrax.diffeqsolve(
                term, diffrax.Tsit5(), 0, 1, None, x, w**2 + 0.1, stepsize_controller=control
            )
            return jnp.sum(solution.ys**2)

        assert is_exact(decayed, mode)

    @pytest.mark.parametrize("kind", ["checkpointed", "bounded"])
    def test_equinox(self, mode, kind):
        loops = pytest.importorskip("equinox.internal")

        def iterated(w, x):
            step = lambda s: (s[0] + 1, jnp.sin(s[1] * w) + x)
            going_on = lambda s: s[0] < 7
            return loops.while_loop(going_on, step, (0, x), max_steps=16, kind=kind)[1].sum()

        assert is_exact(iterated, mode)

    def test_optimistix(self, mode):
        optimistix = pytest.importorskip("optimistix")

        def root(w, x):
            solver = optimistix.Newton(rtol=1e-12, atol=1e-12)
            f = lambda u, a: u**3 + u - a
            return optimistix.root_find(f, solver, jnp.zeros(3), args=w * x).value.sum()

        assert is_exact(root, mode)

    def test_odeint(self, mode):
        def decayed(w, x):
            times = jnp.array([0.0, 1.0])
            derivative = lambda y, t, a: -a * y
            return jnp.sum(
                odeint(derivative, x, times, w**2 + 0.1, rtol=1e-11, atol=1e-11)[-1] ** 2
            )

        # Its steps backwards are chosen by the cotangent.
        with pytest.warns(NonlinearRuleWarning, match="or not seen to be"):
            assert is_exact(decayed, mode)
