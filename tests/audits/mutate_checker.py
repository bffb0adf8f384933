"""Mutants of the checker itself: does a test fail if a rule is dropped or a guard is weakened?

Every mutant changes one place of the sources of `audits/bounds` or `audits/transfer`: a rule leaves its
table, a condition is negated or always false, a comparison is turned or made strict, `and` becomes `or`,
`min` becomes `max`, a name leaves a set. A copy of `audits` with the change is put before the installed
one, and the tests of its part of the checker run until one fails. What survives is listed, to be argued
or tested.

Survivors that are argued:

- `intervals._grows`, `> 1` made `>= 1`: a product with one reaches no further than its operand, so
  the check for overflow only costs precision there.
- `contraction._grouped`, `rows > 0` made `>= 0`: no merged axis has zero rows; -1 says unknown.
- `flags.reduced_members`, the test for the axis of clients: a reduction over it is a message or is
  refused, and has no relation. It stays, so that a new rule of labels fails closed.
- `stability._contracting`, `inf`: a norm below the root of the number of entries excludes an infinity
  of the operand in every rule there is, and above it the range of the result is the better bound.

    python tests/audits/mutate_checker.py --count 300 --out survivors.jsonl
"""

import argparse
import ast
import copy
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import jax  # loaded once for all mutants
import jax.numpy
import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("audits/bounds", "audits/transfer")
# The tests of each part, those that see most of it first.
SUITES = {
    "audits/bounds": [
        "tests/audits/bounds/test_interval_corners.py",
        "tests/audits/bounds/test_spelled_clips.py",
        "tests/audits/bounds/test_key_rules.py",
        "tests/audits/bounds/test_noise_keys.py",
        "tests/audits/test_usefulness.py",
        "tests/audits/bounds/test_soundness.py",
        "tests/audits/rules/test_rule_examples.py",
        "tests/audits/bounds",
        "tests/audits/transfer/test_corpus.py",
        "tests/audits/checking/test_certificate_attacks.py",
    ],
    "audits/transfer": [
        "tests/audits/transfer",
        "tests/audits/rules/test_rule_examples.py",
        "tests/audits/bounds/test_soundness.py",
    ],
}
TURNED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
          ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn,
          ast.NotIn: ast.In}  # fmt: skip
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any", "join": "first_of"}


def changes(node):
    """Ways to change one node: a description, and a function that changes a copy in place."""
    found = []
    if isinstance(node, ast.Dict):
        for k, key in enumerate(node.keys):
            if _is_word(key):
                found.append((f"drop the rule of {key.value}", lambda n, k=k: _drop(n, k)))
    if isinstance(node, ast.Set | ast.List | ast.Tuple) and len(node.elts) > 1:
        for k, word in enumerate(node.elts):
            if _is_word(word):
                found.append((f"drop {word.value}", lambda n, k=k: n.elts.pop(k)))
    if isinstance(node, ast.If):
        found.append(("negate the condition", lambda n: setattr(n, "test", _negated(n.test))))
        if isinstance(node.body[-1], ast.Return | ast.Continue):
            never = lambda n: setattr(n, "test", ast.Constant(False))
            found.append(("never leave early", never))
    if isinstance(node, ast.IfExp):
        found.append(("negate the choice", lambda n: setattr(n, "test", _negated(n.test))))
    if isinstance(node, ast.BoolOp):
        other = ast.Or if isinstance(node.op, ast.And) else ast.And
        found.append(("swap and with or", lambda n: setattr(n, "op", other())))
        for k in range(len(node.values)):
            found.append((f"forget condition {k}", lambda n, k=k: _forget(n, k)))
    if isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED:
        turn = lambda n: n.ops.__setitem__(0, TURNED[type(n.ops[0])]())
        found.append(("turn the comparison", turn))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SWAPPED:
        if node.func.id != "join":
            found.append(
                (f"swap {node.func.id}", lambda n: setattr(n.func, "id", SWAPPED[n.func.id]))
            )
        elif len(node.args) == 2:
            found.append(("keep one side of a join", lambda n: n.args.__setitem__(1, n.args[0])))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd):
        other = ast.BitAnd if isinstance(node.op, ast.BitOr) else ast.BitOr
        found.append(("swap union with intersection", lambda n: setattr(n, "op", other())))
    return found


def _is_word(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(node.value)


def _drop(node, k):
    node.keys.pop(k)
    node.values.pop(k)


def _negated(test):
    return ast.UnaryOp(ast.Not(), test)


def _forget(node, k):
    node.values[k] = ast.Constant(isinstance(node.op, ast.And))


def places(file):
    """All mutations of a file: number of the node, number of the change, line and description."""
    tree = ast.parse(file.read_text())
    types = {id(part) for node in ast.walk(tree) for part in _annotations(node)}
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in types:
            continue
        for way, (text, _) in enumerate(changes(node)):
            yield index, way, node.lineno, text


def _annotations(node):
    """The nodes of the annotations of one node, which say nothing when the program runs."""
    for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
        if part is not None:
            yield from ast.walk(part)


def mutated(file, index, way):
    """The source with one mutation."""
    tree = copy.deepcopy(ast.parse(file.read_text()))
    node = list(ast.walk(tree))[index]
    changes(node)[way][1](node)
    return ast.unparse(ast.fix_missing_locations(tree))


def killed(file, index, way, *, extra=(), limit=900):
    """The test that fails for a mutant, or an empty string for a survivor.

    The tests run in a copy of this process, which has loaded JAX already.
    """
    part = next(p for p in PARTS if file.is_relative_to(ROOT / p))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "audits", Path(folder) / "audits")
        (Path(folder) / file.relative_to(ROOT)).write_text(mutated(file, index, way))
        output = Path(folder) / "output"
        child = os.fork()
        if child == 0:
            _run_tests(folder, output, [*SUITES[part], *extra], limit)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return "no end"
        if os.WEXITSTATUS(status) == 0:
            return ""
        lines = [x for x in output.read_text().splitlines() if x.startswith(("FAILED", "ERROR"))]
        return lines[0] if lines else f"return code {os.WEXITSTATUS(status)}"


def _run_tests(folder, output, arguments, limit):
    """Runs tests with the checker of a folder, and ends the process."""
    signal.alarm(limit)
    log = os.open(output, os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = folder
    os.chdir(ROOT)
    options = ["-n0", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    os._exit(int(pytest.main([*options, *arguments])))


def chosen(count, seed, only=""):
    """Random mutants: every file has its share, and no mutant comes twice."""
    files = [f for p in PARTS for f in sorted((ROOT / p).rglob("*.py")) if only in str(f)]
    all_places = [(f, *place) for f in files for place in places(f)]
    return random.Random(seed).sample(all_places, min(count, len(all_places)))


def main():
    """Runs mutants and writes one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the path of the sources")
    parser.add_argument("--out", default="mutants.jsonl")
    parser.add_argument("--profile", default="not slow", help="which tests run, as for pytest -m")
    options = parser.parse_args()
    alive = 0
    with open(options.out, "a") as out:
        for file, index, way, line, text in chosen(options.count, options.seed, options.only):
            by = killed(file, index, way, extra=["-m", options.profile])
            alive += not by
            where = f"{file.relative_to(ROOT)}:{line}"
            record = {"where": where, "node": index, "way": way, "change": text, "killed by": by}
            print(json.dumps(record), file=out, flush=True)
            print(f"{'killed' if by else 'SURVIVED'}: {where}: {text}", flush=True)
    print(f"{options.count} mutants, {alive} survivors")


if __name__ == "__main__":
    assert jax.__version__
    main()
