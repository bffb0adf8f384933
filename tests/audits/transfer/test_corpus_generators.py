"""Generators are known by identity: to the checker, the digest, and so to what runs under a certificate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corpus_generators import CASES, SEEN, SPY, SPY_DTYPE, THREEFRY, ZERO, of
from verdicts import judged

import audits
import privacy
import secfad as fad
from audits.transfer.registry import foreign_code
from secfad._jax import KEY_GENERATORS, Primitive
from secfad.errors import TracingError
from secfad.jaxprs.origins import is_key_generator, is_known_dtype, is_known_type, is_registered

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DrJAX asks for an old mesh
ROW = jax.ShapeDtypeStruct((3,), jnp.float32)
PLACES = {"server": fad.SERVER, "server_key": fad.SERVER}


@pytest.mark.sample(quick=16)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_generator_is_judged_as_stated(case):
    report = judged(case)
    rules = {f.rule for f in report.findings}
    assert report.kind == case.kind, (report.kind, rules, [f.message for f in report.findings])
    assert case.kind == "accept" or rules & case.rules, rules


NATIVE = [c for c in CASES if c.style == "native" and c.mode == "primal"]


def traced(case):
    named = {name: PLACES.get(placement, fad.CLIENTS) for name, _, _, placement in case.args}
    computation = fad.computation(**named)(case.fn)
    return fad.trace(computation, *(audits.Arg(*a).spec for a in case.args))


@pytest.mark.sample(quick=14)
@pytest.mark.parametrize("case", NATIVE, ids=lambda c: c.name)
def test_only_programs_with_jaxs_generators_have_a_digest(case):
    program = traced(case)
    if case.kind == "accept":
        assert len(program.digest) == 64
    else:
        with pytest.raises(TracingError, match="one of JAX's own generators"):
            _ = program.digest


def test_digest_tells_the_generators_apart():
    accepted = [c for c in NATIVE if c.kind == "accept" and c.name.startswith("seeded")]
    assert len({traced(c).digest for c in accepted}) == 3


def drawing(impl):
    @fad.computation(v=fad.CLIENTS)
    def total(v):
        draw = jax.random.bits(of(v, impl), ()).astype(jnp.float32)
        return fad.sum(v + 0 * draw, name="s")

    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    return privacy.privatize(total, ROW, mechanism=mechanism)


def ran(private, args, certificate, tmp_path):
    slots = [privacy.Slot("training", 1.0, 0.9, 3)]
    budget = privacy.Budget(50.0, 1e-5)
    cohort = privacy.FullParticipation(population=6).draw()
    with privacy.Ledger.create(tmp_path / "ledger.db", budget, population=6, slots=slots) as ledger:
        return privacy.run(
            private,
            args,
            certificate=certificate,
            ledger=ledger,
            cohort=cohort,
            run_id="r",
            round=0,
            fidelity="ideal",
        )


def test_spy_is_neither_certified_nor_verified_nor_run_under_the_certificate_of_its_twin(tmp_path):
    honest, spy = drawing(None), drawing(SPY)
    certificate = audits.certify(honest)
    with pytest.raises(audits.CertificationError, match="FAD002"):
        audits.certify(spy)
    with pytest.raises(TracingError, match="generators"):
        audits.verify(certificate, spy.program)
    SEEN.clear()
    data = np.arange(18, dtype=np.float32).reshape(6, 3)
    with pytest.raises(TracingError, match="generators"):
        ran(spy, (data,), certificate, tmp_path)
    jax.effects_barrier()
    assert SEEN == []


class Equal(type(THREEFRY)):
    """A generator that says of itself that it is any other one."""

    def __eq__(self, other):
        return True

    __hash__ = type(THREEFRY).__hash__


def test_keys_that_claim_the_dtype_of_the_program_are_refused_as_arguments(tmp_path):
    @fad.computation(v=fad.CLIENTS, key=fad.CLIENTS)
    def shuffled(v, key):
        return fad.sum(jax.random.permutation(key, v), name="s")

    key = jax.eval_shape(lambda: jax.random.key(0))
    mechanism = privacy.Gaussian(noise_multiplier=1.0, clip_norm=1.0)
    private = privacy.privatize(shuffled, ROW, key, mechanism=mechanism)
    false = jax.random.wrap_key_data(
        jnp.zeros((6, 2), jnp.uint32), impl=type(SPY)(Equal(*SPY._impl))
    )
    with pytest.raises(privacy.errors.RunRefused, match="generators"):
        ran(private, (jnp.ones((6, 3)), false), audits.certify(private), tmp_path)


def test_identity_and_not_equality_or_name_decides():
    assert all(is_key_generator(g) for g in KEY_GENERATORS)
    twin = type(THREEFRY)(*THREEFRY)
    assert twin == THREEFRY
    assert not is_key_generator(twin)
    assert not is_key_generator(ZERO)
    assert not is_known_dtype(SPY_DTYPE)
    assert is_known_dtype(jnp.dtype("bfloat16"))
    assert is_known_dtype(jax.dtypes.float0)


# Other things with a name: primitives, dtypes and classes of parameters.


def test_dtype_that_calls_itself_a_key_is_refused():
    class Twin(type(SPY_DTYPE)):
        pass

    assert not is_known_dtype(Twin(THREEFRY))


def test_dtype_that_calls_itself_a_key_is_refused_as_a_parameter():
    class Twin(type(SPY_DTYPE)):
        pass

    (equation,) = jax.make_jaxpr(lambda v: v.astype(jnp.int32))(1.0).eqns
    assert foreign_code(equation) == ""
    for dtype in (SPY_DTYPE, Twin(THREEFRY)):
        foreign = equation.replace(params=equation.params | {"new_dtype": dtype})
        assert foreign_code(foreign).startswith("the dtype")


def named_like_sine():
    impostor = Primitive("sin")
    impostor.def_abstract_eval(lambda aval: aval)
    fun = lambda v: np.asarray(v) * 2
    fun.__module__ = jax.lax.sin_p.impl.__module__
    impostor.def_impl(fun)
    return impostor


def test_impostor_primitive_has_not_the_digest_of_what_it_is_called_after():
    impostor = named_like_sine()
    assert not is_registered(impostor)

    def program(sine):
        computation = fad.computation(v=fad.CLIENTS)(lambda v: fad.sum(sine(v), name="s"))
        return fad.trace(computation, ROW)

    honest, other = program(jax.lax.sin_p.bind), program(impostor.bind)
    assert str(honest.jaxpr) == str(other.jaxpr)
    assert honest.digest != other.digest


def named_as(primitive):
    """Another object of the same name."""
    impostor = Primitive(primitive.name)
    impostor.def_abstract_eval(lambda a, b: a)
    return impostor


def updates(honest):
    """Update programs that are not the one of their name."""
    (addition,) = honest.eqns
    yield jax.make_jaxpr(lambda a, b: a * b)(1.0, 1.0).jaxpr
    yield jax.make_jaxpr(lambda a, b: b + b)(1.0, 1.0).jaxpr
    yield jax.make_jaxpr(lambda a, b: a + b + 1.0)(1.0, 1.0).jaxpr
    yield honest.replace(outvars=[honest.invars[1]])
    yield honest.replace(eqns=[addition.replace(primitive=named_as(addition.primitive))])


def test_scatter_with_another_update_than_its_name_says_is_refused():
    traced = jax.make_jaxpr(lambda v: jnp.ones(3).at[0].add(v[0]))(jnp.ones(3))
    (scatter,) = (e for e in traced.jaxpr.eqns if e.primitive.name.startswith("scatter"))

    def program(update):
        params = scatter.params | {"update_jaxpr": update}
        return lambda v: fad.sum(
            scatter.primitive.bind(jnp.ones(3), jnp.array([0]), v[0], **params)
        )

    args = [audits.Arg("v", (3,), "float32", "clients")]
    honest = scatter.params["update_jaxpr"]
    assert audits.check(program(honest), args).kind == "accept"
    for forged in updates(honest):
        report = audits.check(program(forged), args)
        assert [f.rule for f in report.findings] == ["FAD002"], forged


READ = [jnp.sin, jax.nn.relu, jax.nn.gelu, jax.nn.silu, lambda e: jnp.clip(e, -1, 1), jnp.square]
UNREAD = [lambda e: seen(e), jax.jit(lambda e: seen(e)), jax.checkpoint(lambda e: seen(e))]


def test_scatter_of_an_elementwise_function_is_read():
    args = [audits.Arg("v", (3,), "float32", "clients")]
    for fun in READ:
        report = audits.check(lambda v, fun=fun: fad.sum(v.at[0].apply(fun)), args)
        assert report.kind == "accept", report.findings
    for fun in UNREAD:
        report = audits.check(lambda v, fun=fun: fad.sum(v.at[0].apply(fun)), args)
        assert [f.rule for f in report.findings] == ["FAD002"]


def seen(entry):
    jax.debug.callback(lambda a: SEEN.append(a), entry)
    return entry


class Mode(int):
    """A number that prints like another one."""

    def __repr__(self):
        return "0"


def test_classes_of_ones_own_have_no_digest():
    assert not is_known_type(Mode)
    assert is_known_type(int)
    assert is_known_type(type(None))
    assert is_known_type(jax.lax.GatherScatterMode)
    assert is_known_type(jax.lax.GatherDimensionNumbers)

    def program(v):
        return fad.sum(jax.lax.cumsum_p.bind(v, axis=Mode(0), reverse=False), name="s")

    made = fad.trace(fad.computation(v=fad.CLIENTS)(program), ROW)
    with pytest.raises(TracingError, match="Mode"):
        _ = made.digest


def test_class_that_claims_another_module_is_not_known():
    claimed = type("GatherScatterMode", (), {"__module__": jax.lax.GatherScatterMode.__module__})
    assert not is_known_type(claimed)
