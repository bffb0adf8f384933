"""Clients that solve: optimisers, differential and linear equations of libraries.

jaxopt, diffrax, lineax and optimistix are optional; programs of what is not installed are left
out. Solvers stop by tolerance or after a fixed number of steps; the oracle runs the same ones.
"""

import importlib.util
import warnings

import jax
import jax.numpy as jnp
from practice import keys, objective, regression, uniform

from secfad.errors import ModeError

HAS = {
    n: importlib.util.find_spec(n) is not None
    for n in ("jaxopt", "diffrax", "equinox", "lineax", "optimistix")
}
# A custom_vjp rule has no forward derivative; loops behind it are its own matter.
BACKWARDS = {"refused": {"forward": (ModeError, "custom_vjp")}, "jacobian": jax.jacrev}


def local_loss(v, x, y):
    return jnp.mean((jnp.tanh(x @ v) - y) ** 2)


def penalised(v, w, x, y):
    """What a client minimises by `v`, near the model."""
    return local_loss(v, x, y) + 0.5 * jnp.sum((v - w) ** 2)


def residual(v, w, x, y):
    return jnp.concatenate([jnp.tanh(x @ v) - y, v - w])


def table(functions, make=regression, **options):
    """Adds client losses by their names."""
    for name, loss in functions.items():
        loss = _plain(loss)
        loss.__name__, loss.__module__ = name, __name__
        objective(make, **options)(loss)


def _plain(loss):
    return lambda w, x, y: loss(w, x, y)


