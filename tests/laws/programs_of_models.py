"""Generalised linear models, survival, clustering, mixtures and other estimation."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from practice import classes, normal, objective, program, regression, uniform


def counts(clients):
    w, x, _ = regression(clients)
    return w, x, jnp.asarray(np.random.default_rng(2).poisson(2.0, (clients, 5)).astype(float))


def labels(clients):
    w, x, y = regression(clients)
    return w, x, (y > 0).astype(float)


def positive(clients):
    w, x, _ = regression(clients)
    return w, x, uniform(2, clients, 5)


@objective(regression)
def least_squares(w, x, y):
    return jnp.mean((x @ w - y) ** 2)


@objective(labels)
def logistic_regression(w, x, y):
    return jnp.mean(jnp.logaddexp(0.0, x @ w) - y * (x @ w))


@objective(labels)
def probit_regression(w, x, y):
    return -jnp.mean(jax.scipy.stats.norm.logcdf((2 * y - 1) * (x @ w)))


@objective(counts)
def poisson_regression(w, x, y):
    return jnp.mean(jnp.exp(x @ w) - y * (x @ w))


@objective(positive)
def gamma_regression(w, x, y):
    return jnp.mean(x @ w + y * jnp.exp(-(x @ w)))


@objective(counts)
def negative_binomial_regression(w, x, y):
    rate = jnp.exp(x @ w)
    log_gamma = jax.scipy.special.gammaln
    return -jnp.mean(
        log_gamma(y + 2.0) - log_gamma(y + 1.0) + y * jnp.log(rate) - (y + 2) * jnp.log(2 + rate)
    )


@objective(positive)
def beta_regression(w, x, y):
    mean, y = jax.nn.sigmoid(x @ w), 0.98 * y
    return -jnp.mean(jax.scipy.stats.beta.logpdf(y, 3 * mean, 3 * (1 - mean)))


@objective(positive)
def weibull_regression(w, x, y):
    scale = jnp.exp(x @ w)
    return jnp.mean((y / scale) ** 1.5 + 1.5 * jnp.log(scale) - 0.5 * jnp.log(y))


@objective(classes)
def softmax_regression(w, x, y):
    return jnp.mean(-jax.nn.log_softmax(x @ w)[jnp.arange(5), y])


@objective(classes)
def ordinal_regression(w, x, y):
    cuts = jnp.cumsum(jnp.exp(w[0]))
    score = x @ w[1]
    upper = jnp.concatenate([jax.nn.sigmoid(cuts[:2] - score[:, None]), jnp.ones((5, 1))], 1)
    lower = jnp.concatenate([jnp.zeros((5, 1)), upper[:, :2]], 1)
    chosen = (upper - lower)[jnp.arange(5), y]
    return -jnp.mean(jnp.log(chosen + 1e-3))


@objective(regression)
def huber_regression(w, x, y):
    r = jnp.abs(x @ w - y)
    return jnp.mean(jnp.where(r < 1, 0.5 * r**2, r - 0.5))


@objective(regression)
def quantile_regression(w, x, y):
    r = y - x @ w
    return jnp.mean(jnp.maximum(0.3 * r, -0.7 * r))


@objective(regression)
def student_regression(w, x, y):
    return -jnp.mean(jax.scipy.stats.t.logpdf(y, 4.0, x @ w, jnp.exp(w[0])))


@objective(labels)
def hinge_regression(w, x, y):
    return jnp.mean(jax.nn.relu(1 - (2 * y - 1) * (x @ w)) ** 2) + 0.1 * jnp.sum(w**2)


@objective(regression)
def expectile_regression(w, x, y):
    r = y - x @ w
    return jnp.mean(jnp.where(r > 0, 0.8, 0.2) * r**2)


@objective(regression)
def elastic_net(w, x, y):
    return jnp.mean((x @ w - y) ** 2) + 0.1 * jnp.sum(jnp.abs(w)) + 0.1 * jnp.sum(w**2)


@objective(regression)
def kernel_ridge(w, x, y):
    centres = jnp.linspace(-1.0, 1.0, 3)
    features = jnp.exp(-((x[:, :1] - centres) ** 2))
    return jnp.mean((features @ w - y) ** 2)


@objective(regression)
def gaussian_process(w, x, y):
    squares = jnp.sum((x[:, None] - x[None]) ** 2, -1)
    kernel = jnp.exp(w[0] - squares * jnp.exp(w[1])) + jnp.exp(w[2]) * jnp.eye(5)
    lower = jnp.linalg.cholesky(kernel)
    whitened = jax.scipy.linalg.solve_triangular(lower, y, lower=True)
    return jnp.sum(whitened**2) / 2 + jnp.sum(jnp.log(jnp.diagonal(lower)))


# Several rounds or several sums.


@program("scc", regression)
def ridge_by_normal_equations(over, w, x, y):
    gram, moment = over.sum(lambda v, x, y: (x.T @ (x * v), x.T @ y), w, x, y)
    return jnp.sum(jnp.linalg.solve(gram + 3 * jnp.eye(3), moment) ** 2)


@program("scc", regression)
def weighted_least_squares(over, w, x, y):
    gram, moment = over.sum(
        lambda v, x, y: ((x * jnp.exp(x @ v)[:, None]).T @ x, x.T @ (y * jnp.exp(x @ v))), w, x, y
    )
    return jnp.linalg.solve(gram, moment)


@program("scc", labels)
def newton_steps_of_logistic_regression(over, w, x, y):
    loss = lambda v, x, y: jnp.mean(jnp.logaddexp(0.0, x @ v) - y * (x @ v))
    for _ in range(2):
        g, h = over.mean(
            lambda v, x, y: (jax.grad(loss)(v, x, y), jax.hessian(loss)(v, x, y)), w, x, y
        )
        w = w - jnp.linalg.solve(h + 0.1 * jnp.eye(3), g)
    return over.mean(loss, w, x, y)


@program("scc", lambda n: (0.5 * normal(0, 3), normal(1, n, 5, 3), uniform(2, n, 5)))
def cox_partial_likelihood(over, w, x, time):
    grid = jnp.linspace(0.2, 0.9, 6)
    risk = over.sum(lambda v, x, t: (t[None] >= grid[:, None]) @ jnp.exp(x @ v), w, x, time)
    events = over.sum(lambda v, x, t: jnp.sum(x @ v), w, x, time)
    at = over.sum(
        lambda v, x, t: (
            jnp.sum((t[None] >= grid[:, None]) & (t[None] < grid[:, None] + 0.14), 1) * 1.0
        ),
        w,
        x,
        time,
    )
    return -events + jnp.sum(at * jnp.log(risk + 1.0))


@program("scc", lambda n: (uniform(0, 6), uniform(1, n, 5), jnp.ones((n, 5))))
def piecewise_exponential_survival(over, hazard, time, event):
    edges = jnp.linspace(0.0, 1.0, 7)
    exposure = lambda t: jnp.clip(t[:, None] - edges[None, :-1], 0.0, edges[1] - edges[0])
    return over.sum(
        lambda h, t, d: jnp.sum(exposure(t) @ h)
        - jnp.sum(d * jnp.log(h[jnp.minimum((t * 6).astype(int), 5)])),
        hazard, time, event,
    )  # fmt: skip


def points(clients):
    return normal(0, 3, 2), normal(1, clients, 6, 2)


@program("sc", points)
def k_means_step(over, centres, x):
    def client(c, x):
        near = jnp.argmin(jnp.sum((x[:, None] - c[None]) ** 2, -1), 1)
        chosen = jax.nn.one_hot(near, 3)
        return chosen.T @ x, jnp.sum(chosen, 0)

    total, count = over.sum(client, centres, x)
    moved = total / jnp.maximum(count, 1.0)[:, None] + 0.1 * centres
    return over.mean(
        lambda c, x: jnp.mean(jnp.min(jnp.sum((x[:, None] - c[None]) ** 2, -1), 1)), moved, x
    )


@program("sc", points)
def soft_k_means(over, centres, x):
    def client(c, x):
        share = jax.nn.softmax(-jnp.sum((x[:, None] - c[None]) ** 2, -1), axis=1)
        return share.T @ x, jnp.sum(share, 0)

    for _ in range(2):
        total, count = over.sum(client, centres, x)
        centres = total / count[:, None]
    return centres


def mixture(clients):
    return {"mean": normal(0, 3, 2), "scale": uniform(1, 3), "logit": normal(2, 3)}, normal(
        3, clients, 6, 2
    )


def log_density(p, x):
    squares = jnp.sum((x[:, None] - p["mean"][None]) ** 2, -1)
    return jax.nn.log_softmax(p["logit"]) - squares / p["scale"] - jnp.log(p["scale"])


@program("sc", mixture)
def expectation_maximisation(over, p, x):
    def client(p, x):
        share = jax.nn.softmax(log_density(p, x), axis=1)
        return share.T @ x, share.sum(0), share.T @ jnp.sum(x**2, 1)

    first, count, second = over.sum(client, p, x)
    mean = first / count[:, None]
    scale = second / count - jnp.sum(mean**2, 1) + 0.1
    p = {"mean": mean, "scale": scale, "logit": jnp.log(count)}
    return over.mean(lambda p, x: -jnp.mean(logsumexp(log_density(p, x), axis=1)), p, x)


@program("sc", mixture)
def mixture_likelihood(over, p, x):
    return over.mean(lambda p, x: -jnp.sum(logsumexp(log_density(p, x), axis=1)), p, x)


@program("sc", lambda n: (normal(0, 3), normal(1, n, 6, 3)))
def principal_direction_by_power_iteration(over, v, x):
    for _ in range(3):
        v = over.mean(lambda v, x: x.T @ (x @ v), v, x)
        v = v / jnp.linalg.norm(v)
    return v


@program("sc", lambda n: (normal(0, 3, 2), normal(1, n, 6, 3)))
def orthogonal_iteration(over, q, x):
    for _ in range(2):
        q = jnp.linalg.qr(over.sum(lambda q, x: x.T @ (x @ q), q, x))[0]
    return over.mean(lambda q, x: jnp.mean((x - x @ q @ q.T) ** 2), q, x)


@program("sc", lambda n: (jnp.ones(3), normal(1, n, 6, 3)))
def principal_components_by_eigh(over, scale, x):
    covariance = over.mean(lambda s, x: (x * s).T @ (x * s), scale, x)
    return jnp.linalg.eigh(covariance)[0]


@program("sc", lambda n: (normal(0, 4, 2), normal(1, n, 6, 4)))
def matrix_factorisation(over, items, ratings):
    def client(v, r):
        gram = v.T @ v + 0.1 * jnp.eye(2)
        user = jnp.linalg.solve(gram, v.T @ r.T)
        return r.T @ user.T, user @ user.T

    right, gram = over.sum(client, items, ratings)
    return jnp.linalg.solve(gram + 0.1 * jnp.eye(2), right.T).T


@program("sc", lambda n: (jnp.array(0.1), normal(1, n, 7)))
def median_by_pinball_loss(over, q, x):
    for _ in range(3):
        q = q + 0.2 * over.mean(lambda q, x: jnp.mean(jnp.tanh(5 * (x - q))), q, x)
    return q


@program("sc", lambda n: (jnp.array([-3.0, 3.0]), normal(1, n, 7)))
def quantile_by_bisection(over, ends, x):
    low, high = ends
    for _ in range(4):
        middle = (low + high) / 2
        below = over.mean(lambda m, x: jnp.mean(x < m), middle, x)
        low, high = jnp.where(below < 0.4, middle, low), jnp.where(below < 0.4, high, middle)
    return (low + high) / 2


@program("sc", lambda n: (uniform(0, 5), normal(1, n, 20)))
def soft_histogram(over, width, x):
    centres = jnp.linspace(-2, 2, 5)
    soft = over.sum(lambda w, x: jnp.sum(jnp.exp(-((x[:, None] - centres) ** 2) / w), 0), width, x)
    return soft / jnp.sum(soft)


@program("sc", lambda n: (jnp.array(1.0), normal(1, n, 6, 2)))
def two_stage_moments(over, c, x):
    mean = over.mean(lambda c, x: jnp.mean(c * x, 0), c, x)
    spread = over.mean(lambda m, x: jnp.mean((x - m) ** 2, 0), mean, x)
    skew = over.mean(lambda m, x: jnp.mean((x - m) ** 3, 0), mean, x)
    return skew / spread**1.5


@program("scc", regression)
def anova_of_clients(over, w, x, y):
    mean = over.mean(lambda v, x, y: jnp.mean(y - x @ v), w, x, y)
    between = over.mean(lambda v, x, y: (jnp.mean(y - x @ v[0]) - v[1]) ** 2, (w, mean), x, y)
    within = over.mean(lambda v, x, y: jnp.var(y - x @ v), w, x, y)
    return between / within


@program("scc", regression)
def instrumental_variables(over, w, x, y):
    zx, zy = over.sum(lambda v, x, y: (jnp.tanh(x * v).T @ x, jnp.tanh(x * v).T @ y), w, x, y)
    return jnp.linalg.solve(zx, zy)


@program("sc", lambda n: (uniform(0, 3), uniform(1, n, 6, 3)))
def canonical_correlation(over, s, x):
    sums = over.mean(
        lambda s, x: (
            x[:, :2].T @ x[:, :2],
            jnp.outer(x[:, 0], x[:, 2] * s[2])[:2, :2],
            x.T @ x * s,
        ),
        s,
        x,
    )
    return jnp.trace(sums[0] @ sums[1]) / jnp.linalg.norm(sums[2])


@program("scc", regression)
def calibration_error(over, w, x, y):
    bins = jnp.linspace(0, 1, 4)

    def client(v, x, y):
        p = jax.nn.sigmoid(x @ v)
        member = jax.nn.softmax(-50 * (p[:, None] - bins) ** 2, axis=1)
        return member.T @ p, member.T @ (y > 0), member.sum(0)

    confidence, hits, count = over.sum(client, w, x, y)
    return jnp.sum(((confidence - hits) / (count + 1e-3)) ** 2 * count)


@program("scc", regression)
def platt_scaling(over, ab, x, y):
    score = lambda v, x: x @ jax.lax.stop_gradient(v)
    return over.mean(
        lambda v, x, y: jnp.mean(jnp.logaddexp(0.0, -jnp.sign(y) * (v[0] * score(v, x) + v[1]))),
        ab,
        x,
        y,
    )


@program("scc", regression)
def evaluation_metrics(over, w, x, y):
    right, count, soft = over.sum(
        lambda v, x, y: (
            jnp.sum((x @ v > 0) == (y > 0)),
            x.shape[0],
            jnp.sum(jax.nn.sigmoid(x @ v * y)),
        ),
        w,
        x,
        y,
    )
    return soft / count + right / count


@program("scc", regression)
def area_under_the_curve(over, w, x, y):
    grid = jnp.linspace(-2, 2, 5)
    hits, false = over.sum(
        lambda v, x, y: (
            jax.nn.sigmoid(4 * (x @ v - grid[:, None])) @ (y > 0),
            jax.nn.sigmoid(4 * (x @ v - grid[:, None])) @ (y <= 0),
        ),
        w, x, y,
    )  # fmt: skip
    return jnp.trapezoid(hits / hits[0], false / false[0])
