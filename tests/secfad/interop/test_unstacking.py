"""What of a DrJAX program has a translation, and how the rest is refused."""

import sys
from pathlib import Path

import drjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drjax_programs import CLIENTS, DATA, program

import secfad as fad
from secfad.errors import ArgumentError, PlacementError, TracingError, TranslationError
from secfad.interop.drjax import from_drjax

pytestmark = pytest.mark.usefixtures("double_precision")


def mapped(fun, *args):
    return drjax.map_fn(fun, args)


REARRANGED = {
    "transposed": lambda d: jnp.transpose(d, (0, 2, 1)),
    "behind and back": lambda d: jnp.moveaxis(jnp.moveaxis(d, 0, 1) * 2, 1, 0),
    "reduced behind": lambda d: jnp.sum(jnp.moveaxis(d, 0, 2), axis=0).T,
    "reduced": lambda d: jnp.max(d, axis=(1, 2)) - jnp.mean(d, axis=1).min(axis=1),
    "kept axes": lambda d: d - jnp.mean(d, axis=(1, 2), keepdims=True),
    "positions of extremes": lambda d: (
        1.0 * jnp.argmax(d, axis=2) - jnp.argmin(d, axis=1).sum(1)[:, None]
    ),
    "flattened": lambda d: d.reshape(CLIENTS, -1),
    "parts": lambda d: d[:, 1, 1:] + d[..., 0][:, 2:],
    "every other": lambda d: jax.lax.slice_in_dim(d, 0, 3, 2, axis=2),
    "part behind": lambda d: jnp.moveaxis(d, 0, 2)[1].T,
    "new axes": lambda d: d[:, None] * d[:, :, None],
    "a weight of each entry": lambda d: d * jnp.arange(3.0) + jnp.linspace(0.0, 1.0, 4)[:, None],
    "equal rows": lambda d: d + (2 * jnp.ones((CLIENTS, 1, 1)) - jnp.zeros_like(d)) ** 2,
    "choices": lambda d: jnp.where(d > 0.5, jnp.clip(d, 0, 1), -d),
    "states of a loop": lambda d: jax.lax.fori_loop(
        0, 3, lambda i, s: s * 0.5 + d, jnp.zeros(d.shape)
    ),
    "rows of a loop": lambda d: jax.lax.scan(
        lambda c, x: (c + x, c * x), jnp.zeros((CLIENTS, 3)), jnp.moveaxis(d, 1, 0)
    )[1].sum(axis=0),
    "branches": lambda d: jax.lax.cond(True, lambda: d * 2, lambda: jnp.zeros_like(d)),
}


