"""Cells of the table of practice: one program in one mode, exact or refused; counted from the command line.

    python tests/laws/practice_cells.py [--execute] [--time] [theme or name ...]

Modes that give the same program, by its digest, are run once.
"""

import collections
import sys
import time
import warnings
from typing import Any

import jax
import numpy as np
from practice import MODES, PROGRAMS, Practice

import secfad as fad
from secfad.errors import SecfadError, TracingError


def assert_close(got, expected, tolerance):
    """Equal structures, dtypes and numbers, relative to the largest entry of each leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype, (a.dtype, b.dtype)
        a, b = np.asarray(a, complex), np.asarray(b, complex)
        assert np.isfinite(b).all()
        limit = tolerance * max(np.abs(b).max(initial=0), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=limit)


def derived(case: Practice, mode: str) -> fad.Computation:
    """The computation of one mode; "value" is the program itself."""
    return case.computation if mode == "value" else case.derivative(mode)


def computed(case: Practice, mode: str, *, execute: bool) -> Any:
    """The value or derivative, simulated or message by message."""
    computation = derived(case, mode)
    if execute:
        return fad.execute(fad.trace(computation, *case.specs()), *case.args())
    return fad.simulate(computation)(*case.args())


def expected(case: Practice, mode: str) -> Any:
    """The same by plain JAX."""
    fun = case.oracle if mode == "value" else case.jacobian(case.oracle)
    return jax.jit(fun)(*case.args())


def answers(case: Practice, *, execute: bool) -> dict[str, str]:
    """What becomes of every cell: "exact", "refused" as stated, or what went wrong."""
    value, slope = expected(case, "value"), expected(case, "derivative")
    known: dict[str, str] = {}
    found = {}
    for mode in ("value", *MODES):
        try:
            digest = _digest(fad.trace(derived(case, mode), *case.specs())) or mode
            if digest not in known:
                got = computed(case, mode, execute=execute)
                known[digest] = _compared(got, value if mode == "value" else slope, case.tolerance)
            answer = known[digest]
            if mode in case.refused:
                answer = "ACCEPTED though stated as refused"
        except SecfadError as error:
            answer = _judged(case, mode, error)
        except Exception as error:
            answer = f"CRASH {type(error).__name__}: {str(error)[:600]}"
        found[mode] = answer
    return found


def _digest(program: fad.Program) -> str:
    """Empty for programs with primitives of other libraries, some of which hold functions."""
    try:
        return program.digest
    except TracingError:
        return ""


def _judged(case: Practice, mode: str, error: SecfadError) -> str:
    stated = case.refused.get(mode)
    if stated is not None and isinstance(error, stated[0]) and stated[1] in str(error):
        return "refused"
    return f"UNSTATED {type(error).__name__}: {str(error)[:400]}"


def _compared(got: Any, wanted: Any, tolerance: float) -> str:
    try:
        assert_close(got, wanted, tolerance)
    except AssertionError as error:
        return f"WRONG {' '.join(str(error).split())[:300]}"
    return "exact"


def main(words: list[str]) -> None:
    """Prints every cell that is neither exact nor refused as stated, then the counts."""
    import programs_of_practice

    assert programs_of_practice.THEMES
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    warnings.simplefilter("ignore")
    chosen = [w for w in words if not w.startswith("--")]
    counts: collections.Counter = collections.Counter()
    for case in PROGRAMS.values():
        if chosen and case.theme not in chosen and case.name not in chosen:
            continue
        start = time.process_time()
        try:
            found = answers(case, execute="--execute" in words)
        except Exception as error:
            found = {"oracle": f"ORACLE {type(error).__name__} {str(error)[:300]}"}
        counts.update(answer.split()[0] for answer in found.values())
        for mode, answer in found.items():
            if answer not in ("exact", "refused"):
                print(f"{case.name:45s} {mode:9s} {answer}", flush=True)
        if "--time" in words:
            print(f"{case.name:45s} {time.process_time() - start:.1f} s", flush=True)
    print(len(PROGRAMS), "programs;", dict(counts))


if __name__ == "__main__":
    main(sys.argv[1:])
