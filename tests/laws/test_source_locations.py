"""Where a program is written decides nothing: schedule, costs, same clients and digest stay the same.

First the locations of a traced program are removed, or given to other equations. Then the source of
the programs is changed: other lines, all in one line, calls inside of helpers, decorated functions.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import itertools
import random
from unittest import mock

import federated_programs
import jax
import pytest
from jax.extend import source_info_util
from law_programs import CASES, THEMES
from programs_repeated import REPEATED, W, X

import secfad as fad
from audits.checking.checking import check_program
from secfad import _jax
from secfad.errors import SecfadError
from secfad.jaxprs.inside import every_equation, with_bodies

pytestmark = pytest.mark.filterwarnings("ignore::secfad.derivatives.jacobians.NonlinearRuleWarning")
MODES = ("value", "forward", "reverse", "factored", "mixed", "blockwise")
USUAL = {"fedavgm_fig4": MODES, "server_switch": MODES[:3], "cond_in_scan": MODES[:3]}
MADE = {f"{make.__name__}{'_named' * n}": make(n) for make in REPEATED for n in (False, True)}


def traced(computation, wrt, mode, specs):
    """The value, or the value with its derivative, as a program."""
    if mode == "value":
        return fad.trace(computation, *specs)
    if mode == "forward":
        chosen = [wrt] if isinstance(wrt, int) else wrt
        return fad.trace(fad.jvp(computation, wrt), *specs, *(specs[i] for i in chosen))
    value = fad.trace(computation, *specs)
    results = jax.tree.unflatten(value.out_tree, map(_jax.spec, value.source.out_avals))
    return fad.trace(fad.vjp(computation, wrt, mode=mode), *specs, results)


def without_lines(value):
    """The plain values of a report, without lines and what is filled with them."""
    if isinstance(value, dict):
        return {k: without_lines(v) for k, v in value.items() if k not in ("line", "entered")}
    if isinstance(value, list | tuple):
        return [without_lines(v) for v in value]
    return value


def seen(computation, wrt, mode, specs):
    """All that users, engines and certificates learn of a program, but where it is written."""
    try:
        program = traced(computation, wrt, mode, specs)
    except SecfadError as error:
        return type(error)
    report = check_program(program)
    return {
        "digest": program.digest,
        "table": program.table(),
        "costs": dataclasses.asdict(program.costs),
        "findings": sorted((f.rule, str(f.severity)) for f in report.findings),
        "facts": repr(without_lines(dict(report.facts.to_dict()))),
    }


@functools.cache
def as_written(name, mode):
    with jax.enable_x64(True):
        if name in MADE:
            return seen(MADE[name], 0, mode, (W, X))
        case = CASES[name]
        return seen(case.computation, case.wrt, mode, case.specs())


def relocated(jaxpr, place):
    """The program with other locations, at any depth."""
    change = lambda body: relocated(body, place)
    equations = [with_bodies(e, change).replace(source_info=place()) for e in jaxpr.eqns]
    return jaxpr.replace(eqns=equations)


def removed(jaxpr):
    return relocated(jaxpr, source_info_util.new_source_info)


def exchanged(jaxpr):
    """Every equation has the location of another one."""
    places = [e.source_info for e, _ in every_equation(jaxpr)]
    random.Random(0).shuffle(places)
    return relocated(jaxpr, itertools.cycle(places).__next__)


@contextlib.contextmanager
def locations(change):
    """Whatever is traced loses its locations at once."""
    trace = _jax.make_jaxpr

    def make_jaxpr(fun, specs):
        closed, tree = trace(fun, specs)
        return _jax.ClosedJaxpr(change(closed.jaxpr), closed.consts), tree

    with mock.patch.object(_jax, "make_jaxpr", make_jaxpr):
        yield


def rows(quick):
    """Every program in every mode; quick in the modes of this table, and in two if a call is repeated."""
    quick = dict.fromkeys(MADE, ("value", "reverse")) | quick
    return [
        pytest.param(name, mode, marks=() if mode in quick.get(name, ()) else pytest.mark.slow)
        for name in (*CASES, *MADE)
        for mode in MODES
    ]


@pytest.mark.sample(quick=11, slow=60)
@pytest.mark.parametrize("change", [removed, exchanged])
@pytest.mark.parametrize(("name", "mode"), rows(USUAL))
def test_locations_of_a_traced_program_decide_nothing(name, mode, change):
    expected = as_written(name, mode)
    if name in MADE:
        made, wrt, specs = MADE[name], 0, (W, X)
    else:
        made, wrt, specs = CASES[name].computation, CASES[name].wrt, CASES[name].specs()
    # Derivatives that are kept with a computation have their locations.
    again = dataclasses.replace(made)
    with locations(change):
        assert seen(again, wrt, mode, specs) == expected


class _Helpers(ast.NodeTransformer):
    """Calls of secfad are made by helpers, and inner functions have decorators."""

    depth = 0

    def visit_Call(self, node):
        self.generic_visit(node)
        called = node.func
        known = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name)
        if self.depth and known and called.value.id in ("fad", "jax", "jnp"):
            helper = ast.Lambda(ast.parse("lambda: 0", mode="eval").body.args, node)
            return ast.Call(helper, [], [])
        return node

    def visit_FunctionDef(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        if self.depth:
            node.decorator_list.append(ast.Name("_decorated", ast.Load()))
        return node


def decorated(fun):
    @functools.wraps(fun)
    def wrapper(*args, **kwargs):
        return fun(*args, **kwargs)

    return wrapper


def in_one_line(tree):
    for node in ast.walk(tree):
        if hasattr(node, "lineno"):
            node.lineno = node.end_lineno = 1
            node.col_offset = node.end_col_offset = 0
    return tree


def spread(tree):
    for node in ast.walk(tree):
        if hasattr(node, "lineno"):
            node.lineno, node.end_lineno = 7 * node.lineno, 7 * node.end_lineno
    return tree


def with_helpers(tree):
    return ast.fix_missing_locations(_Helpers().visit(tree))


@functools.cache
def rewritten(change):
    """The tables of programs, from changed sources in other files."""
    table = {}
    with mock.patch.object(federated_programs, "CASES", table):
        for module in THEMES:
            _executed(module, change)
    found = {n: (c.computation, c.wrt, c.specs) for n, c in table.items()}
    repeated = _executed(inspect.getmodule(REPEATED[0]), change)["REPEATED"]
    made = {f"{m.__name__}{'_named' * n}": m(n) for m in repeated for n in (False, True)}
    return found | {n: (c, 0, lambda: (W, X)) for n, c in made.items()}


def _executed(module, change):
    code = compile(change(ast.parse(inspect.getsource(module))), f"elsewhere_{id(change)}", "exec")
    namespace = {"__name__": f"elsewhere_{module.__name__}", "_decorated": decorated}
    exec(code, namespace)
    return namespace


@pytest.mark.sample(quick=40, slow=40)
@pytest.mark.parametrize("change", [in_one_line, spread, with_helpers])
@pytest.mark.parametrize(("name", "mode"), rows({"fedavgm_fig4": MODES[1:3]}))
def test_how_a_program_is_written_decides_nothing(name, mode, change):
    computation, wrt, specs = rewritten(change)[name]
    assert seen(computation, wrt, mode, specs()) == as_written(name, mode)