MAPPED = {
    "vmap": lambda d: jax.vmap(lambda x: jnp.sin(x @ x.T))(d),
    "vmap over another axis": lambda d: jax.vmap(
        lambda x: x * jnp.sum(x, axis=1, keepdims=True), 1, 1
    )(d),
    "vmap twice": lambda d: jax.vmap(jax.vmap(lambda r: r / jnp.linalg.norm(r)))(d),
    "vmap of a gradient": lambda d: jax.vmap(jax.grad(lambda x: jnp.sum(jnp.tanh(x) ** 2)))(d),
    "vmap of a loop": lambda d: jax.vmap(
        lambda x: jax.lax.fori_loop(0, 3, lambda i, s: jnp.sin(s) + x, x)
    )(d),
    "vmap of rows of a loop": lambda d: jax.vmap(
        lambda x: jax.lax.scan(lambda c, r: (c + r, c * r), jnp.zeros(3), x)[1]
    )(d),
    "vmap of a choice": lambda d: jax.vmap(
        lambda x: jax.lax.cond(x[0, 0] > 0.5, jnp.sin, jnp.cos, x)
    )(d),
    "vmap of a solve": lambda d: jax.vmap(lambda x: jnp.linalg.solve(x.T @ x + jnp.eye(3), x.T))(d),
    "vmap of a factorisation": lambda d: jax.vmap(
        lambda x: jnp.linalg.cholesky(x.T @ x + jnp.eye(3))
    )(d),
    "vmap with keys": lambda d: d * jax.random.normal(jax.random.key(0), (4, 3)),
    "products within clients": lambda d: jnp.einsum("cij,cik->cjk", d, d),
    "products with a weight": lambda d: d @ jnp.linspace(-1.0, 1.0, 6).reshape(3, 2),
    "tensordot": lambda d: jnp.tensordot(d, jnp.arange(12.0).reshape(4, 3), 2),
    "outer": lambda d: jnp.einsum("cij,ckl->cijkl", d, d[:, :2]),
    "clients behind": lambda d: jnp.moveaxis(jnp.einsum("cij,kj->kci", d, jnp.ones((2, 3))), 1, 0),
    "running sums": lambda d: jnp.cumsum(d, axis=1) + jnp.cumprod(d, axis=2),
    "order": lambda d: jnp.sort(d, axis=2) - jnp.median(d, axis=1)[:, None],
    "stacked": lambda d: jnp.stack([d, 2 * d], axis=1),
    "joined": lambda d: jnp.concatenate([d, d[:, :2]], axis=1),
    "padded": lambda d: jnp.pad(d, ((0, 0), (1, 1), (0, 2))),
    "flipped": lambda d: jnp.flip(d, axis=(1, 2)),
    "rolled": lambda d: jnp.roll(d, 1, axis=2),
    "picked": lambda d: d[:, jnp.array([2, 0, 2])],
    "taken along": lambda d: jnp.take_along_axis(d, jnp.argsort(d, axis=1), axis=1),
    "changed": lambda d: d.at[:, 1, :].add(2.0).at[..., 0].multiply(0.5),
    "split": lambda d: sum(jnp.split(d, 2, axis=1)),
    "spectrum": lambda d: jnp.abs(jnp.fft.rfft(d, axis=2)),
    "windows": lambda d: jax.lax.reduce_window(
        d, -jnp.inf, jax.lax.max, (1, 2, 2), (1, 1, 1), "VALID"
    ),
    "convolution": lambda d: jax.lax.conv_general_dilated(
        d[:, None], jnp.ones((2, 1, 2, 2)), (1, 1), "SAME"
    ),
    "reshaped": lambda d: d.reshape(CLIENTS, 2, 2, 3).swapaxes(1, 2).reshape(CLIENTS, 6, 2),
    "log-sum-exp": lambda d: jax.scipy.special.logsumexp(d, axis=(1, 2)),
    "softmax": lambda d: jax.nn.softmax(d, axis=-1),
    "triangles": lambda d: jnp.tril(jnp.einsum("cij,ckj->cik", d, d)),
    "largest": lambda d: jax.lax.top_k(d, 2)[0],
    "histogram": lambda d: jax.vmap(
        lambda x: jnp.zeros(4).at[jnp.clip(x.ravel(), 0, 3).astype(int)].add(x.ravel())
    )(d),
    "norm of each": lambda d: d / jnp.linalg.norm(d, axis=(1, 2), keepdims=True),
    "var": lambda d: jnp.var(d, axis=(1, 2)),
    "matvec const rows": lambda d: jnp.einsum("cij,ci->cj", d, jnp.ones((CLIENTS, 4))),
    "trace": lambda d: jnp.trace(jnp.einsum("cij,cik->cjk", d, d), axis1=1, axis2=2),
    "quantile": lambda d: jnp.quantile(d, 0.3, axis=1),
    "interp": lambda d: jax.vmap(lambda x: jnp.interp(0.3, jnp.arange(4.0), x[:, 0]))(d),
}