if HAS["jaxopt"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # jaxopt is no longer maintained
        import jaxopt
        from jaxopt import projection, prox

    def solved(make, evaluate=local_loss):
        return lambda w, x, y: evaluate(make().run(jnp.zeros(3), w, x, y).params, x, y)

    implicit = {"maxiter": 30, "tol": 1e-14}
    table(
        {
            "jaxopt_gradient_descent_by_the_implicit_function_theorem": solved(
                lambda: jaxopt.GradientDescent(
                    penalised, stepsize=0.3, acceleration=False, **implicit
                )
            ),
            "jaxopt_accelerated_gradient_descent": solved(
                lambda: jaxopt.GradientDescent(penalised, stepsize=0.2, **implicit)
            ),
            "jaxopt_lbfgs": solved(lambda: jaxopt.LBFGS(penalised, maxiter=15, tol=1e-13)),
            "jaxopt_proximal_gradient": lambda w, x, y: jnp.sum(
                jaxopt.ProximalGradient(
                    penalised, prox.prox_lasso, stepsize=0.3, acceleration=False, **implicit
                )
                .run(jnp.zeros(3), 0.05, w, x, y)
                .params
                ** 2
            ),
            "jaxopt_projected_gradient": lambda w, x, y: local_loss(
                jaxopt.ProjectedGradient(
                    penalised,
                    projection.projection_simplex,
                    stepsize=0.3,
                    acceleration=False,
                    **implicit,
                )
                .run(jnp.ones(3) / 3, 1.0, w, x, y)
                .params,
                x,
                y,
            ),
            "jaxopt_fixed_point": lambda w, x, y: (
                jnp.sum(
                    jaxopt.FixedPointIteration(
                        lambda z, s: jnp.tanh(0.3 * z + s), maxiter=50, tol=1e-14
                    )
                    .run(jnp.zeros(3), x[0] * w)
                    .params
                    ** 2
                )
                * y[0]
            ),
            "jaxopt_anderson_acceleration": lambda w, x, y: (
                jnp.sum(
                    jaxopt.AndersonAcceleration(
                        lambda z, s: jnp.tanh(0.3 * z + s), history_size=3, maxiter=20, tol=1e-14
                    )
                    .run(jnp.zeros(3), x[0] * w)
                    .params
                )
                * y[0]
            ),
            "jaxopt_bisection": lambda w, x, y: (
                jaxopt.Bisection(
                    lambda v, a: v**3 + v - a, -9.0, 9.0, check_bracket=False, maxiter=60, tol=1e-14
                )
                .run(None, jnp.vdot(x[0], w) * y[0])
                .params
            ),
            "jaxopt_gauss_newton": lambda w, x, y: local_loss(
                jaxopt.GaussNewton(residual, maxiter=10, tol=1e-13).run(w * 0, w, x, y).params, x, y
            ),
            "jaxopt_levenberg_marquardt": lambda w, x, y: local_loss(
                jaxopt.LevenbergMarquardt(residual, maxiter=12, tol=1e-13)
                .run(w * 0, w, x, y)
                .params,
                x,
                y,
            ),
        },
        **BACKWARDS,
    )

    table(
        {
            "jaxopt_unrolled_gradient_descent": solved(
                lambda: jaxopt.GradientDescent(
                    penalised,
                    stepsize=0.3,
                    acceleration=False,
                    maxiter=3,
                    tol=0.0,
                    implicit_diff=False,
                    unroll=True,
                )
            ),
            "jaxopt_unrolled_polyak": solved(
                lambda: jaxopt.PolyakSGD(
                    penalised,
                    max_stepsize=0.3,
                    maxiter=3,
                    tol=0.0,
                    implicit_diff=False,
                    unroll=True,
                )
            ),
            "jaxopt_losses": lambda w, x, y: jnp.mean(
                jax.vmap(jaxopt.loss.huber_loss)(y, x @ w)
                + jax.vmap(jaxopt.loss.binary_logistic_loss)((y > 0) * 1, x @ w)
            ),
            "jaxopt_proximal_operators": lambda w, x, y: jnp.sum(
                prox.prox_lasso(w * x[0], 0.1) ** 2
                + prox.prox_elastic_net(w * x[1], (0.1, 0.5)) * y[0]
                + prox.prox_group_lasso(w * x[2], 0.2)
            ),
            "jaxopt_projections": lambda w, x, y: (
                jnp.vdot(x[0], projection.projection_l2_ball(2 * w * x[1], 0.7))
                + y[0] * jnp.sum(projection.projection_box(w * x[2], (-0.3, 0.4)) ** 2)
            ),
        }
    )
    table(
        {
            "jaxopt_projection_on_the_simplex": lambda w, x, y: (
                jnp.vdot(x[0], projection.projection_simplex(w * x[1])) * y[0]
            ),
        }
    )


if HAS["diffrax"]:
    import diffrax as dfx

    def field(t, z, args):
        w, x = args
        return jnp.tanh(w * z + x) - 0.5 * z

    def flow(solver, adjoint=None, controller=None, steps=16, saveat=None, vector=field):
        options = {"stepsize_controller": controller} if controller else {}
        if saveat is not None:
            options["saveat"] = saveat
        if adjoint is not None:
            options["adjoint"] = adjoint

        def client(w, x, y):
            solution = dfx.diffeqsolve(
                dfx.ODETerm(vector),
                solver,
                0.0,
                1.0,
                None if isinstance(controller, dfx.StepTo) else 0.25,
                x[0],
                (w, x[1]),
                max_steps=steps,
                **options,
            )
            return jnp.sum(solution.ys**2) * y[0]

        return client

    table(
        {
            "diffrax_euler": flow(dfx.Euler()),
            "diffrax_saved_states": flow(
                dfx.Ralston(), saveat=dfx.SaveAt(ts=jnp.array([0.1, 0.6, 1.0]))
            ),
            "diffrax_steps_at_given_times": flow(
                dfx.Midpoint(), controller=dfx.StepTo(jnp.array([0.0, 0.2, 0.5, 1.0]))
            ),
        },
        **BACKWARDS,
    )
    table(
        {
            "diffrax_direct_adjoint": flow(dfx.Heun(), dfx.DirectAdjoint()),
        }
    )
    table({"diffrax_backsolve_adjoint": flow(dfx.Heun(), dfx.BacksolveAdjoint())}, **BACKWARDS)

    def stochastic(clients):
        w, _, y = regression(clients)
        return w, keys(clients), y

    def langevin(w, key, y):
        path = dfx.VirtualBrownianTree(0.0, 1.0, tol=1e-2, shape=(3,), key=key)
        terms = dfx.MultiTerm(
            dfx.ODETerm(lambda t, z, w: -w * z),
            dfx.ControlTerm(lambda t, z, w: jnp.diag(jnp.tanh(w)), path),
        )
        solution = dfx.diffeqsolve(
            terms, dfx.EulerHeun(), 0.0, 1.0, 0.25, jnp.ones(3), w, max_steps=8
        )
        return jnp.sum(solution.ys) * y[0]

    def interpolated(w, x, y):
        times = jnp.linspace(0.0, 1.0, 5)
        control = dfx.CubicInterpolation(times, dfx.backward_hermite_coefficients(times, x))
        return jnp.sum(w * control.evaluate(0.37)) * y[0] + jnp.sum(w**2 * control.derivative(0.81))

    table({"diffrax_stochastic": langevin}, stochastic, **BACKWARDS)
    table({"diffrax_interpolation": interpolated})


if HAS["lineax"]:
    import lineax as lx

    def linear(make, solver, side=lambda x, y: x.T @ y):
        return lambda w, x, y: jnp.sum(lx.linear_solve(make(w, x), side(x, y), solver).value ** 2)

    gram = lambda w, x: x.T @ x + jnp.diag(jnp.exp(w))
    positive = lambda w, x: lx.MatrixLinearOperator(gram(w, x), lx.positive_semidefinite_tag)
    general = lambda w, x: lx.MatrixLinearOperator(gram(w, x) + jnp.triu(jnp.outer(w, w)))
    tall = lambda w, x: lx.MatrixLinearOperator(x * jnp.exp(w))
    tight = {"rtol": 1e-13, "atol": 1e-13}
    table(
        {
            "lineax_chosen_solver": linear(general, lx.AutoLinearSolver(well_posed=None)),
            "lineax_qr_least_squares": linear(tall, lx.QR(), lambda x, y: y),
            "lineax_svd_least_squares": linear(tall, lx.SVD(), lambda x, y: y),
            "lineax_gmres": linear(general, lx.GMRES(**tight)),
            "lineax_bicgstab": linear(general, lx.BiCGStab(**tight)),
            "lineax_normal_equations": linear(tall, lx.Normal(lx.CG(**tight)), lambda x, y: y),
            "lineax_diagonal": linear(
                lambda w, x: lx.DiagonalLinearOperator(jnp.exp(w)), lx.Diagonal()
            ),
            "lineax_tridiagonal": linear(
                lambda w, x: lx.TridiagonalLinearOperator(3 + w**2, w[:2], x[0, :2]),
                lx.Tridiagonal(),
            ),
            "lineax_triangular": linear(
                lambda w, x: lx.MatrixLinearOperator(jnp.tril(gram(w, x)), lx.lower_triangular_tag),
                lx.Triangular(),
            ),
            "lineax_function_operator": linear(
                lambda w, x: lx.FunctionLinearOperator(
                    lambda v: x.T @ (x @ v) + jnp.exp(w) * v,
                    jax.ShapeDtypeStruct((3,), float),
                    lx.positive_semidefinite_tag,
                ),
                lx.CG(**tight),
            ),
            "lineax_jacobian_operator": linear(
                lambda w, x: lx.JacobianLinearOperator(
                    lambda v, _: jnp.tanh(x.T @ x @ v) + 2 * v, w, jac="bwd"
                ),
                lx.AutoLinearSolver(well_posed=True),
            ),
        }
    )


if HAS["optimistix"]:
    import optimistix as optx

    close = {"rtol": 1e-12, "atol": 1e-12}
    arguments = lambda x, y: {"x": x, "y": y}

    def minimised(solver, adjoint=None):
        options = {} if adjoint is None else {"adjoint": adjoint}
        objective_of = lambda v, a: penalised(v, *a)

        def client(w, x, y):
            found = optx.minimise(
                objective_of,
                solver,
                jnp.zeros(3),
                args=(w, x, y),
                max_steps=64,
                throw=False,
                **options,
            )
            return local_loss(found.value, x, y)

        return client

    def fitted(solver):
        def client(w, x, y):
            found = optx.least_squares(
                lambda v, a: residual(v, *a), solver, jnp.zeros(3), args=(w, x, y), max_steps=64,
                throw=False,
            )  # fmt: skip
            return local_loss(found.value, x, y)

        return client

    def rooted(solver, **options):
        return lambda w, x, y: (
            optx.root_find(
                lambda v, a: v**3 + v - a, solver, jnp.array(0.1), args=jnp.vdot(x[0], w) * y[0],
                max_steps=80, throw=False, **options,
            ).value
        )  # fmt: skip

    table(
        {
            "optimistix_bfgs": minimised(optx.BFGS(**close)),
            "optimistix_gradient_descent": minimised(optx.GradientDescent(0.3, **close)),
            "optimistix_levenberg_marquardt": fitted(optx.LevenbergMarquardt(**close)),
            "optimistix_gauss_newton": fitted(optx.GaussNewton(**close)),
            "optimistix_bisection": rooted(
                optx.Bisection(**close), options={"lower": -9.0, "upper": 9.0}
            ),
            "optimistix_newton": rooted(optx.Newton(**close)),
        }
    )


@objective(lambda n: (uniform(0, 3), *regression(n)[1:]))
def newton_steps_by_hand(w, x, y):
    """What the libraries do, without them."""
    v = jnp.zeros(3)
    for _ in range(4):
        slope = jax.grad(penalised)(v, w, x, y)
        v = v - jnp.linalg.solve(jax.hessian(penalised)(v, w, x, y), slope)
    return local_loss(v, x, y)