@pytest.mark.sample(quick=2, slow=60)
@pytest.mark.parametrize("name", [*REARRANGED, *MAPPED])
def test_arithmetic_on_all_clients_that_keeps_them_apart_is_followed(name):
    fun = (REARRANGED | MAPPED)[name]
    own = program(lambda d: (drjax.reduce_sum(fun(d)), fun(d)))
    data = jnp.asarray(DATA["x"])
    got = fad.simulate(from_drjax(own, d=fad.CLIENTS))(data)
    for a, b in zip(got, jax.jit(own)(data), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


REFUSED = {
    "maximum": (lambda m, d: jnp.max(d), "reduces the axis of clients"),
    "mean by hand": (lambda m, d: jnp.mean(d, axis=0), "reduces the axis of clients"),
    "median": (lambda m, d: jnp.median(d, axis=0), "reduces the axis of clients"),
    "order": (lambda m, d: jnp.sort(d, axis=0), "sorts the clients"),
    "one client": (lambda m, d: d[0], "picks some of the clients"),
    "roll": (lambda m, d: drjax.reduce_sum(jnp.roll(d, 1, axis=0)), "picks some of the clients"),
    "merge": (lambda m, d: d.reshape(-1), "merges the axis of clients"),
    "positions": (
        lambda m, d: drjax.reduce_sum(jnp.arange(5.0)[:, None] * d),
        "one value at the clients throughout",
    ),
    "products": (lambda m, d: d @ d.T, "may mix the values of clients"),
    "contraction": (
        lambda m, d: jnp.einsum("ci,cj->ij", d, d),
        "`dot_general` reduces the axis of clients",
    ),
    "weights by position": (
        lambda m, d: jnp.tensordot(jnp.arange(5.0), d, 1),
        "`dot_general` reduces the axis of clients",
    ),
    "collective of a vmap": (
        lambda m, d: jax.vmap(lambda x: x - jax.lax.pmean(x, "i"), axis_name="i")(d),
        "`psum` may mix the values of clients",
    ),
    "rule in a vmap": (
        lambda m, d: drjax.reduce_sum(jax.vmap(jax.nn.relu)(d)),
        "Call it in map_fn",
    ),
    "pairs": (lambda m, d: d[:, None] - d[None], "combines values of different clients"),
    "client after client": (
        lambda m, d: jax.lax.scan(lambda c, x: (c + x, None), m, d)[0],
        "goes from client to client",
    ),
    "custom rule": (lambda m, d: drjax.reduce_sum(jax.nn.relu(d)), "Call it in map_fn"),
    "server vector": (
        lambda m, d: drjax.reduce_sum(jnp.concatenate([m, m[:2]])),
        "Wrap a server value in drjax.broadcast",
    ),
    "captured data": (
        lambda m, d: drjax.reduce_sum(jnp.asarray(np.arange(5.0))),
        "make clients' data an argument",
    ),
    "collective": (
        lambda m, d: drjax.reduce_sum(mapped(lambda x: jax.lax.psum(x, "clients"), d)),
        "names the axis 'clients' of clients",
    ),
    "broadcast twice": (
        lambda m, d: drjax.broadcast(drjax.broadcast(m)),
        "expected a server value, got a value at the clients",
    ),
    "sum of a sum": (
        lambda m, d: drjax.reduce_sum(jnp.resize(drjax.reduce_sum(d), (5,))),
        "got another array",
    ),
    "captured clients": (
        lambda m, d: drjax.reduce_sum(mapped(lambda x: x[None] * d, d)),
        "uses the values of all of them",
    ),
    "sum inside": (
        lambda m, d: mapped(lambda x: drjax.reduce_sum(d * x), d),
        "inside drjax.map_fn, got drjax.reduce_sum",
    ),
    "axis behind": (lambda m, d: d.T, "with the clients in front"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_neither_broadcast_nor_sum_is_refused(name):
    fun, words = REFUSED[name]
    ours = from_drjax(program(fun), m=fad.SERVER, d=fad.CLIENTS)
    with pytest.raises(TranslationError, match=words) as caught:
        fad.trace(ours, jnp.zeros(3), jnp.zeros(3))
    if name != "axis behind":
        assert Path(__file__).name in caught.value.line


MISPLACED = {
    "captured server value": (
        lambda m, d: drjax.reduce_sum(mapped(lambda x: m * x, d)),
        "implicit",
    ),
    "without broadcast": (lambda m, d: drjax.reduce_sum(d - m), "implicit"),
    "vmap of both": (
        lambda m, d: drjax.reduce_sum(jax.vmap(jnp.vdot, (None, 0))(m, d)),
        "implicit",
    ),
    "product of both": (lambda m, d: drjax.reduce_sum(d @ m), "implicit"),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_a_forgotten_broadcast_is_an_error_at_the_users_line(name):
    fun, kind = MISPLACED[name]
    ours = from_drjax(program(fun), m=fad.SERVER, d=fad.CLIENTS)
    with pytest.raises(PlacementError) as caught:
        fad.trace(ours, jnp.zeros(3), jnp.zeros(3))
    assert caught.value.kind.startswith(kind)
    assert Path(__file__).name in caught.value.line


def test_two_groups_of_clients_are_refused():
    train, validate = (drjax.program(placements={"clients": n})(drjax_sum) for n in (3, 2))
    ours = from_drjax(lambda a, b: train(a) + validate(b), a=fad.CLIENTS, b=fad.CLIENTS)
    with pytest.raises(TranslationError, match="3 'clients' and 2 'clients'"):
        fad.trace(ours, 0.0, 0.0)


def drjax_sum(d):
    return drjax.reduce_sum(d)


def test_a_function_without_a_drjax_program_is_refused():
    with pytest.raises(ArgumentError, match="which runs none"):
        fad.trace(from_drjax(lambda x: x, x=fad.CLIENTS), 0.0)


def test_placements_must_name_the_parameters():
    with pytest.raises(ArgumentError, match="has the parameters"):
        from_drjax(program(drjax_sum), data=fad.CLIENTS)


def test_without_drjax_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "drjax", None)
    with pytest.raises(ImportError, match="pip install 'drjax"):
        from_drjax(drjax_sum, d=fad.CLIENTS)


@pytest.mark.parametrize(
    ("operator", "takes"),
    [("broadcast", 1), ("map_fn", 2), ("reduce_sum", 1), ("reduce_mean", 1)],
)
def test_operators_with_too_many_arguments_fail_as_in_drjax(operator, takes):
    extra = (drjax_sum,) if operator == "map_fn" else ()
    wrong = program(lambda d: getattr(drjax, operator)(*extra, d, d))
    plural = "s" if takes > 1 else ""
    words = rf"{operator}\(\) takes {takes} positional argument{plural} but {takes + 1} were given"
    ours = fad.simulate(from_drjax(wrong, d=fad.CLIENTS))
    for run, error in ((wrong, TypeError), (ours, TracingError)):
        with pytest.raises(error, match=words):
            run(jnp.arange(5.0))


def test_errors_of_client_code_reach_the_user_as_they_are():
    def failing(_):
        raise ValueError("what the client's code says")

    ours = from_drjax(program(lambda d: drjax.map_fn(failing, d)), d=fad.CLIENTS)
    with pytest.raises(ValueError, match="what the client's code says"):
        fad.trace(ours, 0.0)
    with pytest.raises(Exception, match="only defined in the context"):
        drjax.broadcast(1.0)
